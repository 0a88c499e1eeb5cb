"""Read a task from /proc: texts as the kernel writes them and forged ones, and real children that wait."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safe_modprobe.callers import proc, tasks
from safe_modprobe.callers.proc import Stat, call_site, holds_sys_module, parse_stack
from safe_modprobe.callers.tasks import parse_status, parse_unit, read_caller
from safe_modprobe.capability import ALL
from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.model import Caller, Source

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 0x10000000, 4, 38

STATUS = [
    (b"", {"": ""}),
    (b"Uid:\t1\t2\t3\t4\n", {"Uid": "1\t2\t3\t4", "": ""}),
    (b"Groups:\t \nCapEff:\t000001ffffffffff\n", {"Groups": "", "CapEff": "000001ffffffffff", "": ""}),
    # The kernel writes a newline in the name as \n. Any other byte of the name stays on its line.
    (b"Name:\ta\\nUid:\t0\n", {"Name": "a\\nUid:\t0", "": ""}),
    (b"Name:\ta\rCapEff:\tf\n", {"Name": "a\rCapEff:\tf", "": ""}),
    (b"Name:\t\xff\x0b\x85\n", {"Name": "\udcff\x0b\udc85", "": ""}),
]


@pytest.mark.parametrize(("text", "fields"), STATUS)
def test_status_fields(text: bytes, fields: dict[str, str]) -> None:
    assert parse_status(text) == fields


@pytest.mark.parametrize("key", ["Uid", "Gid", "CapEff", "NoNewPrivs", "Name", "Groups"])
def test_a_key_that_appears_twice_is_an_error(key: str) -> None:
    with pytest.raises(UntrustedInputError, match=rf"^/proc/TID/status: {key} appears twice$"):
        parse_status(f"{key}:\t1\nState:\tR\n{key}:\t0\n".encode())


NUMBERS = [
    ("Uid:\t1\t2\t3\t4", 4, (1, 2, 3, 4)),
    ("Uid:\t4294967295\t0\t0\t0", 4, (4294967295, 0, 0, 0)),
    ("Uid:\t", None, ()),
    ("Uid:\t7 8", None, (7, 8)),
    ("Uid:\t1\t2\t3", 4, None),
    ("Uid:\t1\t2\t3\t4\t5", 4, None),
    ("Uid:\t-1\t2\t3\t4", 4, None),
    ("Uid:\t+1\t2\t3\t4", 4, None),
    ("Uid:\t1_0\t2\t3\t4", 4, None),
    ("Uid:\t0x0\t2\t3\t4", 4, None),
    ("Uid:\t١\t2\t3\t4", 4, None),
    (f"Uid:\t{'9' * 5000}\t2\t3\t4", 4, None),
    ("Uid:\troot", None, None),
    ("Gid:\t0\t0\t0\t0", 4, None),
]


@pytest.mark.parametrize(("text", "count", "numbers"), NUMBERS)
def test_numbers(text: str, count: int | None, numbers: tuple[int, ...] | None) -> None:
    status = parse_status(text.encode())
    if numbers is not None:
        assert tasks._numbers(status, "Uid", count) == numbers
        return
    with pytest.raises(UntrustedInputError):
        tasks._numbers(status, "Uid", count)


MASKS = [
    ("000001ffffffffff", ALL),
    ("0000000000000000", 0),
    ("0000000000010000", 1 << 16),
    ("", None),
    ("-1", None),
    ("-000000000000001", None),
    ("+000000000010000", None),
    ("0x00000000010000", None),
    ("00000000000_0000", None),
    ("1ffffffffff", None),
    ("00000000000000000", None),
    ("000001FFFFFFFFFF", None),
    ("00000000000000٣0", None),
    ("all", None),
]


@pytest.mark.parametrize(("word", "mask"), MASKS)
def test_mask(word: str, mask: int | None) -> None:
    status = parse_status(f"CapEff:\t{word}\n".encode())
    if mask is not None:
        assert tasks._mask(status, "CapEff") == mask
        return
    with pytest.raises(UntrustedInputError, match=r"^/proc/TID/status: CapEff is not a mask of 16 hexadecimal digits$"):
        tasks._mask(status, "CapEff")


UNITS = [
    ("0::/system.slice/asterisk.service", "asterisk.service"),
    ("0::/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
    ("0::/machine.slice/a.scope", "a.scope"),
    ("0::/asterisk.service", "asterisk.service"),
    ("1:name=systemd:/system.slice/a.service", "a.service"),
    ("9:memory:/system.slice/b.service\n1:name=systemd:/system.slice/a.service\n0::/x", "a.service"),
    # A unit chooses the names below itself, systemd does not.
    ("0::/user.slice/user-1000.slice/user@1000.service/asterisk.service", "user@1000.service"),
    ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/asterisk.service", "user@1000.service"),
    ("0::/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
    ("0::/system.slice/docker-0a.scope/system.slice/asterisk.service", "docker-0a.scope"),
    ("0::/system.slice/job.service/asterisk.service", "job.service"),
    ("0::/", None),
    ("0::/system.slice", None),
    ("0::/system.slice/", None),
    ("0::/init.scope.d/a.service", None),
    ("0::/docker/0a/asterisk.service", None),
    ("0::/../system.slice/asterisk.service", None),
    ("0::/system.slice/asterisk.service (deleted)", None),
    ("0::system.slice/asterisk.service", None),
    ("4:memory:/system.slice/asterisk.service", None),
    ("4:memory,name=systemd:/system.slice/asterisk.service", None),
    ("x:name=systemd:/system.slice/asterisk.service", None),
    ("10::/system.slice/asterisk.service", None),
    ("garbage", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "unit"), UNITS)
def test_unit_of_a_cgroup(text: str, unit: str | None) -> None:
    assert parse_unit(text.encode() + b"\n") == unit


def stat_line(comm: bytes, state: bytes = b"S", parent: int = 2, flags: int = 0x200040, start: int = 77) -> bytes:
    before = b" 0 0 0 -1 %d" % flags
    return b"42 (%s) %s %d%s" % (comm, state, parent, before) + b" 0" * 12 + b" %d 1 2 3\n" % start


@pytest.mark.parametrize(
    "comm", [b"sh", b"", b"a) R 1 ", b") R 1 0 0 0 -1 0 ", b"\n", b"a\nb) S 9 (", b"\xff\xfe", b"(("]
)
def test_stat_is_parsed_whatever_the_tasks_name(comm: bytes) -> None:
    found = Stat(stat_line(comm))
    assert (found.state, found.parent, found.start, found.kernel_thread) == ("S", 2, 77, True)


def test_stat_of_a_program() -> None:
    assert not Stat(stat_line(b"kthreadd", flags=0x400040)).kernel_thread


BAD_STATS = [
    b"",
    b"42",
    b"42 (sh",
    b"42 (sh)",
    b"42 (sh) S",
    b"42 (sh) S 1 2 3",
    stat_line(b"sh").replace(b" 77 ", b" x "),
]


@pytest.mark.parametrize("text", [*BAD_STATS, stat_line(b"sh")[:40], stat_line(b"sh").replace(b"S 2", b"S two")])
def test_a_malformed_stat_line_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        Stat(text)


BLOCKED = b"[<0>] call_usermodehelper_exec+0x1/0x2\n[<0>] __request_module+0x1a/0x2b\n"
STACKS = [
    (BLOCKED + b"[<0>] __sock_create+0x1/0x2\n[<0>] __sys_socket+0x1/0x2\n", "__sock_create"),
    (BLOCKED + b"[<0>] crypto_alg_mod_lookup+0x1/0x2\n", "crypto_alg_mod_lookup"),
    (BLOCKED + b"[<0>] rds_trans_get+0x4/0x9 [rds]\n", "rds_trans_get [rds]"),
    (b"[<0>] wait_for_completion_state+0x1/0x2\n" + BLOCKED + b"[<0>] get_fs_type+0x1/0x2\n", "get_fs_type"),
    (BLOCKED, ""),
    # One function alone, or both in the wrong order, is no request.
    (b"", None),
    (b"[<0>] __request_module+0x1/0x2\n[<0>] __sock_create+0x1/0x2\n", None),
    (b"[<0>] call_usermodehelper_exec+0x1/0x2\n[<0>] do_coredump+0x1/0x2\n", None),
    (b"[<0>] __request_module+0x1/0x2\n[<0>] call_usermodehelper_exec+0x1/0x2\n", None),
    # A module's function of the same name is another function.
    (BLOCKED.replace(b"0x2b", b"0x2b [evil]"), None),
    (BLOCKED.replace(b"__request_module", b"__request_module_x"), None),
    (BLOCKED.replace(b"[<0>] ", b""), None),
    (b"call_usermodehelper_exec\n__request_module\n", None),
    (b"[<0>] 0xffffffff81000000\n", None),
    (b"\xff\xfe\n] \n] +\n", None),
]


@pytest.mark.parametrize(("text", "site"), STACKS)
def test_call_site_of_a_stack(text: bytes, site: str | None) -> None:
    assert call_site(parse_stack(text)) == site


@contextmanager
def child(become: Callable[[], object]) -> Iterator[int]:
    """Start a child that calls `become` and then waits. Yield its PID."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become()
            os.write(write_end, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(write_end)
    try:
        assert os.read(read_end, 1) == b"!", "the child failed in `become`"
        yield pid
    finally:
        os.close(read_end)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def user(*more: Callable[[], object]) -> Callable[[], None]:
    def become() -> None:
        os.setgroups([29, 30])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        # As after execve(2). Otherwise its /proc/self would still belong to root.
        assert LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
        for each in more:
            each()

    return become


def no_new_privs() -> None:
    assert LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def user_namespace() -> None:
    """Become root of a new user namespace, with all capabilities there."""
    uid = os.getuid()
    assert LIBC.unshare(CLONE_NEWUSER) == 0
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")


def name(comm: bytes) -> Callable[[], object]:
    return lambda: Path("/proc/self/comm").write_bytes(comm)


def own_mask() -> int:
    return read_caller("self", Source.PROC).capabilities


CHILDREN = [
    (lambda: None, {"uid": 0, "euid": 0, "initial_user_namespace": True, "no_new_privs": False}),
    (user(), {"uid": 1000, "euid": 1000, "gids": frozenset({29, 30, 1000}), "capabilities": 0}),
    (user(no_new_privs), {"uid": 1000, "no_new_privs": True, "initial_user_namespace": True}),
    (lambda: os.setresuid(-1, 1000, 0), {"uid": 0, "euid": 1000, "capabilities": 0}),
    (lambda: os.setresuid(1000, 0, 0), {"uid": 1000, "euid": 0}),
    # Root of its own user namespace: the uid is the one outside, and the capabilities do not count.
    (user(user_namespace), {"uid": 1000, "euid": 1000, "initial_user_namespace": False}),
    (user_namespace, {"uid": 0, "initial_user_namespace": False}),
    (name(b"a) R 1 \n"), {"comm": "a) R 1 \n", "kernel_thread": False, "uid": 0}),
    (user(name(b"\nUid:\t0\t0\t0")), {"comm": "\nUid:\t0\t0\t0", "uid": 1000}),
    (user(name(b"x\nCapEff:\tf")), {"comm": "x\nCapEff:\tf", "capabilities": 0}),
    (user(name(b"\xff\\")), {"comm": "\udcff\\", "uid": 1000}),
]


@pytest.mark.parametrize(("become", "expected"), CHILDREN)
def test_callers_read_from_real_children(become: Callable[[], object], expected: dict[str, object]) -> None:
    with child(become) as pid:
        found = read_caller(pid, Source.PROC)
    assert {key: getattr(found, key) for key in expected} == expected
    assert (found.tid, found.source, found.executable) == (pid, Source.PROC, os.readlink("/proc/self/exe"))


def test_capabilities_in_another_user_namespace_do_not_count() -> None:
    with child(user(user_namespace)) as pid:
        assert read_caller(pid, Source.PROC).capabilities >> 16 & 1
        assert not holds_sys_module(pid)


@pytest.mark.parametrize(("become", "holds"), [(lambda: None, True), (user(), False), (user_namespace, False)])
def test_the_last_resort_finds_the_same_capability(become: Callable[[], object], holds: bool) -> None:
    with child(become) as pid:
        assert holds_sys_module(pid) is (holds and bool(own_mask() >> 16 & 1))


FORGED = [
    b"CapEff:\t-1",
    b"CapEff:",
    b"CapEff:\t",
    b"CapEff:\t1ffffffffff\nCapEff:\t1ffffffffff",
    b"",
    b"Capeff:\tffffffffffffffff",
]


@pytest.mark.parametrize("text", FORGED)
def test_the_last_resort_finds_no_capability_in_a_forged_status(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(proc, "read", lambda path, limit=0: b"Name:\tx\n" + text + b"\n")
    assert not holds_sys_module(os.getpid())


def test_self_is_this_process() -> None:
    assert read_caller("self", Source.PROC) == read_caller(os.getpid(), Source.PROC)


def test_an_ended_task_is_an_error() -> None:
    with child(lambda: None) as pid:
        pass
    with pytest.raises(OSError, match=rf"/proc/{pid}/"):
        read_caller(pid, Source.PROC)


def test_no_task_is_blocked_in_a_request_here() -> None:
    assert proc.blocked_call_site(os.getpid()) is None
    assert proc.blocked_requesters() == ([], 0)


def test_a_path_of_another_mount_namespace_is_not_returned(tmp_path: Path) -> None:
    """In its own mount namespace a task can put any program at any path."""
    tool = tmp_path / "asterisk"
    tool.write_text("the real one")
    script = 'mount -t tmpfs none "$1" && cp "$(command -v sleep)" "$1/asterisk" && exec "$1/asterisk" 60'
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script, "sh", tmp_path]) as process:
        try:
            deadline = time.monotonic() + 20
            while os.readlink(f"/proc/{process.pid}/exe") != str(tool):
                assert time.monotonic() < deadline, "the other namespace's program did not start"
                time.sleep(0.01)
            found: Caller = read_caller(process.pid, Source.PROC)
        finally:
            process.kill()
    assert found.executable is None
    assert read_caller("self", Source.PROC).executable == os.path.realpath(sys.executable)


def test_a_thread_is_part_of_a_process() -> None:
    found: list[Caller] = []

    def read() -> None:
        found.append(read_caller(threading.get_native_id(), Source.PROC))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert (found[0].pid, found[0].tid) == (os.getpid(), thread.native_id) and found[0].pid != found[0].tid
    assert read_caller("self", Source.PROC).pid == os.getpid()
