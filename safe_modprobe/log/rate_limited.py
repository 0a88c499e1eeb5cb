"""Count requests and records together with all other helpers, and write the records that are not too many.

The file in /run has its size from the beginning, so that it can be written where /run is full later. Whatever fails
(the lock, the file, its content): then nothing is counted, and the record is written.
"""

import fcntl
import os
import time
from _collections_abc import Callable, Mapping

from safe_modprobe.log.counts import (
    MAX_SUMMARIES,
    SIZE,
    Admitted,
    Counts,
    Repeats,
    admit,
    close_windows,
    count_request,
    dump,
    parse,
)
from safe_modprobe.log.counts_file import COUNTS, PENDING, lock
from safe_modprobe.log.record import record
from safe_modprobe.log.report import (
    count_key,
    fields,
    line,
    needs_record,
    priority,
    repeats_fields,
    repeats_line,
    repeats_priority,
)
from safe_modprobe.model import Verdict
from safe_modprobe.runtime import make_run_folder


def record_verdict(verdict: Verdict) -> None:
    """Count a request, and record its verdict if that is worth it and there are not too many. Never raises."""
    worth = needs_record(verdict)
    total = count_key(verdict)

    def count(counts: Counts) -> Admitted:
        counts = count_request(counts, total, int(time.time()))
        if worth:
            return admit(counts, str(verdict.action), verdict.caller.uid, _now())
        left, due = close_windows(counts, _now(), MAX_SUMMARIES)
        return left, False, due

    if _admitted(worth, count):
        record(line(verdict), priority(verdict), fields(verdict))


def record_trouble(kind: str, uid: int | None, message: str, priority: int, fields: Mapping[str, str]) -> None:
    """Record what is no verdict, if there are not too many of that kind. Never raises."""

    def count(counts: Counts) -> Admitted:
        return admit(counts, kind, uid, _now())

    if _admitted(True, count):
        record(message, priority, fields)


def write_due() -> tuple[Counts, tuple[Repeats, ...]]:
    """Record all counts whose time is over; they, and the rest. Raises OSError."""
    try:
        os.unlink(PENDING)  # before the look: who counts first after it makes it anew
    except FileNotFoundError:
        pass

    def settle(counts: Counts) -> Admitted:
        left, due = close_windows(counts, _now())
        return left, False, due

    left, _, due = _changed(settle)
    _record_repeats(due)
    return left, due


def _admitted(worth: bool, count: Callable[[Counts], Admitted]) -> bool:
    try:
        _, write, due = _changed(count)
    except (OSError, ValueError, MemoryError):
        return worth
    _record_repeats(due)
    if worth and not write:
        _mark_pending()
    return write


def _record_repeats(due: tuple[Repeats, ...]) -> None:
    for each in due:
        record(repeats_line(each), repeats_priority(each), repeats_fields(each))


def _changed(change: Callable[[Counts], Admitted]) -> Admitted:
    """Change the counts, alone at it. Raises OSError."""
    make_run_folder(os.path.dirname(COUNTS))
    fd = os.open(COUNTS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        lock(fd, fcntl.LOCK_EX)
        before = os.read(fd, SIZE)
        if len(before) < SIZE:
            os.posix_fallocate(fd, 0, SIZE)
        changed = change(parse(before))
        os.pwrite(fd, dump(changed[0])[: SIZE - 1] + b"\0", 0)
        return changed
    finally:
        os.close(fd)


def _mark_pending() -> None:
    try:
        os.close(os.open(PENDING, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError:
        pass


def _now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))
