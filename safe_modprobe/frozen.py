"""typing.NamedTuple at a quarter of its cost, since every module request pays for the making of our types.

To a type checker it is typing.NamedTuple. At run time a class costs some 60 µs instead of 250 µs: no source is
compiled for a constructor, and no annotation is checked. What it can do is what we use: defaults, properties,
`_fields`, `_replace()` and `_asdict()`; like any tuple it is frozen, compares and hashes by its values.
"""

TYPE_CHECKING = False  # to a type checker it is true; `import typing` alone costs a third of what the interpreter does

if TYPE_CHECKING:
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
