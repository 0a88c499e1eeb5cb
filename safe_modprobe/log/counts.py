"""What helpers count together: requests, for the metrics, and the records that would be too many. Pure.

Each kind of record has, for each user, a budget of MOST in SECONDS. What exceeds it is counted, and once that time is
over one record says how many there were. The budgets are those of real user ids in the initial user namespace, and a
user with subordinate ids (subuid(5)) has 65,536 of them: so only some ids of a block of 65,536 have budgets of their
own, and the others of that block share one. The ids below the first block are accounts, which no user can take, and
have their own place, so that nobody's subordinate ids ever keep an account's records, or root's, from being written.
"""

from _collections_abc import Mapping

from safe_modprobe.escape import escape
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import UID_MAX, Action, Origin, Source

MAX_RECORDS, SECONDS = 30, 60
"""Records of a kind for each budget in as many seconds. A login or a container that starts asks for less; one every two
seconds is what a journal bears for days. No settings: nothing that the policy decides depends on it, and a policy
that is broken must not take it away."""

BLOCK = 1 << 16
USERS_PER_BLOCK = 4
"""Ids of a block that may have budgets of their own: in a directory service's block of users those who ask first."""

ACCOUNTS, OTHERS = 192, 96
"""Budgets at a time for the ids below BLOCK, and for those from there on; whoever comes later shares one.

A user's subordinate ids lie in two blocks, in each of which a kind of record has OF_A_BLOCK and one: ten of a kind. So
a few users who work together can use OTHERS up, and then all ids from BLOCK on that come later in that minute share one
for each kind: their records are counted, and no account's is kept back. More would make every request dearer.
"""

MAX_SUMMARIES = 8
"""Records of counts that one helper writes on behalf of others: somebody waits for it."""

LOAD, POLICY, FAILURE, LEFT = "load", "policy", "failure", "left"
"""Kinds of records besides the verdicts: a load that failed, a broken policy, a broken helper that refused, or that
left the request to modprobe."""

KINDS = (*map(str, Action), LOAD, POLICY, FAILURE, LEFT)

NOTHING = "none"
"""The verdict, and the origin, of a request for which nothing had to be loaded."""

MAX_TOTALS = 128
OTHER = "other"
_LONGEST = 64
_DIGITS = 19
SIZE = 1 << 16
"""Bytes that dump() never exceeds."""

_HEAD = "safe-modprobe counts 1"
_UNKNOWN = -1


Total = tuple[str, str, str]
"""What requests are counted by: an Action or NOTHING, the source of the caller, and origin_label()."""


class Budget(NamedTuple):
    """Who shares one: this kind of record, for the user ids from `first` to `last`; -1 for callers nobody knows."""

    kind: str
    first: int
    last: int


class Window(NamedTuple):
    """`start` is in seconds after boot; how many records were written since, and how many only counted."""

    start: int
    written: int
    counted: int


class Counts(NamedTuple):
    """All counts. `suppressed`: records of each kind that were only counted. `refused_at`: seconds since the epoch."""

    totals: Mapping[Total, int] = {}
    suppressed: Mapping[str, int] = {}
    refused_at: int = 0
    windows: Mapping[Budget, Window] = {}


class Repeats(NamedTuple):
    """What one record has to say: so many more of this kind, for those users, in SECONDS."""

    budget: Budget
    times: int


Admitted = tuple[Counts, bool, tuple[Repeats, ...]]
"""The new counts, whether the record is to be written, and which records of counts are due before it."""


def origin_label(origin: Origin) -> str:
    """Of a policy file its name, without the line; `marker` for what stands in a module."""
    if origin.file.startswith("/") or origin.file == "the module's .modinfo":
        return "marker"
    return escape(origin.file).replace(" ", "\\x20")[:_LONGEST] or OTHER


def count_request(counts: Counts, total: Total, now: int) -> Counts:
    """One more request; `now` in seconds of the epoch."""
    if total not in counts.totals and len(counts.totals) >= MAX_TOTALS:
        total = (*total[:2], OTHER)
    refused_at = now if total[0] == Action.DENY else counts.refused_at
    totals = {**counts.totals, total: counts.totals.get(total, 0) + 1}
    return counts._replace(totals=totals, refused_at=refused_at)


def admit(counts: Counts, kind: str, uid: int | None, now: int) -> Admitted:
    """A record of this kind for this user, None for one whom nobody knows; `now` in seconds after boot."""
    budget = budget_of(counts.windows, kind, uid)
    counts, due = close_windows(counts, now, MAX_SUMMARIES, budget)
    window = counts.windows.get(budget, Window(now, 0, 0))
    write = window.written < MAX_RECORDS
    if write:
        window = window._replace(written=window.written + 1)
    else:
        window = window._replace(counted=window.counted + 1)
        counts = counts._replace(suppressed={**counts.suppressed, kind: counts.suppressed.get(kind, 0) + 1})
    windows = {**counts.windows, budget: window}
    return counts._replace(windows=windows), write, due


def budget_of(windows: Mapping[Budget, Window], kind: str, uid: int | None) -> Budget:
    """Whose budget it is."""
    if uid is None:
        return Budget(kind, _UNKNOWN, _UNKNOWN)
    own = Budget(kind, uid, uid)
    if uid == 0 or own in windows:
        return own
    account = uid < BLOCK
    beside = [each for each in windows if each.first > 0 and (each.first < BLOCK) is account]
    if len(beside) >= (ACCOUNTS if account else OTHERS):
        return Budget(kind, 1, BLOCK - 1) if account else Budget(kind, BLOCK, UID_MAX)
    first = uid // BLOCK * BLOCK
    of_block = [each for each in beside if each.kind == kind and first <= each.first == each.last < first + BLOCK]
    return own if account or len(of_block) < USERS_PER_BLOCK else Budget(kind, first, first + BLOCK - 1)


def close_windows(
    counts: Counts, now: int, most: int | None = None, certainly: Budget | None = None
) -> tuple[Counts, tuple[Repeats, ...]]:
    """Without the windows that are over, and what is to be recorded of them: at most so many, and `certainly` this.

    A window that begins in the future was written by nobody of ours, and would not end.
    """
    over = [budget for budget, window in counts.windows.items() if not 0 <= now - window.start < SECONDS]
    if not over:
        return counts, ()
    left = dict(counts.windows)
    due: list[Repeats] = []
    for budget in sorted(over, key=lambda each: each != certainly):
        counted = left[budget].counted
        if counted and most is not None and len(due) >= most:
            continue
        del left[budget]
        if counted:
            due.append(Repeats(budget, counted))
    return counts._replace(windows=left), tuple(due)


def seconds_until_due(counts: Counts, now: int) -> int | None:
    """Seconds until the next count can be recorded; None where there is none."""
    ends = [window.start + SECONDS - now for window in counts.windows.values() if window.counted]
    return min(max(0, min(ends)), SECONDS) if ends else None


def dump(counts: Counts) -> bytes:
    """A line for each number."""
    lines = [_HEAD, f"refused-at {counts.refused_at}"]
    lines += [f"counted {kind} {number}" for kind, number in counts.suppressed.items()]
    lines += [f"request {number} {' '.join(total)}" for total, number in counts.totals.items()]
    lines += [
        f"window {' '.join(map(str, budget))} {' '.join(map(str, window))}" for budget, window in counts.windows.items()
    ]
    return ("\n".join(lines) + "\n").encode()


def parse(untrusted_text: bytes) -> Counts:
    """The other direction, up to the first NUL. Whatever is not as dump() writes it is left out: then less is counted,
    and more is recorded."""
    text = untrusted_text.partition(b"\0")[0].decode("ascii", "replace")
    head, *lines = text.split("\n")
    totals: dict[Total, int] = {}
    suppressed: dict[str, int] = {}
    windows: dict[Budget, Window] = {}
    refused_at = 0
    for line in lines if head == _HEAD else ():
        try:
            word, *words = line.split(" ")
            if word == "request":
                number, *label = words
                totals[_total(*label)] = _number(number)
            elif word == "window":
                budget, window = _window(*words)
                windows[budget] = window
            elif word == "counted":
                suppressed[_kind(words[0])] = _number(words[1])
            elif word == "refused-at":
                refused_at = _number(words[0])
        except (ValueError, TypeError, IndexError):
            continue
    return Counts(totals, suppressed, refused_at, windows)


def _total(verdict: str, source: str, origin: str) -> Total:
    if verdict not in (NOTHING, *map(str, Action)):
        raise ValueError(verdict)
    if not (0 < len(origin) <= _LONGEST and origin.isascii() and origin.isprintable()):
        raise ValueError(origin)
    return verdict, str(Source(source)), origin


def _window(kind: str, first: str, last: str, *numbers: str) -> tuple[Budget, Window]:
    start, written, counted = map(_number, numbers)
    if first == last == str(_UNKNOWN):
        return Budget(_kind(kind), _UNKNOWN, _UNKNOWN), Window(start, written, counted)
    return Budget(_kind(kind), _number(first), _number(last)), Window(start, written, counted)


def _kind(word: str) -> str:
    if word not in KINDS:
        raise ValueError(word)
    return word


def _number(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= _DIGITS):
        raise ValueError(word)
    return int(word)
