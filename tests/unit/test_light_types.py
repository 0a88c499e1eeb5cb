"""light_types.NamedTuple and StrEnum behave like typing's and enum's, as far as the package uses them."""

import copy
import enum
import json
import pickle
import typing
from collections.abc import Callable

import pytest

from safe_modprobe import light_types


class Ours(light_types.NamedTuple):
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
def test_a_named_tuple_can_be_pickled_and_copied(protocol: int) -> None:
    """A pool of processes needs this."""
    value = Ours(1, "x", (2,))
    again = pickle.loads(pickle.dumps(value, protocol))
    assert (again, type(again), copy.copy(value)) == (value, Ours, value)


@pytest.mark.parametrize("use", SAME)
def test_a_named_tuple_behaves_like_typings(use: Callable[[type], object]) -> None:
    assert use(Ours) == use(Theirs)


WRONG: list[Callable[[type], object]] = [
    lambda t: t(), lambda t: t(b="x"), lambda t: t(1, "b", (), 4), lambda t: t(1, d=2), lambda t: t(1, a=2), lambda t: t(1)._replace(d=1),
    lambda t: setattr(t(1), "a", 2), lambda t: setattr(t(1), "new", 2), lambda t: delattr(t(1), "a"),
]  # fmt: skip


@pytest.mark.parametrize("use", WRONG)
def test_a_named_tuple_rejects_what_typings_rejects(use: Callable[[type], object]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            use(kind)


class Word(light_types.StrEnum):
    """A doc string is no member."""

    ONE = "one"
    OTHER = "the-other"

    @property
    def loud(self) -> str:
        return self.value.upper()


class TheirWord(enum.StrEnum):
    """A doc string is no member."""

    ONE = "one"
    OTHER = "the-other"

    @property
    def loud(self) -> str:
        return self.value.upper()


WORDS: list[Callable[[type], object]] = [
    lambda t: [str(each) for each in t], lambda t: len(t), lambda t: t("one") is t.ONE, lambda t: t(t.ONE) is t.ONE,
    lambda t: (t.ONE.name, t.ONE.value, type(t.ONE.value)), lambda t: t.ONE == "one", lambda t: t.ONE == t.OTHER, lambda t: t.ONE is t.OTHER,
    lambda t: f"{t.OTHER:>12}|{t.OTHER}|{t.OTHER!s}", lambda t: repr(t.ONE).partition(".")[2], lambda t: t.ONE.loud,
    lambda t: {t.ONE: 1}["one"], lambda t: {"one": 1}[t.ONE], lambda t: hash(t.ONE) == hash("one"), lambda t: sorted(t), lambda t: list(t).index(t.OTHER),
    lambda t: json.dumps({t.ONE: t.OTHER}), lambda t: isinstance(t.ONE, str) and isinstance(t.ONE, t), lambda t: t.ONE in tuple(t),
    lambda t: t.__doc__, lambda t: ",".join(t), lambda t: copy.deepcopy(t.ONE) is t.ONE, lambda t: copy.copy(t.ONE) is t.ONE, lambda t: bool(t.ONE),
]  # fmt: skip


@pytest.mark.parametrize("use", WORDS)
def test_a_str_enum_behaves_like_enums(use: Callable[[type], object]) -> None:
    assert use(Word) == use(TheirWord)


WRONG_WORDS: list[Callable[[type], object]] = [
    lambda t: t("ONE"), lambda t: t(""), lambda t: t(None), lambda t: t([]), lambda t: t(), lambda t: t.TWO, lambda t: t("one", "x"),
    lambda t: setattr(t, "ONE", "x"), lambda t: setattr(t.ONE, "value", "x"), lambda t: setattr(t.ONE, "name", "x"),
    lambda t: delattr(t.ONE, "name"),
]  # fmt: skip


@pytest.mark.parametrize("use", WRONG_WORDS)
def test_a_str_enum_rejects_what_enums_rejects(use: Callable[[type], object]) -> None:
    for kind in (Word, TheirWord):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            use(kind)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_unpickled_member_is_the_same_object(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(Word.ONE, protocol)) is Word.ONE
