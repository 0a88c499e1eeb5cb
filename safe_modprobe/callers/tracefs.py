"""Read the last request of each task from the module:module_request events of our own tracing instance.

Reading the ring in binary consumes it, and several helpers run at a time. So each helper adds the events that it read
to a small file in /run, the memory, under a lock. Only this module reads or writes the memory.
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
"""The clock in which /proc/TID/stat counts the start time."""

MEMORY = f"{RUN}/requests"
STOOD_DOWN = f"{RUN}/stood-down"
"""This file exists while plain modprobe replaces a helper that no longer runs (packaging/watch)."""

_COMPLETE, _INCOMPLETE = b"0", b"!"
"""The memory's first byte: as dump_memory() writes it, or as a helper leaves it that does not finish."""

MAX_REMEMBERED = 4096  # tasks
MAX_MEMORY = 1 << 20  # bytes
LOSS_WINDOW_NS = 60_000_000_000
"""Nanoseconds for which lost events leave doubt. A helper reads the trace within this time of its request."""


class TracedRequests(NamedTuple):
    """The last request of each task, by TID. `lost` means that some within LOSS_WINDOW_NS may be missing."""

    events: dict[int, Event]
    lost: bool


def active_instance() -> str | None:
    """Return the folder of our tracing instance if it is recording, otherwise None."""
    for root in TRACEFS:
        folder = f"{root}/{INSTANCE}"
        try:
            if read(f"{folder}/{EVENT}/enable").startswith(b"1") and read(f"{folder}/tracing_on").startswith(b"1"):
                return folder
        except OSError:
            continue
    return None


def read_requests(folder: str) -> TracedRequests:
    """Return the last request of each task that the kernel has traced by now. Raises OSError, UntrustedInputError."""
    make_run_folder()
    fd = os.open(MEMORY, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # only root can take it; a helper holds it for some hundred µs
        before = os.read(fd, MAX_MEMORY)
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        events, lost_at = parse_memory(before) if before.startswith(_COMPLETE) else ({}, now)
        # From here on, events that the helper reads are lost if it is killed, or if /run is full. This byte says so.
        os.pwrite(fd, _INCOMPLETE, 0)
        fresh, missed_at = _drain(folder)
        if missed_at is not None:
            lost_at = max(lost_at, missed_at)
            events = {tid: event for tid, event in events.items() if event.time >= missed_at}
        for event in sorted(fresh, key=lambda event: event.time):
            # The helper reads one CPU after another, so an older event may come after a newer one.
            last = events.get(event.tid)
            if event.time >= (missed_at or 0) and (last is None or event.time >= last.time):
                events[event.tid] = event
        _write_memory(fd, dump_memory(_pruned(events), lost_at))
    finally:
        os.close(fd)
    return TracedRequests(events, lost_at > max(now - LOSS_WINDOW_NS, 0))


def _write_memory(fd: int, memory: bytes) -> None:
    """Overwrite the memory. The first byte is written last, and marks it as complete. Raises OSError."""
    if os.pwrite(fd, memory[1:], 1) != len(memory) - 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), MEMORY)
    os.ftruncate(fd, len(memory))
    os.pwrite(fd, _COMPLETE, 0)


def _drain(folder: str) -> tuple[list[Event], int | None]:
    """Read all events from the ring. Return them and the time up to which some were lost, None if none were."""
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
    """Read all pages. A read of exactly the page size gives one page, or EAGAIN when there are no more."""
    pages = []
    try:
        while page := os.read(fd, layout.page_size):
            pages.append(page)
    except BlockingIOError:
        pass
    return pages


def _pruned(events: dict[int, Event]) -> dict[int, Event]:
    """Drop ended tasks once there are many tasks, and keep the latest MAX_REMEMBERED."""
    if len(events) <= MAX_REMEMBERED // 16:
        return events
    alive = [event for event in events.values() if os.path.exists(f"/proc/{event.tid}")]
    alive.sort(key=lambda event: event.time)
    return {event.tid: event for event in alive[-MAX_REMEMBERED:]}


def dump_memory(events: dict[int, Event], lost_at: int) -> bytes:
    """Return `TID TIME WAIT NAME` lines, with the name in hexadecimal. TID 0 stands for the last loss."""
    lines = [f"0 {lost_at} 0 -\n"]
    lines += [f"{tid} {e.time} {e.wait:d} {e.name.hex()}\n" for tid, e in events.items()]
    return "".join(lines).encode()


def parse_memory(text: bytes) -> tuple[dict[int, Event], int]:
    """Parse what dump_memory() wrote. Skip a truncated last line, left by a helper that was killed while writing."""
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
