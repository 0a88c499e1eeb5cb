"""Parse a page of the kernel's trace ring buffer into events. Pure. It is binary, because names may hold newlines.

The layout is that of include/linux/ring_buffer.h. What differs between kernels is read from the files
events/header_page and events/module/module_request/format.
"""

import struct

from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.light_types import NamedTuple

_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31  # enum ring_buffer_type
_MISSED_EVENTS = 1 << 31  # kernel/trace/ring_buffer.c, RB_MISSED_EVENTS
_COMMIT = (1 << 27) - 1
_DELTA_BITS = 27
_MAX_PAGE = 1 << 20  # bytes; a sub-buffer has a page, or what buffer_subbuf_size_kb says


class Event(NamedTuple):
    """One module:module_request event. `time` is in ns of the instance's clock, `name` is raw bytes."""

    tid: int
    time: int
    wait: bool
    name: bytes


class Layout(NamedTuple):
    """Offsets and sizes in a page and in an event, in bytes."""

    commit: int
    commit_size: int
    data: int
    page_size: int
    event_id: int
    pid: int
    wait: int
    name: int


class Page(NamedTuple):
    """A page's events, oldest first. `missed` means that events before `time` were overwritten."""

    time: int
    missed: bool
    events: tuple[Event, ...]


def parse_layout(header_page: bytes, event_format: bytes) -> Layout:
    """Parse the two layout files. Raises UntrustedInputError when a field is missing or out of bounds."""
    page, event = _fields(header_page), _fields(event_format)
    number = event_format.partition(b"ID: ")[2].split(b"\n", 1)[0]
    try:
        data, size = page["data"]
        layout = Layout(
            *page["commit"],
            data,
            data + size,
            int(number),
            event["common_pid"][0],
            event["wait"][0],
            event["name"][0],
        )
    except (KeyError, ValueError) as error:
        raise UntrustedInputError(f"the kernel's trace format lacks a usable field: {error}") from None
    if min(layout) < 0 or max(layout) > _MAX_PAGE:
        raise UntrustedInputError(f"the kernel's trace format has a number outside 0 to {_MAX_PAGE}")
    return layout


def _fields(text: bytes) -> dict[str, tuple[int, int]]:
    """Parse `field:TYPE NAME;\toffset:O;\tsize:S;` lines into {name: (offset, size)}."""
    fields = {}
    for line in text.decode("ascii", "replace").splitlines():
        words = line.strip().split(";")
        if len(words) >= 3 and words[0].startswith("field:"):
            name = words[0].split()[-1].partition("[")[0]
            try:
                fields[name] = int(words[1].split(":")[1]), int(words[2].split(":")[1])
            except (IndexError, ValueError):
                continue
    return fields


def parse_page(page: bytes, layout: Layout) -> Page:
    """Parse every module_request event in the page. Raises UntrustedInputError for a truncated or inconsistent page."""
    try:
        (time,) = struct.unpack_from("=Q", page)
        (commit,) = struct.unpack_from("=Q" if layout.commit_size == 8 else "=I", page, layout.commit)
        end = layout.data + (commit & _COMMIT)
        if end > len(page):
            raise UntrustedInputError(f"a trace page of {len(page)} bytes claims to have {end}")
        return Page(time, bool(commit & _MISSED_EVENTS), tuple(_events(page[:end], layout, time)))
    except struct.error as error:
        raise UntrustedInputError(f"a trace page is truncated: {error}") from None


def _events(page: bytes, layout: Layout, time: int) -> list[Event]:
    events = []
    at = layout.data
    while at + 4 <= len(page):
        (header,) = struct.unpack_from("=I", page, at)
        kind, delta = header & 31, header >> 5
        at += 4
        if kind == _PADDING and delta == 0:
            break  # the rest of the page is empty
        length = kind * 4
        if kind in (0, _PADDING, _TIME_EXTEND, _TIME_STAMP):
            (extra,) = struct.unpack_from("=I", page, at)
            if kind == _PADDING:
                at += extra
                continue
            at += 4
            if kind == _TIME_EXTEND:
                time += (extra << _DELTA_BITS) + delta
                continue
            if kind == _TIME_STAMP:  # the kernel does not store the five highest bits of 64
                time = time >> 59 << 59 | (extra << _DELTA_BITS) + delta
                continue
            length = extra - 4
        if length <= 0 or at + length > len(page):
            raise UntrustedInputError(f"a trace event of {length} bytes does not fit into its page")
        time += delta
        event = _event(page[at : at + length], layout, time)
        if event is not None:
            events.append(event)
        at += length
    return events


def _event(record: bytes, layout: Layout, time: int) -> Event | None:
    """Parse a record, None for an event of another kind. `name` is a __data_loc: length << 16 | offset."""
    if struct.unpack_from("=H", record)[0] != layout.event_id:
        return None
    (tid,) = struct.unpack_from("=i", record, layout.pid)
    (wait,) = struct.unpack_from("=?", record, layout.wait)
    (location,) = struct.unpack_from("=I", record, layout.name)
    offset, length = location & 0xFFFF, location >> 16
    name = record[offset : offset + length]
    if len(name) != length or not name.endswith(b"\0"):
        raise UntrustedInputError("the name in a trace event is truncated")
    return Event(tid, time, wait, name[:-1])
