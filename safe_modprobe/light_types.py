"""typing.NamedTuple and enum.StrEnum at a part of their cost, since every module request pays for our types.

To a type checker they are just those. At run time a NamedTuple costs some 60 µs instead of 250 µs: no source is
compiled for a constructor, and no annotation is checked. What it can do is what we use: defaults, properties,
`_fields`, `_replace()` and `_asdict()`; like any tuple it is frozen, compares and hashes by its values. And `import
enum` alone brings functools and collections along, together half of what the interpreter needs to start; a StrEnum
here is its members, by name, by value and in their order.
"""

TYPE_CHECKING = False  # to a type checker it is true; `import typing` alone costs a third of what the interpreter does

if TYPE_CHECKING:
    from enum import StrEnum as StrEnum
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter as field_getter  # what collections.namedtuple() itself uses

    class _Made(type):
        """Gives a class that is derived from NamedTuple its fields."""

        def __new__(cls, name, bases, body):
            body["__slots__"] = ()
            made = super().__new__(cls, name, bases, body)
            fields = tuple(made.__annotations__) if bases != (tuple,) else ()
            made._fields = fields
            made._defaults = {each: body[each] for each in fields if each in body}
            for index, each in enumerate(fields):
                setattr(made, each, field_getter(index, None))
            return made

    class NamedTuple(tuple, metaclass=_Made):
        """The base of all our types."""

        def __new__(cls, *values, **named):  # noqa: D102
            if not named and len(values) == len(cls._fields):
                return tuple.__new__(cls, values)
            left = cls._fields[len(values) :]
            if len(values) > len(cls._fields) or not named.keys() <= set(left):
                raise TypeError(f"{cls.__name__} has the fields {', '.join(cls._fields)}, and each takes one value")
            rest = cls._defaults | named
            try:
                return tuple.__new__(cls, (*values, *[rest[each] for each in left]))
            except KeyError as missing:
                raise TypeError(f"{cls.__name__} needs a value for {missing}") from None

        def __repr__(self):
            pairs = ", ".join(f"{key}={value!r}" for key, value in self._asdict().items())
            return f"{type(self).__name__}({pairs})"

        def __getnewargs__(self):
            return tuple(self)  # for pickle and copy: a process pool hands values over

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **named):
            made = tuple.__new__(type(self), map(named.pop, self._fields, self))
            if named:
                raise TypeError(f"{type(self).__name__} has no field {', '.join(named)}")
            return made

    class _Words(type):
        """Makes members of the texts of a class that is derived from StrEnum."""

        def __new__(cls, name, bases, body):
            words = {key: value for key, value in body.items() if type(value) is str and not key.startswith("_")}
            made = super().__new__(cls, name, bases, {key: body[key] for key in body if key not in words})
            members = {}
            for key, value in words.items():
                members[value] = member = str.__new__(made, value)
                member.__dict__.update(name=key, value=value)
                type.__setattr__(made, key, member)
            type.__setattr__(made, "_value2member_map_", members)
            return made

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
            raise AttributeError(f"{cls.__name__} is what it was made as")

    class StrEnum(str, metaclass=_Words):
        """The base of all our words."""

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __setattr__(self, name, value):
            raise AttributeError(f"{self!r} is what it was made as")

        __delattr__ = __setattr__

        def __reduce_ex__(self, protocol):
            return type(self), (self.value,)  # the very member, also in another process
