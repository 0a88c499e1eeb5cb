"""The rate limit of records, and the counts of requests for the metrics; all helpers share them. Pure.

Each user has a budget of MAX_RECORDS in SECONDS for each kind of record. Further records are only counted, and once the
time is over one record reports how many there were. A budget belongs to a real uid in the initial user namespace.
A user with subordinate ids (subuid(5)) has 65,536 uids. So only some uids of a block of 65,536 have their own budget,
and the others of the block share one. The uids below BLOCK belong to accounts and are never subordinate ids.
Their budgets are kept apart, so that subordinate ids cannot suppress the records of an account.
"""

from _collections_abc import Mapping

from safe_modprobe.escape import escape
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import UID_MAX, Action, Origin, Source

MAX_RECORDS, SECONDS = 30, 60
"""Each budget has MAX_RECORDS per SECONDS. A login or a container's start needs fewer, and a journal bears one record
every two seconds for days. They are constants so that the limit holds under a broken policy, too."""

BLOCK = 1 << 16
USERS_PER_BLOCK = 4
"""Uids of a block that may have their own budget: those that make a request first."""

ACCOUNTS, OTHERS = 192, 96
"""Budgets at a time for the uids below BLOCK, and for the uids from BLOCK on. Later uids share one for each kind.

A user's subordinate ids lie in two blocks, each with USERS_PER_BLOCK + 1 budgets: ten for each kind of record. So
a few cooperating users can use up OTHERS for a minute. Then further uids from BLOCK on share one budget for each kind,
while accounts keep theirs. Larger limits would slow down every request.
"""

MAX_SUMMARIES = 8
"""Summaries that one helper writes at most, since its caller waits in the kernel meanwhile."""

LOAD, POLICY, FAILURE, LEFT = "load", "policy", "failure", "left"
"""Kinds of records besides the verdicts: a failed load, a broken policy, a failed helper that refused the request,
and a failed helper that left the request to modprobe."""

KINDS = (*map(str, Action), LOAD, POLICY, FAILURE, LEFT)

NOTHING = "none"
"""The verdict and origin that are counted for a request which needed no new module."""

MAX_TOTALS = 128
OTHER = "other"
_LONGEST = 64
_DIGITS = 19
SIZE = 1 << 16
"""The largest result of dump(), in bytes."""

_HEAD = "safe-modprobe counts 1"
_UNKNOWN = -1


Total = tuple[str, str, str]
"""The key of a request counter: an Action or NOTHING, the source of the caller, and origin_label()."""


class Budget(NamedTuple):
    """A budget's key: the kind of record, and the uids from `first` to `last`, both -1 for unknown callers."""

    kind: str
    first: int
    last: int


class Window(NamedTuple):
    """A budget's use: records `written` and only `counted` since `start`, in seconds after boot."""

    start: int
    written: int
    counted: int


class Counts(NamedTuple):
    """All counts since boot. `suppressed`: records of each kind that were only counted.

    `refused_at`: the time of the last refusal, in seconds since the epoch.
    """

    totals: Mapping[Total, int] = {}
    suppressed: Mapping[str, int] = {}
    refused_at: int = 0
    windows: Mapping[Budget, Window] = {}


class Repeats(NamedTuple):
    """A summary to be recorded: how many records of this budget were only counted."""

    budget: Budget
    times: int


Admitted = tuple[Counts, bool, tuple[Repeats, ...]]
"""The new counts, whether to write the record, and the summaries to write before it."""


def origin_label(origin: Origin) -> str:
    """Return a policy file's name without the line, or `marker` for a module's marker."""
    if origin.file.startswith("/") or origin.file == "the module's .modinfo":
        return "marker"
    return escape(origin.file).replace(" ", "\\x20")[:_LONGEST] or OTHER


def count_request(counts: Counts, total: Total, now: int) -> Counts:
    """Return the counts with one more request; `now` is in seconds since the epoch."""
    if total not in counts.totals and len(counts.totals) >= MAX_TOTALS:
        total = (*total[:2], OTHER)
    refused_at = now if total[0] == Action.DENY else counts.refused_at
    totals = {**counts.totals, total: counts.totals.get(total, 0) + 1}
    return counts._replace(totals=totals, refused_at=refused_at)


def admit(counts: Counts, kind: str, uid: int | None, now: int) -> Admitted:
    """Charge a record to a user's budget. `uid` is None for an unknown caller, `now` in seconds after boot."""
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
    """Return the budget for a user's record: the user's own, or one that is shared."""
    if uid is None:
        return Budget(kind, _UNKNOWN, _UNKNOWN)
    own = Budget(kind, uid, uid)
    if uid == 0 or own in windows:
        return own
    account = uid < BLOCK
    in_use = [each for each in windows if each.first > 0 and (each.first < BLOCK) is account]
    if len(in_use) >= (ACCOUNTS if account else OTHERS):
        return Budget(kind, 1, BLOCK - 1) if account else Budget(kind, BLOCK, UID_MAX)
    first = uid // BLOCK * BLOCK
    of_block = [each for each in in_use if each.kind == kind and first <= each.first == each.last < first + BLOCK]
    return own if account or len(of_block) < USERS_PER_BLOCK else Budget(kind, first, first + BLOCK - 1)


def close_windows(
    counts: Counts, now: int, limit: int | None = None, first: Budget | None = None
) -> tuple[Counts, tuple[Repeats, ...]]:
    """Remove the windows that are over; return the remaining counts and the summaries to record.

    There are at most `limit` summaries, starting with the budget `first`. The other windows stay for the next call.
    """
    # A window that starts in the future is damaged and would never end, so it counts as over.
    over = [budget for budget, window in counts.windows.items() if not 0 <= now - window.start < SECONDS]
    if not over:
        return counts, ()
    remaining = dict(counts.windows)
    due: list[Repeats] = []
    for budget in sorted(over, key=lambda each: each != first):
        counted = remaining[budget].counted
        if counted and limit is not None and len(due) >= limit:
            continue
        del remaining[budget]
        if counted:
            due.append(Repeats(budget, counted))
    return counts._replace(windows=remaining), tuple(due)


def seconds_until_due(counts: Counts, now: int) -> int | None:
    """Return the seconds until the next summary is due; None if no record was only counted."""
    ends = [window.start + SECONDS - now for window in counts.windows.values() if window.counted]
    return min(max(0, min(ends)), SECONDS) if ends else None


def dump(counts: Counts) -> bytes:
    """Return the counts as text, a line for each number."""
    lines = [_HEAD, f"refused-at {counts.refused_at}"]
    lines += [f"counted {kind} {number}" for kind, number in counts.suppressed.items()]
    lines += [f"request {number} {' '.join(total)}" for total, number in counts.totals.items()]
    lines += [
        f"window {' '.join(map(str, budget))} {' '.join(map(str, window))}" for budget, window in counts.windows.items()
    ]
    return ("\n".join(lines) + "\n").encode()


def parse(untrusted_text: bytes) -> Counts:
    """Parse what dump() wrote, up to the first NUL. Skip invalid lines, which only lets more records be written."""
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
