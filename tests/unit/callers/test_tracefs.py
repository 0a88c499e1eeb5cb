"""The memory in which helpers share the traced requests."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_modprobe.callers import tracefs
from safe_modprobe.callers.ring import Event
from safe_modprobe.callers.tracefs import dump_memory, parse_memory, read_requests

ONE = Event(7, 5, True, b"net-pf-38")
TWO = Event(8, 6, False, b"a\nb \xff")


def test_round_trip() -> None:
    assert parse_memory(dump_memory({7: ONE, 8: TWO}, 3)) == ({7: ONE, 8: TWO}, 3)


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"x", b"7 5 1 6e", b"7 5 1 zz\n", b"7 5 1\n", b"7 x 1 6e\n", b"\xff\n", b"7  5 1 6e\n"],
)
def test_a_malformed_line_is_skipped(text: bytes) -> None:
    assert parse_memory(text) == ({}, 0)


def test_a_truncated_last_line_is_skipped() -> None:
    text = dump_memory({7: ONE, 8: TWO}, 3)
    for end in range(len(text) - 1, len(text) - 8, -1):
        assert parse_memory(text[:end]) == ({7: ONE}, 3)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A complete memory with one request, and a ring that holds another one."""
    path = tmp_path / "requests"
    path.write_bytes(dump_memory({7: ONE}, 0))
    monkeypatch.setattr(tracefs, "RUN", str(tmp_path))
    monkeypatch.setattr(tracefs, "MEMORY", str(path))
    monkeypatch.setattr(tracefs, "_drain", lambda folder: ([TWO], None))
    return path


def test_each_helper_adds_to_the_memory(memory: Path) -> None:
    for _ in range(2):
        assert read_requests("") == ({7: ONE, 8: TWO}, False)
    assert parse_memory(memory.read_bytes()) == ({7: ONE, 8: TWO}, 0)


@pytest.mark.parametrize(
    ("when", "kept"),
    [(ONE.time + 1, True), (ONE.time, True), (ONE.time - 1, False), (0, False)],
)
def test_the_memory_keeps_the_newest_event_of_a_task(
    memory: Path, monkeypatch: pytest.MonkeyPatch, when: int, kept: bool
) -> None:
    """A helper reads one CPU after another, so an event of a later CPU may be older than a saved one."""
    fresh = ONE._replace(time=when, name=b"other")
    monkeypatch.setattr(tracefs, "_drain", lambda folder: ([fresh], None))
    assert read_requests("").events == {7: fresh if kept else ONE}
    monkeypatch.setattr(tracefs, "_drain", lambda folder: ([], None))
    assert read_requests("").events == {7: fresh if kept else ONE}, "the next helper must agree"


def killed(*_: object) -> int:
    raise KeyboardInterrupt


def full(fd: int, data: bytes, at: int) -> int:
    if at:
        raise OSError(errno.ENOSPC, "")
    return PWRITE(fd, data, at)


def nearly_full(fd: int, data: bytes, at: int) -> int:
    return PWRITE(fd, data[:5] if at else data, at)


PWRITE = os.pwrite


@pytest.mark.parametrize(
    ("module", "name", "fail"),
    [
        (tracefs, "_drain", killed),
        (tracefs, "_write_memory", killed),
        (os, "ftruncate", killed),
        (os, "pwrite", full),
        (os, "pwrite", nearly_full),
    ],
)
def test_events_that_a_helper_read_but_did_not_save_count_as_lost(
    memory: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str, fail: Callable[..., int]
) -> None:
    """Without these events the trace proves nothing, so no caller is refused because they are missing."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with monkeypatch.context() as broken:
        broken.setattr(module, name, fail)
        with pytest.raises((KeyboardInterrupt, OSError)):
            read_requests("")
    assert read_requests("") == ({8: TWO}, True)
    assert read_requests("") == ({8: TWO}, True), "the loss must not be forgotten"
    assert parse_memory(memory.read_bytes())[1] >= now


def test_a_missing_memory_counts_as_lost_events(memory: Path) -> None:
    memory.unlink()
    assert read_requests("") == ({8: TWO}, True)
