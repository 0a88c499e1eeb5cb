"""Our NamedTuple does what typing's does, as far as we use it."""

import typing
from collections.abc import Callable

import pytest

from safe_modprobe import frozen


class Ours(frozen.NamedTuple):
    a: int
    b: str = "b"
    c: tuple[int, ...] = ()

    @property
    def both(self) -> str:
        return f"{self.a}{self.b}"


class Theirs(typing.NamedTuple):
    a: int
    b: str = "b"
    c: tuple[int, ...] = ()

    @property
    def both(self) -> str:
        return f"{self.a}{self.b}"


SAME: list[Callable[[type], object]] = [
    lambda T: tuple(T(1)), lambda T: tuple(T(1, "x", (2,))), lambda T: tuple(T(a=1, c=(3,))), lambda T: tuple(T(1, c=(3,))),
    lambda T: T(1)._asdict(), lambda T: tuple(T(1)._replace(b="y")), lambda T: T(1).both, lambda T: T._fields,
    lambda T: T(1) == T(1), lambda T: T(1) == T(2), lambda T: hash(T(1)) == hash((1, "b", ())), lambda T: (T(1).a, T(1).b, T(1).c),
    lambda T: repr(T(1)).partition("(")[2],
]  # fmt: skip


@pytest.mark.parametrize("use", SAME)
def test_same_as_typings(use: Callable[[type], object]) -> None:
    assert use(Ours) == use(Theirs)


WRONG: list[Callable[[type], object]] = [
    lambda T: T(), lambda T: T(b="x"), lambda T: T(1, "b", (), 4), lambda T: T(1, d=2), lambda T: T(1, a=2), lambda T: T(1)._replace(d=1),
    lambda T: setattr(T(1), "a", 2), lambda T: setattr(T(1), "new", 2), lambda T: delattr(T(1), "a"),
]  # fmt: skip


@pytest.mark.parametrize("use", WRONG)
def test_wrong_as_typings(use: Callable[[type], object]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            use(kind)
