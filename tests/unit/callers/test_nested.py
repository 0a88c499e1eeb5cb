"""For whom a helper loads: what it writes of itself, and what its children's requests inherit."""

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
CROWD = USER._replace(gids=frozenset(range(4_000_000_000, 4_000_065_536)))
"""As many groups as the kernel allows (NGROUPS_MAX), which newgidmap(1) gives to any user of a namespace."""

CALLERS = [
    FULL,
    ROOT,
    CROWD,
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


def test_those_behind_a_deputy_are_left_out() -> None:
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
def test_what_no_helper_wrote(record: bytes) -> None:
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
    """The TID of a process that this one started, through so many others, and that waits."""
    there, here = os.pipe()
    go, stop = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(stop)
            for _ in range(depth - 1):
                if inner := os.fork():
                    os.waitpid(inner, 0)
                    os._exit(0)
            os.write(here, b"%d" % os.getpid())
            os.read(go, 1)  # the end of the test closes it
        finally:
            os._exit(0)
    os.close(here)
    os.close(go)
    try:
        yield int(os.read(there, 20))
    finally:
        os.close(there)
        os.close(stop)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("caller", [FULL, USER, UNKNOWN_CALLER, CROWD])
def test_children_inherit(folder: Path, caller: Caller, depth: int) -> None:
    with child(depth) as tid:
        assert inherited_caller(tid) is None
        with on_behalf_of(caller):
            assert inherited_caller(os.getpid()) == caller
            assert inherited_caller(tid) == caller
        assert inherited_caller(tid) is None


def test_the_nearest_counts(folder: Path) -> None:
    with child(1) as tid, on_behalf_of(ROOT):
        (folder / str(tid)).write_bytes(dump_caller(stat(tid).start, USER))
        assert inherited_caller(tid) == USER
        assert inherited_caller(os.getpid()) == ROOT


def test_nobody_loads(folder: Path) -> None:
    assert inherited_caller(os.getpid()) is None
    folder.mkdir()
    assert inherited_caller(os.getpid()) is None


def test_a_parents_parent_is_not_asked_by_its_sibling(folder: Path) -> None:
    with child(1) as one, child(1) as other:
        folder.mkdir()
        (folder / str(one)).write_bytes(dump_caller(stat(one).start, USER))
        assert inherited_caller(other) is None
        assert inherited_caller(os.getpid()) is None


def test_who_is_far_below_nobody_who_loads_is_still_himself(folder: Path) -> None:
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


@pytest.mark.parametrize("record", [b"", b"\0", dump_caller(1, CROWD)[:65536]])
def test_a_broken_record_is_somebody_unknown_and_not_nobody(folder: Path, record: bytes) -> None:
    folder.mkdir()
    (folder / str(os.getpid())).write_bytes(record)
    assert inherited_caller(os.getpid()) == UNKNOWN_CALLER


def test_a_chain_without_an_end_is_somebody_unknown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "_MAX_ANCESTORS", 2)
    with child(4) as tid:
        folder.mkdir()
        (folder / "1").write_bytes(b"")
        assert inherited_caller(tid) == UNKNOWN_CALLER


def test_the_record_goes_with_a_failure(folder: Path) -> None:
    def fail() -> None:
        with on_behalf_of(USER):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "break_it", [lambda path: path.write_text(""), lambda path: path.symlink_to("/nowhere/at/all")]
)
def test_what_cannot_be_said_is_an_error_before_anything_is_loaded(
    folder: Path, break_it: Callable[[Path], object]
) -> None:
    break_it(folder)
    with pytest.raises(OSError, match="File exists"), on_behalf_of(USER):
        pytest.fail("something would have been loaded")


def test_nobody_else_may_look_or_write(folder: Path) -> None:
    with on_behalf_of(USER):
        (record,) = folder.iterdir()
        assert (folder.stat().st_mode & 0o777, record.stat().st_mode & 0o777) == (0o700, 0o600)
