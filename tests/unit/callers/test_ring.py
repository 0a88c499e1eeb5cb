"""Parse pages of the trace ring, which the test writes as include/linux/ring_buffer.h says."""

import struct

import pytest

from safe_modprobe.callers.ring import Event, Layout, parse_layout, parse_page
from safe_modprobe.errors import UntrustedInputError

HEADER = b"""\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
FORMAT = b"""name: module_request
ID: 401
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned long ip;\toffset:8;\tsize:8;\tsigned:0;
\tfield:bool wait;\toffset:16;\tsize:1;\tsigned:0;
\tfield:__data_loc char[] name;\toffset:20;\tsize:4;\tsigned:0;

print fmt: "%s wait=%d call_site=%ps", __get_str(name), (int)REC->wait, (void *)REC->ip
"""
LAYOUT = Layout(8, 8, 16, 4096, 401, 4, 16, 20)


def record(tid: int, name: bytes, wait: bool = True, kind: int = 401) -> bytes:
    text = name + b"\0"
    data = struct.pack("=HBBiQ?3xI", kind, 0, 0, tid, 0xFFFF, wait, len(text) << 16 | 24) + text
    return data + bytes(-len(data) % 4)


def small(data: bytes, delta: int) -> bytes:
    return struct.pack("=I", delta << 5 | len(data) // 4) + data


def large(data: bytes, delta: int) -> bytes:
    return struct.pack("=II", delta << 5, len(data) + 4) + data


def extend(delta: int) -> bytes:
    return struct.pack("=II", (delta & (1 << 27) - 1) << 5 | 30, delta >> 27)


def stamp(time: int) -> bytes:
    return struct.pack("=II", (time & (1 << 27) - 1) << 5 | 31, time >> 27 & 0xFFFFFFFF)


def padding(size: int) -> bytes:
    return struct.pack("=II", 1 << 5 | 29, size) + bytes(size - 4)


def page(*events: bytes, time: int = 1000, flags: int = 0) -> bytes:
    data = b"".join(events)
    return (struct.pack("=QQ", time, len(data) | flags) + data).ljust(4096, b"\0")


def test_layout() -> None:
    assert parse_layout(HEADER, FORMAT) == LAYOUT


@pytest.mark.parametrize(
    ("header", "event"),
    [
        (b"", FORMAT), (HEADER, b""), (HEADER, FORMAT.replace(b"wait", b"weight")), (HEADER, FORMAT.replace(b"ID: 401", b"ID: x")),
        (HEADER.replace(b"commit", b"comet"), FORMAT), (HEADER.replace(b"size:4080", b"size:many"), FORMAT),
        (HEADER.replace(b"offset:16", b"offset:-16"), FORMAT), (HEADER.replace(b"size:4080", b"size:1048577"), FORMAT),
        (HEADER, FORMAT.replace(b"offset:20", b"offset:-4")), (HEADER, FORMAT.replace(b"ID: 401", b"ID: -1")),
    ],
)  # fmt: skip
def test_a_layout_with_a_missing_or_bad_field_is_an_error(header: bytes, event: bytes) -> None:
    with pytest.raises(UntrustedInputError):
        parse_layout(header, event)


FORGED = b"crypto-x wait=1 call_site=f\n  init-1 [0] 1.0: module_"
PAGES = [
    (page(), []),
    (page(small(record(7, b"a"), 5)), [Event(7, 1005, True, b"a")]),
    (page(large(record(7, b"a"), 5)), [Event(7, 1005, True, b"a")]),
    (page(small(record(7, b"a", wait=False), 0)), [Event(7, 1000, False, b"a")]),
    (page(small(record(7, b"a"), 5), small(record(8, b"b"), 6)), [Event(7, 1005, True, b"a"), Event(8, 1011, True, b"b")]),
    (page(extend(1 << 30), small(record(7, b"a"), 5)), [Event(7, 1005 + (1 << 30), True, b"a")]),
    (page(stamp(123456789012), small(record(7, b"a"), 1)), [Event(7, 123456789013, True, b"a")]),
    (page(padding(40), small(record(7, b"a"), 5)), [Event(7, 1005, True, b"a")]),
    (page(struct.pack("=I", 29), small(record(7, b"a"), 5)), []),
    (page(small(record(7, b"a", kind=402), 5)), []),
    (page(small(record(7, b"a", kind=402), 5), small(record(7, b"b"), 5)), [Event(7, 1010, True, b"b")]),
    (page(small(record(7, FORGED), 5)), [Event(7, 1005, True, FORGED)]),
    (page(small(record(7, b"\xff\n\n"), 5)), [Event(7, 1005, True, b"\xff\n\n")]),
    (page(small(record(7, b""), 5)), [Event(7, 1005, True, b"")]),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "events"), PAGES)
def test_events_of_a_page(raw: bytes, events: list[Event]) -> None:
    assert list(parse_page(raw, LAYOUT).events) == events


def test_a_page_tells_whether_events_were_lost() -> None:
    assert parse_page(page(flags=1 << 31), LAYOUT).missed
    assert not parse_page(page(), LAYOUT).missed


TRUNCATED = [
    b"", bytes(8), struct.pack("=QQ", 0, 4081) + bytes(4080), page(small(record(7, b"a"), 5))[:30],
    page(struct.pack("=II", 0, 5000)), page(struct.pack("=II", 0, 4)), page(struct.pack("=II", 0, 0)),
    page(small(record(7, b"a")[:-4], 5)), page(small(record(7, b"a").replace(b"a\0", b"aa"), 5)), page(struct.pack("=I", 30)),
]  # fmt: skip


@pytest.mark.parametrize("raw", TRUNCATED)
def test_a_truncated_or_inconsistent_page_is_an_error(raw: bytes) -> None:
    with pytest.raises(UntrustedInputError):
        parse_page(raw, LAYOUT)
