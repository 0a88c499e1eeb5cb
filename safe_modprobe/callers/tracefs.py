"""Who asked lately: the module:module_request events of a tracing instance of our own.

Reading the ring in binary consumes it, and several helpers run at a time. So whoever reads adds what it
read to a small memory in /run, under a lock: the last request of each task. That memory is this file's alone.
"""

import errno
import fcntl
import os
import time

from safe_modprobe.callers.ring import Event, Layout, parse_layout, parse_page
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.runtime import RUN, make_run_folder, read

TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
INSTANCE = "instances/safe-modprobe"
EVENT = "events/module/module_request"
CLOCK = "boot"
"""The clock that /proc/TID/stat's start time counts in too."""

MEMORY = f"{RUN}/requests"
STOOD_DOWN = f"{RUN}/stood-down"
"""While it is there, packaging/watch has put plain modprobe in the place of a helper that does not run any more."""

_COMPLETE, _INCOMPLETE = b"0", b"!"
"""The memory's first byte: what dump_memory() starts with, or what a helper left that did not get to its end."""

MAX_REMEMBERED = 4096
MAX_MEMORY = 1 << 20
LOSS_WINDOW_NS = 60_000_000_000
"""ns for which lost events leave doubt: no request waits longer before its helper looks here."""


class TracedRequests(NamedTuple):
    """The last request of each task, by TID; `lost` says that the kernel overwrote some lately."""

    events: dict[int, Event]
    lost: bool


def active_instance() -> str | None:
    """The instance's folder if it is there and listens, otherwise None."""
    for root in TRACEFS:
        folder = f"{root}/{INSTANCE}"
        try:
            if read(f"{folder}/{EVENT}/enable").startswith(b"1") and read(f"{folder}/tracing_on").startswith(b"1"):
                return folder
        except OSError:
            continue
    return None


def read_requests(folder: str) -> TracedRequests:
    """All requests that the kernel has traced up to now. Raises OSError, UntrustedInputError."""
    make_run_folder()
    fd = os.open(MEMORY, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # held for some hundred microseconds, by root alone
        before = os.read(fd, MAX_MEMORY)
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        events, lost_at = parse_memory(before) if before.startswith(_COMPLETE) else ({}, now)
        # What we take out of the ring from here on is lost if we are killed, or the disk is full.
        os.pwrite(fd, _INCOMPLETE, 0)
        fresh, missed_at = _drain(folder)
        if missed_at is not None:
            lost_at = max(lost_at, missed_at)
            events = {tid: event for tid, event in events.items() if event.time >= missed_at}
        for event in sorted(fresh, key=lambda event: event.time):
            # One processor is emptied after another, so that an older event may come out after a newer one.
            last = events.get(event.tid)
            if event.time >= (missed_at or 0) and (last is None or event.time >= last.time):
                events[event.tid] = event
        _write_memory(fd, dump_memory(_pruned(events), lost_at))
    finally:
        os.close(fd)
    return TracedRequests(events, lost_at > max(now - LOSS_WINDOW_NS, 0))


def _write_memory(fd: int, memory: bytes) -> None:
    """Write it in the old one's place; the first byte comes last, and says that all of it is there."""
    if os.pwrite(fd, memory[1:], 1) != len(memory) - 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), MEMORY)
    os.ftruncate(fd, len(memory))
    os.pwrite(fd, _COMPLETE, 0)


def _drain(folder: str) -> tuple[list[Event], int | None]:
    """What the ring holds, and the time up to which events were lost, if any were."""
    root = folder.removesuffix(f"/{INSTANCE}")
    layout = parse_layout(read(f"{root}/events/header_page"), read(f"{root}/{EVENT}/format"))
    events: list[Event] = []
    missed_at = None
    for name in os.listdir(f"{folder}/per_cpu"):
        fd = os.open(f"{folder}/per_cpu/{name}/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for page in _pages(fd, layout):
                parsed = parse_page(page, layout)
                events += parsed.events
                if parsed.missed:
                    missed_at = max(missed_at or 0, parsed.time)
        finally:
            os.close(fd)
    return events, missed_at


def _pages(fd: int, layout: Layout) -> list[bytes]:
    """A read of exactly a page's size gives one page, or EAGAIN when there is no more."""
    pages = []
    try:
        while page := os.read(fd, layout.page_size):
            pages.append(page)
    except BlockingIOError:
        pass
    return pages


def _pruned(events: dict[int, Event]) -> dict[int, Event]:
    """Without ended tasks once there are many, and never more than MAX_REMEMBERED, the latest."""
    if len(events) <= MAX_REMEMBERED // 16:
        return events
    alive = [event for event in events.values() if os.path.exists(f"/proc/{event.tid}")]
    alive.sort(key=lambda event: event.time)
    return {event.tid: event for event in alive[-MAX_REMEMBERED:]}


def dump_memory(events: dict[int, Event], lost_at: int) -> bytes:
    """`TID TIME WAIT NAME` lines, the name in hexadecimal; TID 0 stands for the last loss."""
    lines = [f"0 {lost_at} 0 -\n"]
    lines += [f"{tid} {e.time} {e.wait:d} {e.name.hex()}\n" for tid, e in events.items()]
    return "".join(lines).encode()


def parse_memory(text: bytes) -> tuple[dict[int, Event], int]:
    """The other direction; a line that was cut (a helper killed while it wrote) is left out."""
    events: dict[int, Event] = {}
    lost_at = 0
    for line in text.split(b"\n")[:-1]:
        words = line.split(b" ")
        try:
            tid, when, wait, name = int(words[0]), int(words[1]), words[2] == b"1", words[3]
            if tid == 0:
                lost_at = when
            else:
                events[tid] = Event(tid, when, wait, bytes.fromhex(name.decode()))
        except (IndexError, ValueError):
            continue
    return events, lost_at
