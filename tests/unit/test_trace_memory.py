"""What helpers remember for each other of the trace."""

import pytest

from safe_modprobe.read.ring import Event
from safe_modprobe.read.trace import dump_memory, parse_memory

ONE = Event(7, 5, True, b"net-pf-38")
TWO = Event(8, 6, False, b"a\nb \xff")


def test_round_trip() -> None:
    assert parse_memory(dump_memory({7: ONE, 8: TWO}, 3)) == ({7: ONE, 8: TWO}, 3)


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"x", b"7 5 1 6e", b"7 5 1 zz\n", b"7 5 1\n", b"7 x 1 6e\n", b"\xff\n", b"7  5 1 6e\n"],
)
def test_what_is_no_whole_line_is_left_out(text: bytes) -> None:
    assert parse_memory(text) == ({}, 0)


def test_a_cut_last_line_is_left_out() -> None:
    text = dump_memory({7: ONE, 8: TWO}, 3)
    for end in range(len(text) - 1, len(text) - 8, -1):
        assert parse_memory(text[:end]) == ({7: ONE}, 3)
