"""Who is believed to have asked: real processes with real credentials, and a stack that says that they wait.

Only the stack is made up, since no task here waits for a module; whole requests are in tests/vm.
"""

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from safe_modprobe import last_resort
from safe_modprobe.callers import find, nested, proc, tracefs
from safe_modprobe.callers.kernel_args import UNNAMED_CALLER, claimed_caller, parse
from safe_modprobe.callers.nested import dump_caller, on_behalf_of
from safe_modprobe.callers.ring import Event
from safe_modprobe.callers.tracefs import TracedRequests
from safe_modprobe.capability import ALL
from safe_modprobe.decide import decide, principals
from safe_modprobe.model import Caller, Claim, Policy, Settings, Source
from tests.unit.callers.test_tasks import LIBC, child, no_new_privs, user, user_namespace
from tests.unit.make import ROOT, UNKNOWN, USER, N, Y, callers_under, plan, policy, step

WAITS = b"[<0>] call_usermodehelper_exec+0x1/0x2\n[<0>] __request_module+0x1/0x2\n[<0>] %s+0x1/0x2\n"
LARVAL = b"[<0>] crypto_larval_wait+0x1/0x2\n"
UNREAD = Caller(Source.KERNEL_ARGS)
LATE = 1 << 62


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[bytes]]:
    """What /proc/TID/stack says, look after look; the last one stays. All else of /proc is the real one."""
    made: dict[str, list[bytes]] = {}
    real = proc.read

    def read(path: str, limit: int = 65536) -> bytes:
        if path.endswith("/wchan") and path.replace("wchan", "stack") in made:
            path = path if path in made else path.replace("wchan", "stack")
            return made[path][0] if path.endswith("/wchan") else b"0"
        if path not in made:
            return real(path, limit)
        return made[path].pop(0) if len(made[path]) > 1 else made[path][0]

    monkeypatch.setattr(proc, "read", read)
    monkeypatch.setattr(nested, "FOLDER", str(tmp_path / "loads"))
    return made


@pytest.fixture
def someone() -> Iterator[int]:
    with child(user()) as pid:
        yield pid


STEADY = [WAITS % b"f"]
LEFT = [
    [b""],
    [LARVAL],
    [WAITS % b"f", b""],
    [WAITS % b"f", WAITS % b"g"],
    [WAITS % b"f", LARVAL],
    [b"", WAITS % b"f"],
]


def test_who_waits_is_who_asks(stacks: dict[str, list[bytes]], someone: int) -> None:
    stacks[f"/proc/{someone}/stack"] = STEADY
    found = find._read_blocked_caller(someone, Source.TRACEFS)
    assert found is not None
    assert (found.uid, found.tid, found.source, found.call_site) == (1000, someone, Source.TRACEFS, "f")


@pytest.mark.parametrize("looks", LEFT)
def test_who_does_not_wait_before_and_after_is_nobody(
    stacks: dict[str, list[bytes]], someone: int, looks: list[bytes]
) -> None:
    stacks[f"/proc/{someone}/stack"] = list(looks)
    assert find._read_blocked_caller(someone, Source.TRACEFS) is None


def test_who_is_blocked_elsewhere_is_not_asked_for_a_stack(stacks: dict[str, list[bytes]], someone: int) -> None:
    """Reading it waits for an execve(2) to end, and its user may not let it: the helper would hang, and root with it."""
    stacks[f"/proc/{someone}/stack"] = STEADY
    for where, found in (b"request_wait_answer", False), (b"call_usermodehelper_exec", True), (b"0", True), (b"", True):
        stacks[f"/proc/{someone}/wchan"] = [where]
        assert (proc.blocked_call_site(someone) is not None) is found, where
        assert (find._read_blocked_caller(someone, Source.TRACEFS) is not None) is found, where


@pytest.mark.parametrize(
    ("where", "traced", "plain"),
    [(b"call_usermodehelper_exec", "", None), (b"0", None, None), (b"do_exit", None, None)],
)
def test_where_stacks_are_hidden_who_was_traced_is_believed(
    monkeypatch: pytest.MonkeyPatch, where: bytes, traced: str | None, plain: str | None
) -> None:
    """kernel.yama.ptrace_scope=3: without this root has no marked module any more."""

    def read(path: str) -> bytes:
        if path.endswith("stack"):
            raise PermissionError
        return where

    monkeypatch.setattr(proc, "read", read)
    assert (proc.blocked_call_site(1, traced=True), proc.blocked_call_site(1)) == (traced, plain)


@pytest.mark.parametrize(("euid", "known"), [(1000, True), (0, False)])
def test_where_stacks_are_hidden_a_set_user_id_program_is_nobody(
    monkeypatch: pytest.MonkeyPatch, someone: int, euid: int, known: bool
) -> None:
    """It may have taken over the TID of whoever asked, and wait for a key's helper."""
    monkeypatch.setattr(proc, "kernel_stack", lambda tid, function: (function,))
    monkeypatch.setattr(find, "read_caller", lambda tid, source, site: Caller(source, 1000, euid))
    assert (find._read_blocked_caller(someone, Source.TRACEFS) is not None) is known


@pytest.mark.parametrize(
    ("before", "after", "root"),
    [
        ([1], [1], True),
        ([0, 2], [1, 2], False),  # a user's task is gone and its helper looks; root asks for something else meanwhile
        ([1, 2], [2, 2], False),
        ([1, 1], [2, 1], True),  # the other one has got its answer by the second look
        ([2, 1], [1, 1], True),
        ([2], [2], False),
        ([1] * 9, [2] * 9, False),
    ],
)
def test_by_proc_helpers_that_come_and_go_are_looked_at_again(
    stacks: dict[str, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    before: list[int],
    after: list[int],
    root: bool,
) -> None:
    """One task waits, root's: how many helpers there were before it was looked at and afterwards, look after look."""
    stacks[f"/proc/{os.getpid()}/stack"] = STEADY
    for ask in (
        lambda: find._from_proc(parse(["x"]).request, find._accept_any),
        lambda: last_resort._all_requesters_privileged("x"),
    ):
        first, then = iter(before), iter(after)
        monkeypatch.setattr(proc, "count_helpers", lambda then=then: next(then))
        monkeypatch.setattr(proc, "blocked_requesters", lambda first=first: ([os.getpid()], next(first)))
        assert bool(ask()) is root


@pytest.mark.parametrize(
    ("looks", "root"),
    [
        ([(True, 2, 1), (False, 1, 1)], True),  # it got its answer
        ([(True, 2, 2), (False, 2, 2)], False),  # it was killed, and its helper looks
        ([(True, 2, 2)] * 9, False),
    ],
)
def test_by_proc_who_ends_while_it_is_looked_at_takes_nothing_from_root(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, looks: list[tuple[bool, int, int]], root: bool
) -> None:
    """Whether another task is seen to wait, that ends before it is read; the helpers before it, and those after it."""
    stacks[f"/proc/{os.getpid()}/stack"] = STEADY
    with child(lambda: None) as gone:
        pass
    for ask in (
        lambda: _known(find._from_proc(parse(["x"]).request, find._accept_any)),
        lambda: last_resort._all_requesters_privileged("x"),
    ):
        first, then = iter(looks), iter(looks)
        monkeypatch.setattr(proc, "count_helpers", lambda then=then: next(then)[2])

        def everyone(first: Iterator[tuple[bool, int, int]] = first) -> tuple[list[int], int]:
            other, helpers, _ = next(first)
            return [os.getpid(), *[gone] * other], helpers

        monkeypatch.setattr(proc, "blocked_requesters", everyone)
        assert bool(ask()) is root


def _known(found: tuple[Caller, ...] | None) -> bool:
    return bool(found) and all(caller.known for caller in found or ())


def test_an_ended_task_is_nobody(stacks: dict[str, list[bytes]]) -> None:
    with child(lambda: None) as pid:
        stacks[f"/proc/{pid}/stack"] = STEADY
    assert find._read_blocked_caller(pid, Source.TRACEFS) is None


INHERITED = [
    (USER, Source.TRACEFS, Source.TRACEFS),
    (USER._replace(source=Source.KERNEL_ARGS), Source.PROC, Source.PROC),
    (USER._replace(source=Source.PROC), Source.TRACEFS, Source.TRACEFS),
    (Caller(Source.PROC), Source.TRACEFS, Source.TRACEFS),
    # An argument that nobody understood is a refusal even where unknown callers are privileged.
    (UNREAD, Source.TRACEFS, Source.KERNEL_ARGS),
    (UNREAD, Source.PROC, Source.KERNEL_ARGS),
]


@pytest.mark.parametrize(("for_whom", "source", "kept"), INHERITED)
def test_a_loading_helper_asks_for_its_caller(
    stacks: dict[str, list[bytes]], for_whom: Caller, source: Source, kept: Source
) -> None:
    """This process is root's, and says that it loads for somebody else; so does what it starts."""
    with child(lambda: None) as pid, on_behalf_of(for_whom):
        for tid in (os.getpid(), pid):
            stacks[f"/proc/{tid}/stack"] = STEADY
            assert find._read_blocked_caller(tid, source) == for_whom._replace(
                source=kept, tid=tid, pid=tid, call_site="f"
            )


NAME = b"crypto-authencesn(hmac(sha256),cbc(aes))"
PARTS = [
    (b"crypto-authencesn", True),
    (b"crypto-hmac(sha256)", True),
    (b"crypto-cbc(aes)", True),
    (b"crypto-aes", True),
    (b"crypto-hmac-all", True),
    (b"crypto-authenc", False),
    (b"crypto-esn", False),
    (b"crypto-bc", False),
    (b"crypto-sha25", False),
    (b"crypto-.*", False),
    (b"crypto-", False),
]


@pytest.mark.parametrize(("part", "behind"), PARTS)
def test_who_sleeps_for_the_whole_is_behind_its_parts(
    stacks: dict[str, list[bytes]], someone: int, part: bytes, behind: bool
) -> None:
    stacks[f"/proc/{someone}/stack"] = [LARVAL]
    seen = TracedRequests({someone: Event(someone, LATE, True, NAME), 2: Event(2, LATE, True, part)}, False)
    found = find._tasks_waiting_for_deputy(seen, seen.events[2])
    assert [each.uid for each in found] == ([1000] if behind else [])


def test_a_loading_helper_behind_a_deputy_is_not_root(stacks: dict[str, list[bytes]]) -> None:
    """A module's init that wants a cipher sleeps in our helper, with all of root's power."""
    own = os.getpid()
    stacks[f"/proc/{own}/stack"] = [LARVAL]
    seen = TracedRequests({own: Event(own, LATE, True, NAME), 2: Event(2, LATE, True, b"crypto-cbc(aes)")}, False)
    assert [each.uid for each in find._tasks_waiting_for_deputy(seen, seen.events[2])] == [0]
    with on_behalf_of(USER):
        assert [each.uid for each in find._tasks_waiting_for_deputy(seen, seen.events[2])] == [1000]


NOT_BEHIND: list[tuple[Callable[[], object], list[bytes], int, bytes]] = [
    (user(), [b""], LATE, NAME),
    (user(), [LARVAL, b""], LATE, NAME),
    (user(), [LARVAL], 0, NAME),  # it started after the event: another task had its TID then
    (user(), [LARVAL], LATE, b"net-pf-38"),
    (user(), [LARVAL], LATE, b"x" + NAME),
    (lambda: os.setresuid(1000, 0, 0), [LARVAL], LATE, NAME),  # a set-user-ID program may not be what asked
]


@pytest.mark.parametrize(("become", "looks", "when", "name"), NOT_BEHIND)
def test_who_is_not_behind(
    stacks: dict[str, list[bytes]], become: Callable[[], object], looks: list[bytes], when: int, name: bytes
) -> None:
    with child(become) as pid:
        stacks[f"/proc/{pid}/stack"] = list(looks)
        seen = TracedRequests({pid: Event(pid, when, True, name), 2: Event(2, LATE, True, b"crypto-cbc(aes)")}, False)
        assert find._tasks_waiting_for_deputy(seen, seen.events[2]) == ()


def test_an_ended_task_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """request_module_nowait(): only a kernel thread that is older than its event is known."""
    with child(lambda: None) as ended:
        pass
    real = proc.stat

    def stat(tid: int) -> proc.Stat:
        found = real(tid)
        found.flags |= 0x00200000  # PF_KTHREAD: this process plays one
        return found

    monkeypatch.setattr(proc, "stat", stat)
    own, now = os.getpid(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    request = parse(["-q", "--", "x"]).request
    events = {ended: Event(ended, now, False, b"x"), own: Event(own, now, False, b"x")}
    assert [each.tid for each in find._nowait_requesters(request, TracedRequests(events, False)) or ()] == [own]
    late = {own: Event(own, 0, False, b"x")}
    assert find._nowait_requesters(request, TracedRequests(late, False)) == ()


def test_who_runs_us_by_hand_is_the_caller() -> None:
    found = callers_under(Policy(), parse(["x"]).request)
    assert [(each.uid, each.tid, each.source) for each in found] == [(os.getuid(), os.getpid(), Source.PROC)]


@pytest.mark.parametrize(
    ("argument", "claim"),
    [
        ("grsec_modharden_normal1000_", Claim(True, 1000)),
        ("grsec_modharden_normal0_", Claim(True, 0)),
        ("grsec_modharden_normal00_", Claim(True)),
        ("anything", Claim(True)),
    ],
)
@pytest.mark.parametrize("rule", ["", "rule = [{ groups = [29], action = 'deny' }]"])
def test_a_kernels_argument_counts_even_by_hand(argument: str, claim: Claim, rule: str) -> None:
    """And of whoever waits for a module meanwhile nothing is taken for the words' sake."""
    assert callers_under(policy(rule), parse(["-q", "--", "x", argument]).request) == (claimed_caller(claim),)


FS = "grsec_modharden_fs"
SILENCES = [
    # What kernel.modprobe_caller_args holds, what the policy's kernel_args says, the kernel's words; whether it is root.
    (b"1\n", False, (), True),
    (b"1\n", True, (), True),
    (b"1\n", False, (FS,), True),
    (None, True, (), True),
    (None, False, (), False),
    (None, False, (FS,), False),
    (None, True, (FS,), False),  # grsecurity's, which stands in the place of the uid
    (b"0\n", False, (), False),
    (b"2\n", False, (), False),
    (b"11\n", False, (), False),
    (b"1", False, (), False),
    (b"1\t2\n", False, (), False),
    (b"-1\n", False, (), False),
    (b"\n", False, (), False),
    (b"", False, (), False),
]


def by_kernel_args(always: bool = False, words: tuple[str, ...] = ()) -> Caller | None:
    return find._from_kernel_args(parse(["-q", "--", "x", *words]).request, Settings(kernel_args_always=always))


@pytest.fixture
def promise(stacks: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "modprobe_caller_args"
    monkeypatch.setattr(find, "CALLER_ARGS_SYSCTL", str(path))
    return path


@pytest.mark.parametrize(("content", "always", "words", "root"), SILENCES)
def test_silence_is_privilege_only_where_it_is_promised(
    promise: Path, content: bytes | None, always: bool, words: tuple[str, ...], root: bool
) -> None:
    if content is not None:
        promise.write_bytes(content)
    assert by_kernel_args(always, words) == (UNNAMED_CALLER if root else None)


def test_a_promise_that_cannot_be_read_is_none(promise: Path) -> None:
    promise.mkdir()
    assert by_kernel_args() is None


@pytest.mark.parametrize(
    "words",
    [("grsec_modharden_normal0_",), (FS, "grsec_modharden_normal1000_"), ("x",), (FS, FS), ("modharden_cap12_",)],
)
def test_a_promise_makes_nobody_root_of_whom_the_kernel_speaks(promise: Path, words: tuple[str, ...]) -> None:
    promise.write_bytes(b"1\n")
    for always in (False, True):
        found = by_kernel_args(always, words)
        assert found is not None and found.source is Source.KERNEL_ARGS and not found.capabilities


NETDEV = "grsec_modharden_netdev"
BARE_NAMES = [
    # What kernel.modprobe_caller_args holds, the kernel's words; what root and a user get who ask for an interface's
    # bare name: a kernel with the series never says that word alone of a user.
    (b"1\n", (NETDEV,), "allow"),
    (b"1\n", (NETDEV, "grsec_modharden_normal1000_"), "deny"),
    (b"1\n", (NETDEV, "nonsense"), "deny"),
    (b"1\n", (FS, NETDEV), "deny"),
    (b"1\n", (), "allow"),
    (None, (NETDEV,), "deny"),  # grsecurity's
    (b"0\n", (NETDEV,), "deny"),
    (b"2\n", (NETDEV,), "deny"),
    (b"", (NETDEV,), "deny"),
]


@pytest.mark.parametrize(("content", "words", "action"), BARE_NAMES)
def test_a_bare_name_is_roots_where_the_kernel_has_the_series(
    promise: Path, content: bytes | None, words: tuple[str, ...], action: str
) -> None:
    """grsecurity refuses it to everybody; here no rule names it."""
    if content is not None:
        promise.write_bytes(content)
    asked = parse(["-q", "--", "m", *words]).request
    request = find.resolve_netdev_claim(asked)
    assert (request.alias, request.kernel_args) == (asked.alias, asked.kernel_args)
    assert decide(policy(""), request, ROOT, plan(step("m", N))).action == action
    assert decide(policy(""), request, USER, plan(step("m", Y))).action == "deny"


def test_of_a_promise_that_cannot_be_read_a_bare_name_hears_nothing(promise: Path) -> None:
    promise.mkdir()
    assert find.resolve_netdev_claim(parse(["--", "m", NETDEV]).request).claim.netdev


WAITED, UNATTENDED = False, True
LOADS = [
    # Who is loaded for at the moment, whether anybody waits for this request; whether silence is root's.
    (ROOT, WAITED, True),
    (ROOT, UNATTENDED, True),
    (USER, WAITED, False),
    (USER, UNATTENDED, False),
    (UNREAD, WAITED, False),
    (Caller(Source.NONE), WAITED, False),
    (ROOT._replace(initial_user_namespace=False), WAITED, False),
    (ROOT._replace(capabilities=ALL & ~(1 << 16)), WAITED, False),
]


@pytest.mark.parametrize(("whom", "nobody_waits", "root"), LOADS)
def test_a_module_that_is_loaded_for_a_user_does_not_ask_as_root(
    promise: Path, monkeypatch: pytest.MonkeyPatch, whom: Caller, nobody_waits: bool, root: bool
) -> None:
    promise.write_bytes(b"1\n")
    monkeypatch.setattr(proc, "has_no_requester", lambda: nobody_waits)
    with on_behalf_of(whom):
        assert [bool(by_kernel_args(always)) for always in (False, True)] == [root, root]
    # A helper may come for what its init asked for without waiting, after it has ended.
    after = root or not nobody_waits
    assert [bool(by_kernel_args(always)) for always in (False, True)] == [after, after]


@pytest.mark.parametrize(("seconds", "root"), [(-1, False), (0, False), (59, False), (61, True)])
def test_after_a_minute_nobody_comes_any_more(
    promise: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: int, root: bool
) -> None:
    promise.write_bytes(b"1\n")
    monkeypatch.setattr(proc, "has_no_requester", lambda: True)
    monkeypatch.setattr(nested, "_NOWAIT_WINDOW_NS", 60 * 10**9)
    with on_behalf_of(USER):
        pass
    when = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - seconds * 10**9
    os.utime(tmp_path / "loads.ended", ns=(when, when))
    assert bool(by_kernel_args()) is root


def test_a_helper_that_was_killed_while_it_loaded_is_remembered_for_a_while(
    promise: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    promise.write_bytes(b"1\n")
    (tmp_path / "loads").mkdir()
    with child(lambda: None) as pid:
        start = proc.stat(pid).start
        (tmp_path / f"loads/{pid}").write_bytes(dump_caller(start, USER))
        assert by_kernel_args() is None
    assert by_kernel_args() is None
    monkeypatch.setattr(nested, "_NOWAIT_WINDOW_NS", 0)
    assert by_kernel_args()


@contextmanager
def loads_for(whom: Caller, seconds: float) -> Iterator[None]:
    """Another process that loads for this caller, and is done after so long, or with the test."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with on_behalf_of(whom):
                os.write(there, b"x")
                time.sleep(seconds)
        finally:
            os._exit(0)
    try:
        os.read(here, 1)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(here)
        os.close(there)


ALONE = 'settings.sources = ["kernel-args"]'
PATIENCE = [
    # For whom a load begins, how long it takes, whether somebody waits for the request; whether it is root's.
    (USER, 0.2, WAITED, True),
    (USER, 5.0, WAITED, False),
    (USER, 0.2, UNATTENDED, False),
    (UNREAD, 0.2, WAITED, True),
    (ROOT, 5.0, WAITED, True),
]


@pytest.mark.parametrize(("whom", "seconds", "nobody_waits", "root"), PATIENCE)
def test_where_nobody_else_can_say_it_a_users_load_is_waited_for(
    promise: Path, monkeypatch: pytest.MonkeyPatch, whom: Caller, seconds: float, nobody_waits: bool, root: bool
) -> None:
    """A module's own request would hold the load until it is answered."""
    promise.write_bytes(b"1\n")
    monkeypatch.setattr(proc, "started_by_kernel", lambda: True)
    monkeypatch.setattr(proc, "has_no_requester", lambda: nobody_waits)
    with loads_for(whom, seconds):
        assert callers_under(policy(ALONE), parse(["-q", "--", "x"]).request) == (UNNAMED_CALLER if root else UNKNOWN,)


def test_a_load_that_begins_later_is_not_waited_for(
    promise: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or a user could hold root up for ever."""
    promise.write_bytes(b"1\n")
    (tmp_path / "loads").mkdir()
    (tmp_path / "loads/7").write_bytes(b"")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        (tmp_path / "loads/7").unlink()
        (tmp_path / "loads/8").write_bytes(b"")

    monkeypatch.setattr(time, "sleep", sleep)
    assert nested.silence_means_root(WAITED, 0.5) and len(slept) == 1
    assert not nested.silence_means_root(WAITED)


@pytest.mark.parametrize(("name", "content", "root"), [("7", b"", False), ("7", b"x", False), ("7.new", b"", True)])
def test_a_broken_record_of_a_load_is_no_proof(
    promise: Path, tmp_path: Path, name: str, content: bytes, root: bool
) -> None:
    promise.write_bytes(b"1\n")
    (tmp_path / "loads").mkdir()
    (tmp_path / "loads" / name).write_bytes(content)
    assert bool(by_kernel_args()) is root


NORMAL = "grsec_modharden_normal{}_"
NETS = "grsec_modharden_normal1000_ modharden_cap12_"
BY_UNIT = 'rule = [{ units = ["a.service"], action = "deny" }]'


def keep(*bits: int) -> Callable[[], object]:
    """These capabilities and no other, by uid 0: CAP_SETPCAP is 8, CAP_NET_ADMIN 12, CAP_SYS_MODULE 16."""

    def become() -> None:
        mask = sum(1 << bit for bit in bits)
        header = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
        assert LIBC.capset(header, struct.pack("<6I", mask, mask, 0, 0, 0, 0)) == 0

    return become


def by_uid(uid: int, *bits: int) -> Callable[[], object]:
    def become() -> None:
        assert LIBC.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS
        os.setresuid(uid, uid, uid)
        keep(*bits)()

    return become


FITS: list[tuple[str, Callable[[], object], dict[str, object] | None]] = [
    # The kernel's words; who waits; what is then known, None where it cannot be the one that the kernel speaks of.
    (NORMAL.format(1000), user(), {"uid": 1000, "euid": 1000, "capabilities": 0, "initial_user_namespace": True}),
    (NORMAL.format(1000), user(no_new_privs), {"uid": 1000, "no_new_privs": True, "capabilities": 0}),
    (NORMAL.format(1000), user(user_namespace), {"uid": 1000, "initial_user_namespace": False, "may_hold": 0}),
    (NORMAL.format(1000), lambda: os.setresuid(1000, 1001, 1001), {"uid": 1000, "euid": 1001}),
    (NORMAL.format(0), keep(12), {"uid": 0, "capabilities": 0, "may_hold": 1 << 12}),
    (NORMAL.format(0), user_namespace, {"uid": 0, "initial_user_namespace": False, "capabilities": 0}),
    (NORMAL.format(1000), by_uid(1000, 12), {"uid": 1000, "capabilities": 0, "may_hold": 1 << 12}),
    (NETS, by_uid(1000, 12), {"uid": 1000, "capabilities": 1 << 12, "may_hold": 1 << 12}),
    (NETS, by_uid(1000, 12, 13), {"uid": 1000, "capabilities": 1 << 12, "may_hold": 3 << 12}),
    (NETS, by_uid(1000, 13), None),
    (NETS, user(), None),
    (NETS, user(user_namespace), None),
    (NETS, by_uid(1000, 12, 16), None),
    (NORMAL.format(1000), by_uid(1000, 16), None),
    (NORMAL.format(1000), by_uid(1001), None),
    (NORMAL.format(1000), lambda: os.setresuid(1001, 1000, 1000), None),
    (NORMAL.format(1000), lambda: None, None),
    (NORMAL.format(0), lambda: None, None),
    (NORMAL.format(0), user(), None),
    ("", lambda: None, {"uid": 0, "capabilities": ALL}),
    ("", by_uid(1000, 16), {"uid": 1000, "capabilities": 1 << 16}),
    ("", by_uid(1000, 16, 12), {"uid": 1000, "capabilities": 1 << 16 | 1 << 12}),
    ("", by_uid(1000, 12), None),
    ("", user(), None),
    ("", user_namespace, None),
    ("", keep(12, 21), None),
]


@pytest.fixture
def asked(promise: Path, stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """What is known of who asked on a kernel that promises to speak, while these tasks wait in a request.

    By tracefs their last request is for this very alias.
    """
    promise.write_bytes(b"1\n")
    monkeypatch.setattr(proc, "started_by_kernel", lambda: True)
    monkeypatch.setattr(proc, "has_no_requester", lambda: False)
    monkeypatch.setattr(find, "_RETRY_DELAYS_S", (0.0, 0.0))

    def ask(words: str, source: Source, *tids: int, rule: str = BY_UNIT, alias: str = "x") -> tuple[Caller, ...]:
        for tid in tids:
            stacks[f"/proc/{tid}/stack"] = STEADY
        monkeypatch.setattr(proc, "blocked_requesters", lambda: (list(tids), len(tids)))
        monkeypatch.setattr(proc, "count_helpers", lambda: len(tids))
        events = {tid: Event(tid, LATE, True, os.fsencode(alias)) for tid in tids}
        monkeypatch.setattr(tracefs, "active_instance", lambda: "instance")
        monkeypatch.setattr(tracefs, "read_requests", lambda folder: TracedRequests(events, False))
        sources = f"settings.sources = ['kernel-args', '{source}']\n"
        return callers_under(policy(sources + rule), parse(["-q", "--", alias, *words.split()]).request)

    return ask


def said(words: str) -> Caller:
    return claimed_caller(parse(["-q", "--", "x", *words.split()]).request.claim) if words else UNNAMED_CALLER


LOOKS_AT_TASKS = [Source.TRACEFS, Source.PROC]


@pytest.mark.parametrize("source", LOOKS_AT_TASKS)
@pytest.mark.parametrize(("words", "become", "fits"), FITS)
def test_the_rest_is_of_a_task_that_the_kernel_may_mean(
    asked: Callable[..., tuple[Caller, ...]],
    source: Source,
    words: str,
    become: Callable[[], object],
    fits: dict[str, object] | None,
) -> None:
    with child(become) as pid:
        (found,) = asked(words, source, pid)
        if fits is None:
            assert found == said(words)
            return
        known = {key: getattr(found, key) for key in fits}
        if fits.get("capabilities") == ALL:
            known["capabilities"] = known["capabilities"] and ALL
        assert known == fits
        assert (found.source, found.tid, found.seen, found.call_site) == (source, pid, True, "f")


@pytest.mark.parametrize("source", LOOKS_AT_TASKS)
def test_of_several_only_who_fits_counts(asked: Callable[..., tuple[Caller, ...]], source: Source) -> None:
    with child(user()) as one, child(lambda: None) as root, child(by_uid(1001)) as other, child(user()) as two:
        everyone = (one, root, other, two)
        for words, fit in (("", [root]), (NORMAL.format(1001), [other]), (NORMAL.format(1000), [one, two])):
            assert [each.tid for each in asked(words, source, *everyone)] == fit
        assert asked(NORMAL.format(7), source, *everyone) == (claimed_caller(Claim(True, 7)),)
        assert asked("", source) == (UNNAMED_CALLER,)


@pytest.mark.parametrize("rule", ["", BY_UNIT.replace("units", "aliases = ['fs-*'], units")])
def test_where_no_rule_depends_on_it_nobody_is_looked_at(
    asked: Callable[..., tuple[Caller, ...]], monkeypatch: pytest.MonkeyPatch, someone: int, rule: str
) -> None:
    monkeypatch.setattr(find, "_SOURCES", {})
    for words in ("", NORMAL.format(1000), "nonsense"):
        assert asked(words, Source.TRACEFS, someone, rule=rule) == (said(words),)


@pytest.mark.parametrize("source", LOOKS_AT_TASKS)
@pytest.mark.parametrize("look", [OSError, ValueError])
def test_where_the_other_source_fails_the_words_stand(
    asked: Callable[..., tuple[Caller, ...]], monkeypatch: pytest.MonkeyPatch, source: Source, look: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise look

    monkeypatch.setattr(proc, "has_no_requester", lambda: False)
    for words in ("", NORMAL.format(1000)):
        asked(words, source)  # the fixture's
        with monkeypatch.context() as broken:
            broken.setattr(find, "_blocked_callers", fail)
            broken.setattr(find, "_read_blocked_caller", fail)
            assert asked(words, source, 1) == (said(words),)


@pytest.mark.parametrize("source", LOOKS_AT_TASKS)
def test_a_helper_that_loads_for_a_user_is_not_who_the_kernel_is_silent_of(
    asked: Callable[..., tuple[Caller, ...]], source: Source
) -> None:
    """Nor is its silence believed then: the next source answers, by whom it loads for."""
    own = os.getpid()
    assert [each.uid for each in asked("", source, own)] == [0]
    with on_behalf_of(USER):
        assert [each.uid for each in asked("", source, own)] == [1000]


KTHREAD = ROOT._replace(kernel_thread=True)
DEPUTIES = "call_site = [{ aliases = ['deputy-*', 'crypto-*'], deputy = true }]\n"
THREADS = [
    # The words, the alias, the tasks behind a kernel thread; which of them is taken, the thread itself, or None of them.
    ("", "x", (), KTHREAD),
    ("", "deputy-x", (), KTHREAD),
    ("", "crypto-x", (), None),
    ("", "crypto-x", (USER,), None),
    ("", "crypto-x", (USER, ROOT), ROOT),
    (NORMAL.format(1000), "x", (), None),
    (NORMAL.format(0), "x", (), None),
    (NORMAL.format(1000), "crypto-x", (), None),
    (NORMAL.format(1000), "crypto-x", (ROOT,), None),
    (NORMAL.format(1000), "crypto-x", (UNREAD,), None),
    (NORMAL.format(1000), "crypto-x", (ROOT, USER), USER),
]


@pytest.mark.parametrize(("words", "alias", "behind", "taken"), THREADS)
def test_a_kernel_thread_may_act_as_somebody_else(
    words: str, alias: str, behind: tuple[Caller, ...], taken: Caller | None
) -> None:
    thread = KTHREAD._replace(working_for=behind)
    fit = find._filter_by_claim(parse(["--", alias]).request, said(words), False)
    assert fit(thread) == ({KTHREAD: (thread,), None: (said(words),)}.get(taken) or (taken,))


def test_root_itself_is_known_where_a_deputy_might_ask(asked: Callable[..., tuple[Caller, ...]]) -> None:
    """Without the look nobody would be, and root refused."""
    (found,) = asked("", Source.TRACEFS, os.getpid(), rule=DEPUTIES, alias="deputy-x")
    assert (found.uid, found.kernel_thread) == (0, False)
    assert asked("", Source.TRACEFS, rule=DEPUTIES, alias="deputy-x") == (UNNAMED_CALLER,)
    with child(user()) as other:  # which may be who asked, with borrowed credentials
        found = asked("", Source.PROC, os.getpid(), other, rule=DEPUTIES, alias="deputy-x")
        assert [each.tid for each in found] == [os.getpid(), None] and found[1] == UNNAMED_CALLER
        found = asked("", Source.TRACEFS, os.getpid(), other, rule=DEPUTIES, alias="deputy-x")
        assert [each.tid for each in found] == [os.getpid()]
    assert asked("", Source.TRACEFS, os.getpid(), rule=DEPUTIES, alias="crypto-x") == (
        UNNAMED_CALLER,
    ), "it is seen through"


SELF_TESTS = [
    # For whom a load was, seconds since; what is asked for, who waits by the other source; for whom that is.
    (USER, 0, "crypto-x", None, None),
    (USER, 59, "crypto-x", None, None),
    (USER, 0, "crypto-x", "a kernel thread", None),  # cryptomgr_test, with nobody behind it
    (USER, 0, "crypto-x", "a user", 1000),
    (USER, 0, "cryptomgr", None, None),
    (UNREAD, 0, "crypto-x", None, None),
    (USER, 0, "crypto-x", "root", 0),
    (USER, 61, "crypto-x", "a kernel thread", UNNAMED_CALLER),
    (USER, 61, "crypto-x", None, UNNAMED_CALLER),
    (ROOT, 0, "crypto-x", "a kernel thread", UNNAMED_CALLER),
    (USER, 0, "x", "a kernel thread", UNNAMED_CALLER),
    (USER, 0, "xcrypto-x", None, UNNAMED_CALLER),
]


@pytest.mark.parametrize("source", LOOKS_AT_TASKS)
@pytest.mark.parametrize(("whom", "seconds", "alias", "who", "taken"), SELF_TESTS)
def test_a_users_algorithm_is_not_tested_as_root(
    asked: Callable[..., tuple[Caller, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Source,
    whom: Caller,
    seconds: int,
    alias: str,
    who: str | None,
    taken: object,
) -> None:
    """From Linux 6.12 on a module's init does not wait for cryptomgr_test, which asks as our helper did."""
    with on_behalf_of(whom):
        pass
    if (tmp_path / "loads.ended").exists():
        when = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - seconds * 10**9
        os.utime(tmp_path / "loads.ended", ns=(when, when))
    with child(user() if who == "a user" else lambda: None) as pid:
        monkeypatch.setattr(find, "_tasks_waiting_for_deputy", lambda seen, event: ())
        monkeypatch.setattr("safe_modprobe.callers.tasks._is_kernel_thread", lambda tid: who == "a kernel thread")
        found = asked("", source, *[pid] * (who is not None), rule=DEPUTIES, alias=alias)
        if taken is UNNAMED_CALLER:
            assert found == (UNNAMED_CALLER,)
            return
        judged = [
            each for caller in found for each in principals(policy(DEPUTIES), parse(["--", alias]).request, caller)
        ]
        assert [each.uid for each in judged] == [taken] and {each.source for each in judged} == {source}


@pytest.mark.parametrize("sources", ["'kernel-args'", "'kernel-args', 'tracefs'"])
def test_where_nobody_else_can_look_an_algorithm_is_the_silents(
    asked: Callable[..., tuple[Caller, ...]], monkeypatch: pytest.MonkeyPatch, sources: str
) -> None:
    """Or root would have no cipher for a minute whenever a user has one."""
    monkeypatch.setattr(tracefs, "active_instance", lambda: None)
    request, rules = parse(["-q", "--", "crypto-x"]).request, policy(f"settings.sources = [{sources}]\n{DEPUTIES}")
    with on_behalf_of(USER):
        monkeypatch.setattr(find, "_NESTED_LOAD_WAIT_S", 0.01)
        assert callers_under(rules, request) == (UNKNOWN,)
    assert callers_under(rules, request) == (UNNAMED_CALLER,)


LAST = [
    # Nobody waits; root does; a user does; both; root of a user namespace; uid 0 without its capabilities.
    ([], "net-pf-38", False),
    ([lambda: None], "net-pf-38", True),
    ([lambda: None, lambda: None], "net-pf-38", True),
    ([user()], "net-pf-38", False),
    ([lambda: None, user()], "net-pf-38", False),
    ([user(), lambda: None], "net-pf-38", False),
    ([user(user_namespace)], "net-pf-38", False),
    ([user_namespace], "net-pf-38", False),
    ([lambda: os.setresuid(0, 1000, 0)], "net-pf-38", False),
    ([lambda: None], "crypto-x", True),
]


@pytest.mark.parametrize(("everyone", "alias", "privileged"), LAST)
def test_the_last_resort_wants_everyone_privileged(
    stacks: dict[str, list[bytes]], everyone: list[Callable[[], object]], alias: str, privileged: bool
) -> None:
    with ExitStack() as children:
        for become in everyone:
            stacks[f"/proc/{children.enter_context(child(become))}/stack"] = STEADY
        assert last_resort._all_requesters_privileged(alias) is privileged


def test_the_last_resort_takes_no_loading_helper_for_root(
    stacks: dict[str, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_resort, "_NESTED", str(tmp_path / "loads"))
    stacks[f"/proc/{os.getpid()}/stack"] = STEADY
    assert last_resort._all_requesters_privileged("x")
    with on_behalf_of(USER):
        assert not last_resort._all_requesters_privileged("x")


@pytest.mark.parametrize(("alias", "privileged"), [("crypto-x", False), ("crypto-", False), ("net-pf-38", True)])
def test_the_last_resort_takes_no_deputy_for_root(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, alias: str, privileged: bool
) -> None:
    real = proc.stat
    own = os.getpid()
    stacks[f"/proc/{own}/stack"] = STEADY

    def stat(tid: int) -> proc.Stat:
        found = real(tid)
        found.flags |= 0x00200000 if tid == own else 0  # PF_KTHREAD: this process plays one
        return found

    monkeypatch.setattr(proc, "stat", stat)
    assert last_resort._all_requesters_privileged(alias) is privileged


@pytest.mark.parametrize("whom", [USER, ROOT, UNREAD])
def test_the_last_resort_refuses_what_a_module_or_its_loaders_child_asks_for(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, whom: Caller
) -> None:
    """A modprobe that a helper has started for an `install` command holds all capabilities, too."""
    monkeypatch.setattr(last_resort, "_NESTED", nested.FOLDER)
    with child(lambda: None) as pid:
        for tid in (os.getpid(), pid):
            stacks[f"/proc/{tid}/stack"] = STEADY
            assert last_resort._privileged(tid, "x")
        with on_behalf_of(whom):
            assert not last_resort._privileged(os.getpid(), "x") and not last_resort._privileged(pid, "x")
        assert last_resort._privileged(pid, "x")


@pytest.mark.parametrize(
    ("record", "privileged"),
    [
        (b"", False),
        (b"x", False),
        (b"-1 ", False),
        (b"1 2", True),
        (b"9" * 5000, False),
        (b"9" * 20, True),
        (b"\xd9\xa3", False),
    ],
)
def test_what_the_last_resort_makes_of_a_record(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: bytes, privileged: bool
) -> None:
    """One that no helper wrote is no proof; one of a task that had the TID earlier is nobody's."""
    monkeypatch.setattr(last_resort, "_NESTED", str(tmp_path))
    with child(lambda: None) as pid:
        stacks[f"/proc/{pid}/stack"] = STEADY
        for tid in (pid, os.getpid()):
            (tmp_path / str(tid)).write_bytes(record)
            assert last_resort._privileged(pid, "x") is privileged
            (tmp_path / str(tid)).unlink()


def test_the_last_resort_gives_up_on_a_chain_without_an_end(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(last_resort, "_MAX_ANCESTORS", 1)
    stacks[f"/proc/{os.getpid()}/stack"] = STEADY
    assert not last_resort._privileged(os.getpid(), "x")


def test_the_last_resort_refuses_whatever_nobody_waits_for(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module may ask so after its load; then no helper of ours is above anybody who waits."""
    stacks[f"/proc/{os.getpid()}/stack"] = STEADY
    monkeypatch.setattr(proc, "blocked_requesters", lambda: ([os.getpid()], 0))
    monkeypatch.setattr(proc, "count_helpers", lambda: 0)
    for nobody, privileged in ((False, True), (True, False)):
        monkeypatch.setattr(proc, "has_no_requester", lambda nobody=nobody: nobody)
        assert last_resort._all_requesters_privileged("x") is privileged
