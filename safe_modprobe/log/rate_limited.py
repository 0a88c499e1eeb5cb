"""Count requests and records together with all other helpers, and write the records within the rate limit.

The file in /run is allocated in full at first, so that later writes succeed even if /run is full. If the lock or
the file fails, the helper counts nothing and writes the record.
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
    """Count a request, and record its verdict if needs_record() and the rate limit allow it. Never raises."""
    recordable = needs_record(verdict)
    total = count_key(verdict)

    def count(counts: Counts) -> Admitted:
        counts = count_request(counts, total, int(time.time()))
        if recordable:
            return admit(counts, str(verdict.action), verdict.caller.uid, _now())
        remaining, due = close_windows(counts, _now(), MAX_SUMMARIES)
        return remaining, False, due

    if _admitted(recordable, count):
        record(line(verdict), priority(verdict), fields(verdict))


def record_trouble(kind: str, uid: int | None, message: str, priority: int, fields: Mapping[str, str]) -> None:
    """Write a record other than a verdict, within the rate limit of its kind. Never raises."""

    def count(counts: Counts) -> Admitted:
        return admit(counts, kind, uid, _now())

    if _admitted(True, count):
        record(message, priority, fields)


def write_due() -> tuple[Counts, tuple[Repeats, ...]]:
    """Record all summaries that are due; return the remaining counts and these summaries. Raises OSError."""
    try:
        os.unlink(PENDING)  # before the counts are read: a helper that counts afterwards creates it again
    except FileNotFoundError:
        pass

    def close_all(counts: Counts) -> Admitted:
        remaining, due = close_windows(counts, _now())
        return remaining, False, due

    remaining, _, due = _update_counts(close_all)
    _record_repeats(due)
    return remaining, due


def _admitted(recordable: bool, count: Callable[[Counts], Admitted]) -> bool:
    """Count, write the summaries that are due, and return whether to write the record itself."""
    try:
        _, write, due = _update_counts(count)
    except (OSError, ValueError, MemoryError):
        return recordable
    _record_repeats(due)
    if recordable and not write:
        _mark_pending()
    return write


def _record_repeats(due: tuple[Repeats, ...]) -> None:
    for each in due:
        record(repeats_line(each), repeats_priority(each), repeats_fields(each))


def _update_counts(change: Callable[[Counts], Admitted]) -> Admitted:
    """Replace the counts by those that `change` returns, under the lock. Raises OSError."""
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
