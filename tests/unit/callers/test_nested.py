"""Nested requests: the record that a loading helper writes, and the caller that its descendants inherit."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safe_modprobe.callers import nested
from safe_modprobe.callers.kernel_args import UNNAMED_CALLER, claimed_caller
from safe_modprobe.callers.nested import dump_caller, inherited_caller, on_behalf_of, parse_caller
from safe_modprobe.callers.proc import stat
from safe_modprobe.capability import ALL
from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.model import UNKNOWN_CALLER, Caller, Claim, Source
from tests.unit.make import ROOT, USER

FULL = Caller(
    Source.TRACEFS, 1000, 0, frozenset({5, 6}), 7, True, True, False, 9, "a\nb\udcff", "/x y", "u.service", "f [m]"
)  # fmt: skip
MANY_GROUPS = USER._replace(gids=frozenset(range(4_000_000_000, 4_000_065_536)))
"""As many groups as the kernel allows (NGROUPS_MAX). newgidmap(1) lets any user have them in a user namespace."""

CALLERS = [
    FULL,
    ROOT,
    MANY_GROUPS,
    UNKNOWN_CALLER,
    Caller(Source.PROC, 0, 0, frozenset(), ALL, comm="", unit="-", call_site="="),
    Caller(Source.PROC, 0, 0, None, 1, False, None, may_hold=7),
    UNNAMED_CALLER,
    claimed_caller(Claim(True, 1000, capabilities=1 << 12)),
    claimed_caller(Claim(True, 1000)),
    claimed_caller(Claim(True)),
]


@pytest.mark.parametrize("caller", CALLERS)
def test_round_trip(caller: Caller) -> None:
    assert parse_caller(dump_caller(4711, caller)) == (4711, caller)


def test_a_record_omits_the_tasks_that_a_deputy_works_for() -> None:
    assert parse_caller(dump_caller(1, FULL._replace(working_for=(ROOT,))))[1] == FULL


GOOD = dump_caller(4711, FULL)
BAD = [
    b"", b" ", b"x", b"0", GOOD[:-1], GOOD + b" ", GOOD + b"\n", GOOD + b",x", b" " + GOOD, GOOD.replace(b" ", b"  "),
    GOOD.replace(b"4711", b"+4711"), GOOD.replace(b"4711", b"4_711"), GOOD.replace(b"4711", b"04711"),
    GOOD.replace(b"4711", b"-"), GOOD.replace(b" 7 ", b" 0x7 "), GOOD.replace(b" 7 ", b" - "),
    GOOD.replace(b"5,6", b"6,5"), GOOD.replace(b"5,6", b"5,5,6"), GOOD.replace(b"5,6", b"5,-"), GOOD.replace(b"=5,6", b""),
    GOOD.replace(b"=5,6", b"5,6"), GOOD.replace(b"5,6", b"5,"), GOOD.replace(b" 1 1 0 ", b" 2 1 0 "),
    GOOD.replace(b" 1 1 0 ", b" 1 1 - "), GOOD.replace(b"=", b""),
    GOOD.replace(b"=" + b"tracefs".hex().encode(), b"=" + b"root".hex().encode()),
    GOOD.replace(b"=" + b"tracefs".hex().encode(), b"-"), b"\xff" + GOOD, b"9" * 5000 + GOOD, b"{" + GOOD, b"i\0\0\0\0",
]  # fmt: skip


@pytest.mark.parametrize("record", BAD)
def test_a_malformed_record_is_an_error(record: bytes) -> None:
    with pytest.raises(UntrustedInputError, match=r"^the record of a loading helper is malformed$"):
        parse_caller(record)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "loads"
    monkeypatch.setattr("safe_modprobe.callers.nested.FOLDER", str(path))
    monkeypatch.setattr("safe_modprobe.callers.nested.FOLDER", str(path))
    return path


@contextmanager
def child(depth: int) -> Iterator[int]:
    """Start a descendant of this process, `depth` forks away, that waits. Yield its TID."""
    read_end, write_end = os.pipe()
    end_of_test, keep_open = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(keep_open)
            for _ in range(depth - 1):
                if inner := os.fork():
                    os.waitpid(inner, 0)
                    os._exit(0)
            os.write(write_end, b"%d" % os.getpid())
            os.read(end_of_test, 1)  # returns when the test closes the other end
        finally:
            os._exit(0)
    os.close(write_end)
    os.close(end_of_test)
    try:
        yield int(os.read(read_end, 20))
    finally:
        os.close(read_end)
        os.close(keep_open)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("caller", [FULL, USER, UNKNOWN_CALLER, MANY_GROUPS])
def test_descendants_of_a_loading_helper_inherit_its_caller(folder: Path, caller: Caller, depth: int) -> None:
    with child(depth) as tid:
        assert inherited_caller(tid) is None
        with on_behalf_of(caller):
            assert inherited_caller(os.getpid()) == caller
            assert inherited_caller(tid) == caller
        assert inherited_caller(tid) is None


def test_the_nearest_loading_ancestor_counts(folder: Path) -> None:
    with child(1) as tid, on_behalf_of(ROOT):
        (folder / str(tid)).write_bytes(dump_caller(stat(tid).start, USER))
        assert inherited_caller(tid) == USER
        assert inherited_caller(os.getpid()) == ROOT


def test_without_a_load_nothing_is_inherited(folder: Path) -> None:
    assert inherited_caller(os.getpid()) is None
    folder.mkdir()
    assert inherited_caller(os.getpid()) is None


def test_a_sibling_of_a_loading_helper_inherits_nothing(folder: Path) -> None:
    with child(1) as one, child(1) as other:
        folder.mkdir()
        (folder / str(one)).write_bytes(dump_caller(stat(one).start, USER))
        assert inherited_caller(other) is None
        assert inherited_caller(os.getpid()) is None


def test_a_task_below_many_ancestors_that_do_not_load_inherits_nothing(folder: Path) -> None:
    with child(50) as deep, child(1) as other:
        folder.mkdir()
        (folder / str(other)).write_bytes(dump_caller(stat(other).start, USER))
        assert inherited_caller(deep) is None


@pytest.mark.parametrize("shift", [-1, 1, 1000])
def test_a_reused_pid_inherits_nothing(folder: Path, shift: int) -> None:
    folder.mkdir()
    pid = os.getpid()
    (folder / str(pid)).write_bytes(dump_caller(stat(pid).start + shift, USER))
    assert inherited_caller(pid) is None


@pytest.mark.parametrize("record", [b"", b"\0", dump_caller(1, MANY_GROUPS)[:65536]])
def test_a_malformed_record_gives_an_unknown_caller(folder: Path, record: bytes) -> None:
    folder.mkdir()
    (folder / str(os.getpid())).write_bytes(record)
    assert inherited_caller(os.getpid()) == UNKNOWN_CALLER


def test_too_many_ancestors_give_an_unknown_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "_MAX_ANCESTORS", 2)
    with child(4) as tid:
        folder.mkdir()
        (folder / "1").write_bytes(b"")
        assert inherited_caller(tid) == UNKNOWN_CALLER


def test_a_failed_load_removes_its_record(folder: Path) -> None:
    def fail() -> None:
        with on_behalf_of(USER):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "break_it", [lambda path: path.write_text(""), lambda path: path.symlink_to("/nowhere/at/all")]
)
def test_nothing_is_loaded_if_the_record_cannot_be_written(folder: Path, break_it: Callable[[Path], object]) -> None:
    break_it(folder)
    with pytest.raises(OSError, match="File exists"), on_behalf_of(USER):
        pytest.fail("something would have been loaded")


def test_only_root_may_read_or_write_a_record(folder: Path) -> None:
    with on_behalf_of(USER):
        (record,) = folder.iterdir()
        assert (folder.stat().st_mode & 0o777, record.stat().st_mode & 0o777) == (0o700, 0o600)
