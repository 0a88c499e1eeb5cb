"""Which tasks the helper takes for the caller: real processes with real credentials, and a kernel stack made up by the test.

The stack is made up, because no task here is blocked in a request. Whole requests are in tests/vm.
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

BLOCKED_AT = b"[<0>] call_usermodehelper_exec+0x1/0x2\n[<0>] __request_module+0x1/0x2\n[<0>] %s+0x1/0x2\n"
CRYPTO_WAIT = b"[<0>] crypto_larval_wait+0x1/0x2\n"
MALFORMED = Caller(Source.KERNEL_ARGS)
LATER = 1 << 62


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[bytes]]:
    """The contents of /proc/TID/stack for one read after another; the last one stays. The rest of /proc is real."""
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
def user_task() -> Iterator[int]:
    with child(user()) as pid:
        yield pid


BLOCKED = [BLOCKED_AT % b"f"]
NOT_BLOCKED = [
    [b""],
    [CRYPTO_WAIT],
    [BLOCKED_AT % b"f", b""],
    [BLOCKED_AT % b"f", BLOCKED_AT % b"g"],
    [BLOCKED_AT % b"f", CRYPTO_WAIT],
    [b"", BLOCKED_AT % b"f"],
]


def test_a_blocked_task_is_the_caller(stacks: dict[str, list[bytes]], user_task: int) -> None:
    stacks[f"/proc/{user_task}/stack"] = BLOCKED
    found = find._read_blocked_caller(user_task, Source.TRACEFS)
    assert found is not None
    assert (found.uid, found.tid, found.source, found.call_site) == (1000, user_task, Source.TRACEFS, "f")


@pytest.mark.parametrize("reads", NOT_BLOCKED)
def test_a_task_must_be_blocked_before_and_after_it_is_read(
    stacks: dict[str, list[bytes]], user_task: int, reads: list[bytes]
) -> None:
    stacks[f"/proc/{user_task}/stack"] = list(reads)
    assert find._read_blocked_caller(user_task, Source.TRACEFS) is None


def test_the_stack_of_a_task_that_is_blocked_elsewhere_is_not_read(
    stacks: dict[str, list[bytes]], user_task: int
) -> None:
    """Reading it blocks during execve(2), which its user can make last: the helper and root's request would hang."""
    stacks[f"/proc/{user_task}/stack"] = BLOCKED
    for wchan, found in (b"request_wait_answer", False), (b"call_usermodehelper_exec", True), (b"0", True), (b"", True):
        stacks[f"/proc/{user_task}/wchan"] = [wchan]
        assert (proc.blocked_call_site(user_task) is not None) is found, wchan
        assert (find._read_blocked_caller(user_task, Source.TRACEFS) is not None) is found, wchan


@pytest.mark.parametrize(
    ("wchan", "traced", "untraced"),
    [(b"call_usermodehelper_exec", "", None), (b"0", None, None), (b"do_exit", None, None)],
)
def test_wchan_suffices_for_a_traced_task_where_stacks_are_hidden(
    monkeypatch: pytest.MonkeyPatch, wchan: bytes, traced: str | None, untraced: str | None
) -> None:
    """kernel.yama.ptrace_scope=3 hides stacks. Without this, root could load no marked module any more."""

    def read(path: str) -> bytes:
        if path.endswith("stack"):
            raise PermissionError
        return wchan

    monkeypatch.setattr(proc, "read", read)
    assert (proc.blocked_call_site(1, traced=True), proc.blocked_call_site(1)) == (traced, untraced)


@pytest.mark.parametrize(("euid", "accepted"), [(1000, True), (0, False)])
def test_a_set_user_id_program_is_not_accepted_where_stacks_are_hidden(
    monkeypatch: pytest.MonkeyPatch, user_task: int, euid: int, accepted: bool
) -> None:
    """It may have taken over the requester's TID, and now be waiting for the helper of a key."""
    monkeypatch.setattr(proc, "kernel_stack", lambda tid, function: (function,))
    monkeypatch.setattr(find, "read_caller", lambda tid, source, site: Caller(source, 1000, euid))
    assert (find._read_blocked_caller(user_task, Source.TRACEFS) is not None) is accepted


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        ([1], [1], True),
        ([0, 2], [1, 2], False),  # a user's task is gone, its helper runs, and root requests something else meanwhile
        ([1, 2], [2, 2], False),
        ([1, 1], [2, 1], True),  # the other task has its answer by the second walk
        ([2, 1], [1, 1], True),
        ([2], [2], False),
        ([1] * 9, [2] * 9, False),
    ],
)
def test_by_proc_the_walk_is_repeated_while_helpers_start_and_end(
    stacks: dict[str, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    before: list[int],
    after: list[int],
    accepted: bool,
) -> None:
    """One task of root's is blocked. A row has the numbers of helpers before each walk, and those after it."""
    stacks[f"/proc/{os.getpid()}/stack"] = BLOCKED
    for search in (
        lambda: find._from_proc(parse(["x"]).request, find._accept_any),
        lambda: last_resort._all_requesters_privileged("x"),
    ):
        first, then = iter(before), iter(after)
        monkeypatch.setattr(proc, "count_helpers", lambda then=then: next(then))
        monkeypatch.setattr(proc, "blocked_requesters", lambda first=first: ([os.getpid()], next(first)))
        assert bool(search()) is accepted


@pytest.mark.parametrize(
    ("walks", "accepted"),
    [
        ([(True, 2, 1), (False, 1, 1)], True),  # the other task got its answer
        ([(True, 2, 2), (False, 2, 2)], False),  # the other task was killed, and its helper runs
        ([(True, 2, 2)] * 9, False),
    ],
)
def test_by_proc_a_task_that_ends_during_the_walk_does_not_cost_root_its_module(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, walks: list[tuple[bool, int, int]], accepted: bool
) -> None:
    """For each walk: whether it finds another task, which ends before it is read, and the helpers before and after."""
    stacks[f"/proc/{os.getpid()}/stack"] = BLOCKED
    with child(lambda: None) as gone:
        pass
    for search in (
        lambda: _known(find._from_proc(parse(["x"]).request, find._accept_any)),
        lambda: last_resort._all_requesters_privileged("x"),
    ):
        first, then = iter(walks), iter(walks)
        monkeypatch.setattr(proc, "count_helpers", lambda then=then: next(then)[2])

        def blocked_requesters(first: Iterator[tuple[bool, int, int]] = first) -> tuple[list[int], int]:
            other, helpers, _ = next(first)
            return [os.getpid(), *[gone] * other], helpers

        monkeypatch.setattr(proc, "blocked_requesters", blocked_requesters)
        assert bool(search()) is accepted


def _known(found: tuple[Caller, ...] | None) -> bool:
    return bool(found) and all(caller.known for caller in found or ())


def test_an_ended_task_is_no_caller(stacks: dict[str, list[bytes]]) -> None:
    with child(lambda: None) as pid:
        stacks[f"/proc/{pid}/stack"] = BLOCKED
    assert find._read_blocked_caller(pid, Source.TRACEFS) is None


INHERITED = [
    (USER, Source.TRACEFS, Source.TRACEFS),
    (USER._replace(source=Source.KERNEL_ARGS), Source.PROC, Source.PROC),
    (USER._replace(source=Source.PROC), Source.TRACEFS, Source.TRACEFS),
    (Caller(Source.PROC), Source.TRACEFS, Source.TRACEFS),
    # Malformed kernel arguments refuse even where the policy trusts unknown callers.
    (MALFORMED, Source.TRACEFS, Source.KERNEL_ARGS),
    (MALFORMED, Source.PROC, Source.KERNEL_ARGS),
]


@pytest.mark.parametrize(("inherited", "source", "expected_source"), INHERITED)
def test_a_loading_helper_and_its_child_inherit_the_helpers_caller(
    stacks: dict[str, list[bytes]], inherited: Caller, source: Source, expected_source: Source
) -> None:
    """This process has root's credentials, and records that it loads for another caller."""
    with child(lambda: None) as pid, on_behalf_of(inherited):
        for tid in (os.getpid(), pid):
            stacks[f"/proc/{tid}/stack"] = BLOCKED
            assert find._read_blocked_caller(tid, source) == inherited._replace(
                source=expected_source, tid=tid, pid=tid, call_site="f"
            )


WHOLE_NAME = b"crypto-authencesn(hmac(sha256),cbc(aes))"
REQUESTED_BY_DEPUTY = [
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


@pytest.mark.parametrize(("part", "expected"), REQUESTED_BY_DEPUTY)
def test_a_deputy_works_for_the_task_that_sleeps_for_the_whole_name(
    stacks: dict[str, list[bytes]], user_task: int, part: bytes, expected: bool
) -> None:
    stacks[f"/proc/{user_task}/stack"] = [CRYPTO_WAIT]
    traced = TracedRequests(
        {user_task: Event(user_task, LATER, True, WHOLE_NAME), 2: Event(2, LATER, True, part)}, False
    )
    found = find._tasks_waiting_for_deputy(traced, traced.events[2])
    assert [each.uid for each in found] == ([1000] if expected else [])


def test_a_loading_helper_that_a_deputy_works_for_is_not_root(stacks: dict[str, list[bytes]]) -> None:
    """A module's init that requests a cipher sleeps in our helper, with root's credentials."""
    own = os.getpid()
    stacks[f"/proc/{own}/stack"] = [CRYPTO_WAIT]
    traced = TracedRequests(
        {own: Event(own, LATER, True, WHOLE_NAME), 2: Event(2, LATER, True, b"crypto-cbc(aes)")}, False
    )
    assert [each.uid for each in find._tasks_waiting_for_deputy(traced, traced.events[2])] == [0]
    with on_behalf_of(USER):
        assert [each.uid for each in find._tasks_waiting_for_deputy(traced, traced.events[2])] == [1000]


OTHER_TASKS: list[tuple[Callable[[], object], list[bytes], int, bytes]] = [
    (user(), [b""], LATER, WHOLE_NAME),
    (user(), [CRYPTO_WAIT, b""], LATER, WHOLE_NAME),
    (user(), [CRYPTO_WAIT], 0, WHOLE_NAME),  # it is younger than the event, so another task had its TID then
    (user(), [CRYPTO_WAIT], LATER, b"net-pf-38"),
    (user(), [CRYPTO_WAIT], LATER, b"x" + WHOLE_NAME),
    (
        lambda: os.setresuid(1000, 0, 0),
        [CRYPTO_WAIT],
        LATER,
        WHOLE_NAME,
    ),  # a set-user-ID program, perhaps not the requester
]


@pytest.mark.parametrize(("become", "reads", "when", "name"), OTHER_TASKS)
def test_a_deputy_does_not_work_for_other_tasks(
    stacks: dict[str, list[bytes]], become: Callable[[], object], reads: list[bytes], when: int, name: bytes
) -> None:
    with child(become) as pid:
        stacks[f"/proc/{pid}/stack"] = list(reads)
        traced = TracedRequests(
            {pid: Event(pid, when, True, name), 2: Event(2, LATER, True, b"crypto-cbc(aes)")}, False
        )
        assert find._tasks_waiting_for_deputy(traced, traced.events[2]) == ()


def test_without_a_blocked_task_only_a_kernel_thread_older_than_its_event_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """request_module_nowait(): an ended task does not affect the others."""
    with child(lambda: None) as ended:
        pass
    real = proc.stat

    def stat(tid: int) -> proc.Stat:
        found = real(tid)
        found.flags |= 0x00200000  # PF_KTHREAD: this process plays a kernel thread
        return found

    monkeypatch.setattr(proc, "stat", stat)
    own, now = os.getpid(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    request = parse(["-q", "--", "x"]).request
    events = {ended: Event(ended, now, False, b"x"), own: Event(own, now, False, b"x")}
    assert [each.tid for each in find._nowait_requesters(request, TracedRequests(events, False)) or ()] == [own]
    younger = {own: Event(own, 0, False, b"x")}
    assert find._nowait_requesters(request, TracedRequests(younger, False)) == ()


def test_a_helper_that_is_run_by_hand_is_the_caller_itself() -> None:
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
def test_kernel_arguments_count_even_when_the_helper_is_run_by_hand(argument: str, claim: Claim, rule: str) -> None:
    """No blocked task adds details to them then."""
    assert callers_under(policy(rule), parse(["-q", "--", "x", argument]).request) == (claimed_caller(claim),)


FS = "grsec_modharden_fs"
SILENCES = [
    # Content of kernel.modprobe_caller_args, whether the policy has kernel_args = "always", kernel arguments; is it root?
    (b"1\n", False, (), True),
    (b"1\n", True, (), True),
    (b"1\n", False, (FS,), True),
    (None, True, (), True),
    (None, False, (), False),
    (None, False, (FS,), False),
    (None, True, (FS,), False),  # grsecurity's, in the place of the uid
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


def test_an_unreadable_promise_is_no_promise(promise: Path) -> None:
    promise.mkdir()
    assert by_kernel_args() is None


@pytest.mark.parametrize(
    "words",
    [("grsec_modharden_normal0_",), (FS, "grsec_modharden_normal1000_"), ("x",), (FS, FS), ("modharden_cap12_",)],
)
def test_a_caller_that_the_kernel_names_has_no_privilege_despite_the_promise(
    promise: Path, words: tuple[str, ...]
) -> None:
    promise.write_bytes(b"1\n")
    for always in (False, True):
        found = by_kernel_args(always, words)
        assert found is not None and found.source is Source.KERNEL_ARGS and not found.capabilities


NETDEV = "grsec_modharden_netdev"
BARE_NAMES = [
    # Content of kernel.modprobe_caller_args, kernel arguments; what root gets for a bare interface name. A kernel with
    # the series passes NETDEV alone only for root.
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
def test_root_may_request_a_bare_name_where_the_kernel_has_the_series(
    promise: Path, content: bytes | None, words: tuple[str, ...], action: str
) -> None:
    """grsecurity refuses it to every caller. No rule of this policy names it."""
    if content is not None:
        promise.write_bytes(content)
    search = parse(["-q", "--", "m", *words]).request
    request = find.resolve_netdev_claim(search)
    assert (request.alias, request.kernel_args) == (search.alias, search.kernel_args)
    assert decide(policy(""), request, ROOT, plan(step("m", N))).action == action
    assert decide(policy(""), request, USER, plan(step("m", Y))).action == "deny"


def test_an_unreadable_promise_keeps_the_claim_about_a_bare_name(promise: Path) -> None:
    promise.mkdir()
    assert find.resolve_netdev_claim(parse(["--", "m", NETDEV]).request).claim.netdev


WAITED, NOT_WAITED = False, True
LOADS = [
    # The caller of a running load, whether a task waits for this request; does silence mean root?
    (ROOT, WAITED, True),
    (ROOT, NOT_WAITED, True),
    (USER, WAITED, False),
    (USER, NOT_WAITED, False),
    (MALFORMED, WAITED, False),
    (Caller(Source.NONE), WAITED, False),
    (ROOT._replace(initial_user_namespace=False), WAITED, False),
    (ROOT._replace(capabilities=ALL & ~(1 << 16)), WAITED, False),
]


@pytest.mark.parametrize(("loaded_for", "no_requester", "root"), LOADS)
def test_a_module_that_is_loaded_for_a_user_makes_no_request_as_root(
    promise: Path, monkeypatch: pytest.MonkeyPatch, loaded_for: Caller, no_requester: bool, root: bool
) -> None:
    promise.write_bytes(b"1\n")
    monkeypatch.setattr(proc, "has_no_requester", lambda: no_requester)
    with on_behalf_of(loaded_for):
        assert [bool(by_kernel_args(always)) for always in (False, True)] == [root, root]
    # After the load, a helper may still start for a request that the module's init did not wait for.
    after = root or not no_requester
    assert [bool(by_kernel_args(always)) for always in (False, True)] == [after, after]


@pytest.mark.parametrize(("seconds", "root"), [(-1, False), (0, False), (59, False), (61, True)])
def test_silence_counts_again_a_minute_after_a_users_load(
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


def test_silence_counts_again_some_time_after_a_loading_helper_was_killed(
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
def loads_for(caller: Caller, seconds: float) -> Iterator[None]:
    """Run another process that loads for this caller, until the time is over or the test ends."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with on_behalf_of(caller):
                os.write(write_end, b"x")
                time.sleep(seconds)
        finally:
            os._exit(0)
    try:
        os.read(read_end, 1)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_end)
        os.close(write_end)


ONLY_KERNEL_ARGS = 'settings.sources = ["kernel-args"]'
WAITED_FOR = [
    # The caller of a load, its seconds, whether a task waits for this request; does silence mean root?
    (USER, 0.2, WAITED, True),
    (USER, 5.0, WAITED, False),
    (USER, 0.2, NOT_WAITED, False),
    (MALFORMED, 0.2, WAITED, True),
    (ROOT, 5.0, WAITED, True),
]


@pytest.mark.parametrize(("loaded_for", "seconds", "no_requester", "root"), WAITED_FOR)
def test_without_another_source_the_helper_waits_for_a_users_load_to_end(
    promise: Path, monkeypatch: pytest.MonkeyPatch, loaded_for: Caller, seconds: float, no_requester: bool, root: bool
) -> None:
    """If the loading module had made this request, its load could not end before the answer."""
    promise.write_bytes(b"1\n")
    monkeypatch.setattr(proc, "started_by_kernel", lambda: True)
    monkeypatch.setattr(proc, "has_no_requester", lambda: no_requester)
    with loads_for(loaded_for, seconds):
        assert callers_under(policy(ONLY_KERNEL_ARGS), parse(["-q", "--", "x"]).request) == (
            UNNAMED_CALLER if root else UNKNOWN,
        )


def test_the_helper_does_not_wait_for_a_load_that_begins_later(
    promise: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise a user could delay root forever."""
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
def test_silence_does_not_count_beside_a_malformed_record_of_a_load(
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
    """Keep only these capabilities, as uid 0: CAP_SETPCAP is 8, CAP_NET_ADMIN 12, CAP_SYS_MODULE 16."""

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


TASKS: list[tuple[str, Callable[[], object], dict[str, object] | None]] = [
    # Kernel arguments, a blocked task; the details of the caller, None where the task does not fit the arguments.
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
def search(promise: Path, stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """A search for the callers while these tasks are blocked, on a kernel that names each unprivileged caller.

    By tracefs, the last request of each task is for this alias.
    """
    promise.write_bytes(b"1\n")
    monkeypatch.setattr(proc, "started_by_kernel", lambda: True)
    monkeypatch.setattr(proc, "has_no_requester", lambda: False)
    monkeypatch.setattr(find, "_RETRY_DELAYS_S", (0.0, 0.0))

    def search_by(words: str, source: Source, *tids: int, rule: str = BY_UNIT, alias: str = "x") -> tuple[Caller, ...]:
        for tid in tids:
            stacks[f"/proc/{tid}/stack"] = BLOCKED
        monkeypatch.setattr(proc, "blocked_requesters", lambda: (list(tids), len(tids)))
        monkeypatch.setattr(proc, "count_helpers", lambda: len(tids))
        events = {tid: Event(tid, LATER, True, os.fsencode(alias)) for tid in tids}
        monkeypatch.setattr(tracefs, "active_instance", lambda: "instance")
        monkeypatch.setattr(tracefs, "read_requests", lambda folder: TracedRequests(events, False))
        sources = f"settings.sources = ['kernel-args', '{source}']\n"
        return callers_under(policy(sources + rule), parse(["-q", "--", alias, *words.split()]).request)

    return search_by


def claimed_by(words: str) -> Caller:
    return claimed_caller(parse(["-q", "--", "x", *words.split()]).request.claim) if words else UNNAMED_CALLER


TASK_SOURCES = [Source.TRACEFS, Source.PROC]


@pytest.mark.parametrize("source", TASK_SOURCES)
@pytest.mark.parametrize(("words", "become", "details"), TASKS)
def test_details_come_from_a_task_that_fits_the_kernel_arguments(
    search: Callable[..., tuple[Caller, ...]],
    source: Source,
    words: str,
    become: Callable[[], object],
    details: dict[str, object] | None,
) -> None:
    with child(become) as pid:
        (found,) = search(words, source, pid)
        if details is None:
            assert found == claimed_by(words)
            return
        known = {key: getattr(found, key) for key in details}
        if details.get("capabilities") == ALL:
            known["capabilities"] = known["capabilities"] and ALL
        assert known == details
        assert (found.source, found.tid, found.seen, found.call_site) == (source, pid, True, "f")


@pytest.mark.parametrize("source", TASK_SOURCES)
def test_of_several_tasks_only_those_that_fit_count(search: Callable[..., tuple[Caller, ...]], source: Source) -> None:
    with child(user()) as one, child(lambda: None) as root, child(by_uid(1001)) as other, child(user()) as two:
        blocked = (one, root, other, two)
        for words, expected in (("", [root]), (NORMAL.format(1001), [other]), (NORMAL.format(1000), [one, two])):
            assert [each.tid for each in search(words, source, *blocked)] == expected
        assert search(NORMAL.format(7), source, *blocked) == (claimed_caller(Claim(True, 7)),)
        assert search("", source) == (UNNAMED_CALLER,)


@pytest.mark.parametrize("rule", ["", BY_UNIT.replace("units", "aliases = ['fs-*'], units")])
def test_tasks_are_read_only_where_a_rule_depends_on_details(
    search: Callable[..., tuple[Caller, ...]], monkeypatch: pytest.MonkeyPatch, user_task: int, rule: str
) -> None:
    monkeypatch.setattr(find, "_SOURCES", {})
    for words in ("", NORMAL.format(1000), "nonsense"):
        assert search(words, Source.TRACEFS, user_task, rule=rule) == (claimed_by(words),)


@pytest.mark.parametrize("source", TASK_SOURCES)
@pytest.mark.parametrize("error", [OSError, ValueError])
def test_the_kernel_arguments_stand_where_the_other_source_fails(
    search: Callable[..., tuple[Caller, ...]], monkeypatch: pytest.MonkeyPatch, source: Source, error: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(proc, "has_no_requester", lambda: False)
    for words in ("", NORMAL.format(1000)):
        search(words, source)  # sets up the fixture
        with monkeypatch.context() as broken:
            broken.setattr(find, "_blocked_callers", fail)
            broken.setattr(find, "_read_blocked_caller", fail)
            assert search(words, source, 1) == (claimed_by(words),)


@pytest.mark.parametrize("source", TASK_SOURCES)
def test_a_helper_that_loads_for_a_user_is_never_taken_for_root(
    search: Callable[..., tuple[Caller, ...]], source: Source
) -> None:
    """Silence proves nothing meanwhile. The next source finds the helper, which inherits its caller."""
    own = os.getpid()
    assert [each.uid for each in search("", source, own)] == [0]
    with on_behalf_of(USER):
        assert [each.uid for each in search("", source, own)] == [1000]


KTHREAD = ROOT._replace(kernel_thread=True)
DEPUTIES = "call_site = [{ aliases = ['deputy-*', 'crypto-*'], deputy = true }]\n"
KERNEL_THREADS = [
    # Kernel arguments, alias, tasks that a kernel thread works for; the caller: one of them, the thread, or None of them.
    ("", "x", (), KTHREAD),
    ("", "deputy-x", (), KTHREAD),
    ("", "crypto-x", (), None),
    ("", "crypto-x", (USER,), None),
    ("", "crypto-x", (USER, ROOT), ROOT),
    (NORMAL.format(1000), "x", (), None),
    (NORMAL.format(0), "x", (), None),
    (NORMAL.format(1000), "crypto-x", (), None),
    (NORMAL.format(1000), "crypto-x", (ROOT,), None),
    (NORMAL.format(1000), "crypto-x", (MALFORMED,), None),
    (NORMAL.format(1000), "crypto-x", (ROOT, USER), USER),
]


@pytest.mark.parametrize(("words", "alias", "tasks", "expected"), KERNEL_THREADS)
def test_a_kernel_thread_may_act_with_a_users_credentials(
    words: str, alias: str, tasks: tuple[Caller, ...], expected: Caller | None
) -> None:
    thread = KTHREAD._replace(working_for=tasks)
    accept = find._filter_by_claim(parse(["--", alias]).request, claimed_by(words), False)
    assert accept(thread) == ({KTHREAD: (thread,), None: (claimed_by(words),)}.get(expected) or (expected,))


def test_root_is_found_where_a_deputy_may_have_made_the_request(search: Callable[..., tuple[Caller, ...]]) -> None:
    """Without reading the task, the caller would be unknown, and root refused."""
    (found,) = search("", Source.TRACEFS, os.getpid(), rule=DEPUTIES, alias="deputy-x")
    assert (found.uid, found.kernel_thread) == (0, False)
    assert search("", Source.TRACEFS, rule=DEPUTIES, alias="deputy-x") == (UNNAMED_CALLER,)
    with child(user()) as other:  # it may be the requester behind a deputy
        found = search("", Source.PROC, os.getpid(), other, rule=DEPUTIES, alias="deputy-x")
        assert [each.tid for each in found] == [os.getpid(), None] and found[1] == UNNAMED_CALLER
        found = search("", Source.TRACEFS, os.getpid(), other, rule=DEPUTIES, alias="deputy-x")
        assert [each.tid for each in found] == [os.getpid()]
    assert search("", Source.TRACEFS, os.getpid(), rule=DEPUTIES, alias="crypto-x") == (
        UNNAMED_CALLER,
    ), "a crypto deputy has its user's credentials there"


SELF_TESTS = [
    # The caller of a load, seconds since it ended; the alias, the task that the other source finds; the caller.
    (USER, 0, "crypto-x", None, None),
    (USER, 59, "crypto-x", None, None),
    (USER, 0, "crypto-x", "a kernel thread", None),  # cryptomgr_test, which works for no task
    (USER, 0, "crypto-x", "a user", 1000),
    (USER, 0, "cryptomgr", None, None),
    (MALFORMED, 0, "crypto-x", None, None),
    (USER, 0, "crypto-x", "root", 0),
    (USER, 61, "crypto-x", "a kernel thread", UNNAMED_CALLER),
    (USER, 61, "crypto-x", None, UNNAMED_CALLER),
    (ROOT, 0, "crypto-x", "a kernel thread", UNNAMED_CALLER),
    (USER, 0, "x", "a kernel thread", UNNAMED_CALLER),
    (USER, 0, "xcrypto-x", None, UNNAMED_CALLER),
]


@pytest.mark.parametrize("source", TASK_SOURCES)
@pytest.mark.parametrize(("loaded_for", "seconds", "alias", "blocked", "expected"), SELF_TESTS)
def test_the_self_test_of_a_users_algorithm_makes_no_request_as_root(
    search: Callable[..., tuple[Caller, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Source,
    loaded_for: Caller,
    seconds: int,
    alias: str,
    blocked: str | None,
    expected: object,
) -> None:
    """From Linux 6.12 on a module's init does not wait for cryptomgr_test, which has our helper's credentials."""
    with on_behalf_of(loaded_for):
        pass
    if (tmp_path / "loads.ended").exists():
        when = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - seconds * 10**9
        os.utime(tmp_path / "loads.ended", ns=(when, when))
    with child(user() if blocked == "a user" else lambda: None) as pid:
        monkeypatch.setattr(find, "_tasks_waiting_for_deputy", lambda seen, event: ())
        monkeypatch.setattr("safe_modprobe.callers.tasks._is_kernel_thread", lambda tid: blocked == "a kernel thread")
        found = search("", source, *[pid] * (blocked is not None), rule=DEPUTIES, alias=alias)
        if expected is UNNAMED_CALLER:
            assert found == (UNNAMED_CALLER,)
            return
        judged = [
            each for caller in found for each in principals(policy(DEPUTIES), parse(["--", alias]).request, caller)
        ]
        assert [each.uid for each in judged] == [expected] and {each.source for each in judged} == {source}


@pytest.mark.parametrize("sources", ["'kernel-args'", "'kernel-args', 'tracefs'"])
def test_without_another_source_silence_counts_for_an_algorithm(
    search: Callable[..., tuple[Caller, ...]], monkeypatch: pytest.MonkeyPatch, sources: str
) -> None:
    """Otherwise root could load no cipher for a minute after a user loads one."""
    monkeypatch.setattr(tracefs, "active_instance", lambda: None)
    request, rules = parse(["-q", "--", "crypto-x"]).request, policy(f"settings.sources = [{sources}]\n{DEPUTIES}")
    with on_behalf_of(USER):
        monkeypatch.setattr(find, "_NESTED_LOAD_WAIT_S", 0.01)
        assert callers_under(rules, request) == (UNKNOWN,)
    assert callers_under(rules, request) == (UNNAMED_CALLER,)


BLOCKED_TASKS = [
    # No task; root; two of root's; a user; root and a user; root of a user namespace; uid 0 without capabilities.
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


@pytest.mark.parametrize(("tasks", "alias", "privileged"), BLOCKED_TASKS)
def test_the_last_resort_requires_that_all_blocked_tasks_are_privileged(
    stacks: dict[str, list[bytes]], tasks: list[Callable[[], object]], alias: str, privileged: bool
) -> None:
    with ExitStack() as children:
        for become in tasks:
            stacks[f"/proc/{children.enter_context(child(become))}/stack"] = BLOCKED
        assert last_resort._all_requesters_privileged(alias) is privileged


def test_the_last_resort_does_not_take_a_loading_helper_for_root(
    stacks: dict[str, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_resort, "_NESTED", str(tmp_path / "loads"))
    stacks[f"/proc/{os.getpid()}/stack"] = BLOCKED
    assert last_resort._all_requesters_privileged("x")
    with on_behalf_of(USER):
        assert not last_resort._all_requesters_privileged("x")


@pytest.mark.parametrize(("alias", "privileged"), [("crypto-x", False), ("crypto-", False), ("net-pf-38", True)])
def test_the_last_resort_does_not_take_a_deputy_for_root(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, alias: str, privileged: bool
) -> None:
    real = proc.stat
    own = os.getpid()
    stacks[f"/proc/{own}/stack"] = BLOCKED

    def stat(tid: int) -> proc.Stat:
        found = real(tid)
        found.flags |= 0x00200000 if tid == own else 0  # PF_KTHREAD: this process plays a kernel thread
        return found

    monkeypatch.setattr(proc, "stat", stat)
    assert last_resort._all_requesters_privileged(alias) is privileged


@pytest.mark.parametrize("loaded_for", [USER, ROOT, MALFORMED])
def test_the_last_resort_refuses_requests_of_a_loading_helper_and_its_child(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, loaded_for: Caller
) -> None:
    """A modprobe that a helper started for an `install` command holds all capabilities."""
    monkeypatch.setattr(last_resort, "_NESTED", nested.FOLDER)
    with child(lambda: None) as pid:
        for tid in (os.getpid(), pid):
            stacks[f"/proc/{tid}/stack"] = BLOCKED
            assert last_resort._privileged(tid, "x")
        with on_behalf_of(loaded_for):
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
def test_the_last_resort_ignores_only_a_record_with_another_start_time(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: bytes, privileged: bool
) -> None:
    """A malformed record counts. One with another start time is of an earlier task with this TID."""
    monkeypatch.setattr(last_resort, "_NESTED", str(tmp_path))
    with child(lambda: None) as pid:
        stacks[f"/proc/{pid}/stack"] = BLOCKED
        for tid in (pid, os.getpid()):
            (tmp_path / str(tid)).write_bytes(record)
            assert last_resort._privileged(pid, "x") is privileged
            (tmp_path / str(tid)).unlink()


def test_the_last_resort_refuses_a_task_below_too_many_ancestors(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(last_resort, "_MAX_ANCESTORS", 1)
    stacks[f"/proc/{os.getpid()}/stack"] = BLOCKED
    assert not last_resort._privileged(os.getpid(), "x")


def test_the_last_resort_refuses_requests_that_no_task_waits_for(
    stacks: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module may make such a request after its load, when no helper is an ancestor of a blocked task."""
    stacks[f"/proc/{os.getpid()}/stack"] = BLOCKED
    monkeypatch.setattr(proc, "blocked_requesters", lambda: ([os.getpid()], 0))
    monkeypatch.setattr(proc, "count_helpers", lambda: 0)
    for no_requester, privileged in ((False, True), (True, False)):
        monkeypatch.setattr(proc, "has_no_requester", lambda no_requester=no_requester: no_requester)
        assert last_resort._all_requesters_privileged("x") is privileged
