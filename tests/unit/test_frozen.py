"""Our NamedTuple does what typing's does, as far as we use it."""

import copy
import pickle
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
    lambda t: tuple(t(1)), lambda t: tuple(t(1, "x", (2,))), lambda t: tuple(t(a=1, c=(3,))), lambda t: tuple(t(1, c=(3,))),
    lambda t: t(1)._asdict(), lambda t: tuple(t(1)._replace(b="y")), lambda t: t(1).both, lambda t: t._fields,
    lambda t: t(1) == t(1), lambda t: t(1) == t(2), lambda t: hash(t(1)) == hash((1, "b", ())), lambda t: (t(1).a, t(1).b, t(1).c),
    lambda t: repr(t(1)).partition("(")[2],
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_goes_through_a_pipe(protocol: int) -> None:
    """To a pool of processes and back."""
    value = Ours(1, "x", (2,))
    again = pickle.loads(pickle.dumps(value, protocol))
    assert (again, type(again), copy.copy(value)) == (value, Ours, value)


@pytest.mark.parametrize("use", SAME)
def test_same_as_typings(use: Callable[[type], object]) -> None:
    assert use(Ours) == use(Theirs)


WRONG: list[Callable[[type], object]] = [
    lambda t: t(), lambda t: t(b="x"), lambda t: t(1, "b", (), 4), lambda t: t(1, d=2), lambda t: t(1, a=2), lambda t: t(1)._replace(d=1),
    lambda t: setattr(t(1), "a", 2), lambda t: setattr(t(1), "new", 2), lambda t: delattr(t(1), "a"),
]  # fmt: skip


@pytest.mark.parametrize("use", WRONG)
def test_wrong_as_typings(use: Callable[[type], object]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            use(kind)
