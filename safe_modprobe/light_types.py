"""Cheap replacements for typing.NamedTuple and enum.StrEnum, since each module request pays for their definition.

A type checker sees the originals. At run time a NamedTuple class costs about 60 µs instead of 250 µs, because it
compiles no constructor and checks no annotation. It supports defaults, properties, `_fields`, `_replace()` and
`_asdict()`, and behaves like a tuple otherwise. A StrEnum supports its members by name, by value and in order.
`import enum` would load functools and collections, which adds half of the interpreter's start-up time.
"""

# A type checker takes this for true. `import typing` would add a third of the interpreter's start-up time.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from enum import StrEnum as StrEnum
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter as field_getter  # collections.namedtuple() uses it, too

    class _NamedTupleMeta(type):
        """Give a class derived from NamedTuple its fields."""

        def __new__(cls, name, bases, body):
            body["__slots__"] = ()
            created = super().__new__(cls, name, bases, body)
            fields = tuple(created.__annotations__) if bases != (tuple,) else ()
            created._fields = fields
            created._defaults = {each: body[each] for each in fields if each in body}
            for index, each in enumerate(fields):
                setattr(created, each, field_getter(index, None))
            return created

    class NamedTuple(tuple, metaclass=_NamedTupleMeta):
        """The base of all named tuples of this package."""

        def __new__(cls, *values, **keywords):  # noqa: D102
            if not keywords and len(values) == len(cls._fields):
                return tuple.__new__(cls, values)
            remaining = cls._fields[len(values) :]
            if len(values) > len(cls._fields) or not keywords.keys() <= set(remaining):
                raise TypeError(f"{cls.__name__} has the fields {', '.join(cls._fields)}, and each takes one value")
            named_values = cls._defaults | keywords
            try:
                return tuple.__new__(cls, (*values, *[named_values[each] for each in remaining]))
            except KeyError as missing:
                raise TypeError(f"{cls.__name__} needs a value for {missing}") from None

        def __repr__(self):
            pairs = ", ".join(f"{key}={value!r}" for key, value in self._asdict().items())
            return f"{type(self).__name__}({pairs})"

        def __getnewargs__(self):
            return tuple(self)  # for pickle and copy, which a process pool uses

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes):
            replaced = tuple.__new__(type(self), map(changes.pop, self._fields, self))
            if changes:
                raise TypeError(f"{type(self).__name__} has no field {', '.join(changes)}")
            return replaced

    class _StrEnumMeta(type):
        """Turn the string attributes of a class derived from StrEnum into its members."""

        def __new__(cls, name, bases, body):
            texts = {key: value for key, value in body.items() if type(value) is str and not key.startswith("_")}
            created = super().__new__(cls, name, bases, {key: body[key] for key in body if key not in texts})
            members = {}
            for key, value in texts.items():
                members[value] = member = str.__new__(created, value)
                member.__dict__.update(name=key, value=value)
                type.__setattr__(created, key, member)
            type.__setattr__(created, "_value2member_map_", members)
            return created

        def __call__(cls, value):
            try:
                return cls._value2member_map_[value]
            except (KeyError, TypeError):
                raise ValueError(f"{value!r} is not a valid {cls.__name__}") from None

        def __iter__(cls):
            return iter(cls._value2member_map_.values())

        def __len__(cls):
            return len(cls._value2member_map_)

        def __setattr__(cls, name, value):
            raise AttributeError(f"{cls.__name__} cannot be changed")

    class StrEnum(str, metaclass=_StrEnumMeta):
        """The base of all string enumerations of this package."""

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __setattr__(self, name, value):
            raise AttributeError(f"{self!r} cannot be changed")

        __delattr__ = __setattr__

        def __reduce_ex__(self, protocol):
            return type(self), (self.value,)  # unpickling returns the same member
