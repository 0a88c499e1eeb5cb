"""Compare glob patterns: whether one covers everything another one matches, or whether both overlap.

A glob(7) pattern is a small automaton: each position in the pattern is a state, and `*` stays in its state. The
comparison walks both automata at once. Above MAX_STATES the answer is the one that claims less.
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
"""States visited in one comparison. Many stars in many patterns make exponentially many."""

_TOKEN = re.compile(r"\[(?:![\s\S]|[^!])[^\]]*\]|[\s\S]")
_WILD = re.compile(r"[*?[]")
_State = frozenset[int]


def is_literal(pattern: str) -> bool:
    """Whether the pattern matches only itself."""
    return not _WILD.search(pattern)


def literal_prefix(pattern: str) -> str:
    """Return the prefix of every text that the pattern matches."""
    return _WILD.split(pattern, 1)[0]


class PatternSet:
    """Patterns as the union of what they match. Texts with a character of `without` do not exist."""

    def __init__(self, patterns: Iterable[str], without: str = "") -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        self._without = without
        self._every = frozenset(self.patterns)
        self._wild = tuple(each for each in self.patterns if not is_literal(each))
        self._known: dict[str, bool] = {}

    def covers(self, narrow: str) -> bool:
        """Whether the set matches every text that `narrow` matches. False if the comparison is too big."""
        if narrow in self._every or "*" in self._every:
            return True
        if is_literal(narrow):
            # The most frequent case comes first: lists of thousands of names.
            return any(glob(each, narrow) for each in self._wild) or bool(set(self._without) & set(narrow))
        if narrow not in self._known:
            self._known[narrow] = self._covers_together(narrow)
        return self._known[narrow]

    def _covers_together(self, narrow: str) -> bool:
        prefix = literal_prefix(narrow)
        near = tuple(each for each in self.patterns if _prefixes_meet(literal_prefix(each), prefix))
        # A pattern that covers `narrow` matches its example too. This cheap test fails for most patterns.
        text = _example(narrow)
        matching = near
        if text is not None and not set(self._without) & set(text):
            matching = tuple(each for each in near if glob(each, text))
            if not matching:
                return False
        # Try single patterns first: mostly one suffices, and several together have many more states.
        return any(_covers((each,), narrow, self._without) for each in matching) or (
            len(near) != 1 and _covers(near, narrow, self._without)
        )


def overlap(one: str, other: str, without: str = "") -> bool:
    """Whether both match a common text. True if the comparison is too big."""
    if not _prefixes_meet(literal_prefix(one), literal_prefix(other)):
        return False
    if "*" in (one, other):
        return not matches_nothing(other if one == "*" else one, without)
    if is_literal(one) or is_literal(other):
        text, pattern = (one, other) if is_literal(one) else (other, one)
        return not set(without) & set(text) and glob(pattern, text)
    return any(accepted is None or all(accepted) for accepted in _walk((one, other), without, needed=2))


def matches_nothing(pattern: str, without: str = "") -> bool:
    """Whether the pattern matches no text: it has a reversed range, or a character of `without`."""
    if "[" not in pattern and not set(without) & set(pattern):
        return False
    return _covers((), pattern, without)


class PatternIndex:
    """An index of many patterns by their literal prefix."""

    def __init__(self, patterns: Iterable[str], without: str = "") -> None:
        self._without = without
        self._sorted = sorted((literal_prefix(each), each) for each in set(patterns))
        self._open = frozenset(prefix for prefix, each in self._sorted if prefix != each)

    def meets(self, pattern: str) -> bool:
        """Whether the pattern overlaps with a pattern of the index."""
        prefix = literal_prefix(pattern)
        shorter = [prefix[:length] for length in range(len(prefix)) if prefix[:length] in self._open]
        near = (each for start in shorter for each in self._from(start, exactly=True))
        return any(
            overlap(pattern, each, self._without)
            for each in chain(near, self._from(prefix, exactly=is_literal(pattern)))
        )

    def _from(self, prefix: str, exactly: bool) -> Iterator[str]:
        """Yield the patterns whose prefix starts with this one or, with `exactly`, equals it."""
        for index in range(bisect_left(self._sorted, (prefix,)), len(self._sorted)):
            start, pattern = self._sorted[index]
            if not start.startswith(prefix) or (exactly and start != prefix):
                return
            yield pattern


def _example(pattern: str) -> str | None:
    """Return a text that the pattern matches, with \\1 for each wildcard; None if that text does not match."""
    text = _TOKEN.sub(lambda token: "\1" if _WILD.match(token[0]) else token[0], pattern)
    return text if glob(pattern, text) else None


def _prefixes_meet(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _covers(wide: tuple[str, ...], narrow: str, without: str) -> bool:
    for accepted in _walk((narrow, *wide), without, needed=1):
        if accepted is None or (accepted[0] and not any(accepted[1:])):
            return False
    return True


def _walk(patterns: Sequence[str], without: str, needed: int) -> Iterator[list[bool] | None]:
    """Yield which patterns match, for each text that the first `needed` patterns can still match. None is the bound."""
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
    """A regular expression for each position that matches one character, and None for a star."""

    positions: tuple[re.Pattern[str] | None, ...]

    def start(self) -> _State:
        return self._closed({0})

    def accepts(self, state: _State) -> bool:
        return len(self.positions) in state

    def step(self, state: _State, char: str) -> _State:
        after = set()
        for index in state:
            if index < len(self.positions):
                position = self.positions[index]
                if position is None:
                    after.add(index)
                elif position.match(char):
                    after.add(index + 1)
        return self._closed(after)

    def _closed(self, indexes: set[int]) -> _State:
        """Return the states, and those reached when a star matches nothing."""
        found = set(indexes)
        for index in indexes:
            while index < len(self.positions) and self.positions[index] is None:
                index += 1
                found.add(index)
        return frozenset(found)


@lru_cache(4096)
def _compiled(pattern: str) -> _Pattern:
    # fnmatch translates each token, so that a bracket has the same meaning as in the helper.
    return _Pattern(tuple(None if token == "*" else re.compile(translate(token)) for token in _TOKEN.findall(pattern)))


def _alphabet(patterns: Iterable[str], without: str) -> list[str]:
    """Return one character for each class of characters that these patterns treat alike."""
    return sorted(set(_boundaries("".join(patterns) + without)) - set(without))


def _boundaries(text: str) -> Iterator[str]:
    # A bracket matches single characters and ranges. So the result changes only at a character of the pattern, and
    # directly after one.
    yield "\0"
    for char in set(text):
        yield char
        if ord(char) < 0x10FFFF:
            yield chr(ord(char) + 1)
