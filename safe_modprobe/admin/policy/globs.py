"""Patterns against patterns: whether one matches all that another one does, or anything that it does.

A pattern of glob(7) is a small automaton: a place in the pattern is a state, `*` stays where it is. Two are compared by
walking both at once. Exact, but for one bound: whoever meets it hears the answer that claims less.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from functools import lru_cache
from itertools import chain

from safe_modprobe.light_types import NamedTuple
from safe_modprobe.policy.match import glob

MAX_STATES = 4096
"""Of one comparison: many stars in many patterns make exponentially many."""

_TOKEN = re.compile(r"\[(?:![\s\S]|[^!])[^\]]*\]|[\s\S]")
_WILD = re.compile(r"[*?[]")
_State = frozenset[int]


def is_literal(pattern: str) -> bool:
    """Whether it matches nothing but itself."""
    return not _WILD.search(pattern)


def literal_prefix(pattern: str) -> str:
    """What every text that it matches begins with."""
    return _WILD.split(pattern, 1)[0]


class PatternSet:
    """Some patterns, as what they match together. Texts with a character of `without` are none."""

    def __init__(self, patterns: Iterable[str], without: str = "") -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        self._without = without
        self._every = frozenset(self.patterns)
        self._wild = tuple(each for each in self.patterns if not is_literal(each))
        self._known: dict[str, bool] = {}

    def covers(self, narrow: str) -> bool:
        """Whether every text that this pattern matches is matched here. False where the comparison is too big."""
        if narrow in self._every or "*" in self._every:
            return True
        if is_literal(narrow):
            # First of all what most are asked: lists of thousands of names against each other.
            return any(glob(each, narrow) for each in self._wild) or bool(set(self._without) & set(narrow))
        if narrow not in self._known:
            self._known[narrow] = self._together(narrow)
        return self._known[narrow]

    def _together(self, narrow: str) -> bool:
        begin = literal_prefix(narrow)
        near = tuple(each for each in self.patterns if _near(literal_prefix(each), begin))
        # Whoever covers it takes this text of its too, which is quickly asked and mostly nobody does.
        text = _example(narrow)
        takers = near
        if text is not None and not set(self._without) & set(text):
            takers = tuple(each for each in near if glob(each, text))
            if not takers:
                return False
        # By themselves first: most are covered by a single one, and several together make many more states.
        return any(_covers((each,), narrow, self._without) for each in takers) or (
            len(near) != 1 and _covers(near, narrow, self._without)
        )


def overlap(one: str, other: str, without: str = "") -> bool:
    """Whether some text is matched by both. True where the comparison is too big."""
    if not _near(literal_prefix(one), literal_prefix(other)):
        return False
    if "*" in (one, other):
        return not matches_nothing(other if one == "*" else one, without)
    if is_literal(one) or is_literal(other):
        text, pattern = (one, other) if is_literal(one) else (other, one)
        return not set(without) & set(text) and glob(pattern, text)
    return any(accepted is None or all(accepted) for accepted in _walk((one, other), without, needed=2))


def matches_nothing(pattern: str, without: str = "") -> bool:
    """Whether no text at all is matched: a range that runs backwards, a char that never occurs."""
    if "[" not in pattern and not set(without) & set(pattern):
        return False
    return _covers((), pattern, without)


class PatternIndex:
    """Many patterns, of which those that begin alike are quickly found."""

    def __init__(self, patterns: Iterable[str], without: str = "") -> None:
        self._without = without
        self._sorted = sorted((literal_prefix(each), each) for each in set(patterns))
        self._open = frozenset(begin for begin, each in self._sorted if begin != each)

    def meets(self, pattern: str) -> bool:
        """Whether some text is matched by the pattern and by one of these."""
        begin = literal_prefix(pattern)
        shorter = [begin[:length] for length in range(len(begin)) if begin[:length] in self._open]
        near = (each for start in shorter for each in self._from(start, exactly=True))
        return any(
            overlap(pattern, each, self._without)
            for each in chain(near, self._from(begin, exactly=is_literal(pattern)))
        )

    def _from(self, begin: str, exactly: bool) -> Iterator[str]:
        """Those whose prefix begins so, or is just that."""
        for index in range(bisect_left(self._sorted, (begin,)), len(self._sorted)):
            start, pattern = self._sorted[index]
            if not start.startswith(begin) or (exactly and start != begin):
                return
            yield pattern


def _example(pattern: str) -> str | None:
    """A text that it matches, with a character for its wildcards that hardly a pattern names; None if that fails."""
    text = _TOKEN.sub(lambda token: "\1" if _WILD.match(token[0]) else token[0], pattern)
    return text if glob(pattern, text) else None


def _near(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _covers(wide: tuple[str, ...], narrow: str, without: str) -> bool:
    for accepted in _walk((narrow, *wide), without, needed=1):
        if accepted is None or (accepted[0] and not any(accepted[1:])):
            return False
    return True


def _walk(patterns: Sequence[str], without: str, needed: int) -> Iterator[list[bool] | None]:
    """Which of the patterns match, for all texts on which the first `needed` of them can go on. None is the bound."""
    compiled = [_compiled(each) for each in patterns]
    chars = _alphabet(patterns, without)
    seen: set[tuple[_State, ...]] = set()
    todo = [tuple(each.start() for each in compiled)]
    while todo:
        states = todo.pop()
        if states in seen:
            continue
        if len(seen) >= MAX_STATES:
            yield None
            return
        seen.add(states)
        yield [each.accepts(state) for each, state in zip(compiled, states, strict=True)]
        for char in chars:
            after: list[_State] = []
            for each, state in zip(compiled, states, strict=True):
                after.append(each.step(state, char))
                if not after[-1] and len(after) <= needed:
                    break
            else:
                todo.append(tuple(after))


class _Pattern(NamedTuple):
    """A regular expression for each place that takes one character, None for a star."""

    places: tuple[re.Pattern[str] | None, ...]

    def start(self) -> _State:
        return self._closed({0})

    def accepts(self, state: _State) -> bool:
        return len(self.places) in state

    def step(self, state: _State, char: str) -> _State:
        after = set()
        for index in state:
            if index < len(self.places):
                place = self.places[index]
                if place is None:
                    after.add(index)
                elif place.match(char):
                    after.add(index + 1)
        return self._closed(after)

    def _closed(self, indexes: set[int]) -> _State:
        """With all that a star lets one skip to."""
        found = set(indexes)
        for index in indexes:
            while index < len(self.places) and self.places[index] is None:
                index += 1
                found.add(index)
        return frozenset(found)


@lru_cache(4096)
def _compiled(pattern: str) -> _Pattern:
    # Each token by fnmatch itself, so that a bracket means here what it means to the helper.
    return _Pattern(tuple(None if token == "*" else re.compile(translate(token)) for token in _TOKEN.findall(pattern)))


def _alphabet(patterns: Iterable[str], without: str) -> list[str]:
    """One character for each class that no place of these patterns tells apart."""
    return sorted(set(_boundaries("".join(patterns) + without)) - set(without))


def _boundaries(text: str) -> Iterator[str]:
    # A place takes single characters and ranges between characters that it names; so what it takes changes only at
    # one of those, and right after one.
    yield "\0"
    for char in set(text):
        yield char
        if ord(char) < 0x10FFFF:
            yield chr(ord(char) + 1)
