"""Attacks by which a user could get a marked module, or root could be refused one. None may succeed."""

import errno
import os
import signal
import subprocess
import threading
import time

from decisions import MARKED, NESTED, SMP, SOFTDEP, expect, setup  # noqa: F401  (the agent calls setup)
from guest import Guest, stack, wait_for

GATE = "/run/gate"
GATED_HELPER = f"""#!/bin/sh
# The usual helper, but it waits while the gate file exists. This holds the window of a race open.
while [ -e {GATE} ]; do sleep 0.02; done
exec /usr/sbin/safe-modprobe "$@"
"""


def close_gate(guest: Guest) -> None:
    """Make every new helper wait before it looks at its caller."""
    guest.write("/run/gated", GATED_HELPER)
    os.chmod("/run/gated", 0o755)
    guest.write(GATE, "")
    guest.write("/proc/sys/kernel/modprobe", "/run/gated\n")


def open_gate(guest: Guest) -> None:
    """Let the waiting helpers continue, and restore the usual helper."""
    os.unlink(GATE)
    guest.write("/proc/sys/kernel/modprobe", "/usr/sbin/safe-modprobe\n")


def start_request(guest: Guest, uid: int, func: object, **privileges: object) -> int:
    """Fork a child that becomes this user and runs func(). Return its TID once it is blocked in request_module()."""
    pid = os.fork()
    if pid == 0:
        try:
            guest.become(uid, **privileges)
            func()  # type: ignore[operator]
        finally:
            os._exit(0)
    wait_for(lambda: b"__request_module" in stack(pid))
    return pid


def reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def count_helpers() -> int:
    """Count the processes that the kernel started as `… -q -- NAME`."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    count += b"\0-q\0--\0" in file.read()
            except OSError:
                pass
    return count


def wait_for_helpers() -> None:
    """Wait until no helper runs."""
    wait_for(lambda: count_helpers() == 0, 60)


def test_a_killed_requester_loads_nothing(guest: Guest) -> None:
    close_gate(guest)
    pid = start_request(guest, 1000, lambda: guest.ask_socket(MARKED, 1, 0))
    os.kill(pid, signal.SIGKILL)
    reap(pid)
    open_gate(guest)
    wait_for_helpers()
    expect(guest, "smp_marked", False)


def test_a_killed_requester_loads_nothing_while_root_requests_another_name(guest: Guest) -> None:
    close_gate(guest)
    root = start_request(guest, 0, lambda: guest.ask_raw(b"nothing-answers-root"))
    user = start_request(guest, 1000, lambda: guest.ask_socket(MARKED, 1, 0))
    os.kill(user, signal.SIGKILL)
    reap(user)
    open_gate(guest)
    reap(root)
    wait_for_helpers()
    expect(guest, "smp_marked", False)


def fork_with_tid(guest: Guest, tid: int, func: object) -> int:
    """Fork a child with this free TID, which runs func(). Try again: each `sleep` at the gate takes a TID as well."""
    for _ in range(100):
        guest.write("/proc/sys/kernel/ns_last_pid", str(tid - 1))
        pid = os.fork()
        if pid == 0:
            if os.getpid() == tid:
                func()  # type: ignore[operator]
            os._exit(0)
        if pid == tid:
            return pid
        reap(pid)
    raise AssertionError(f"the kernel did not assign TID {tid} again")


def test_a_tid_reused_by_a_requesting_root_task_loads_nothing(guest: Guest) -> None:
    close_gate(guest)
    user = start_request(guest, 1000, lambda: guest.ask_socket(MARKED, 1, 0))
    os.kill(user, signal.SIGKILL)
    reap(user)
    wait_for(lambda: not os.path.exists(f"/proc/{user}"))
    root = fork_with_tid(guest, user, lambda: guest.ask_raw(b"nothing-answers-root"))
    wait_for(lambda: b"__request_module" in stack(root))
    open_gate(guest)
    reap(root)
    wait_for_helpers()
    expect(guest, "smp_marked", False)


def test_a_tid_reused_by_an_idle_root_task_loads_nothing(guest: Guest) -> None:
    close_gate(guest)
    user = start_request(guest, 1000, lambda: guest.ask_socket(MARKED, 1, 0))
    os.kill(user, signal.SIGKILL)
    reap(user)
    wait_for(lambda: not os.path.exists(f"/proc/{user}"))
    root = fork_with_tid(guest, user, lambda: time.sleep(30))
    open_gate(guest)
    wait_for_helpers()
    os.kill(root, signal.SIGKILL)
    reap(root)
    expect(guest, "smp_marked", False)


def test_set_user_id_exec_in_another_thread_loads_nothing(guest: Guest) -> None:
    """While the thread leader requests, another thread executes a set-user-ID program and so takes the leader's TID."""
    guest.sh("cp /usr/bin/sleep /usr/local/bin/root-sleep && chmod 4755 /usr/local/bin/root-sleep")
    close_gate(guest)

    def request_and_exec_in_a_thread() -> None:
        def execute() -> None:
            time.sleep(1.5)  # The leader is blocked in its request by then.
            os.execv("/usr/local/bin/root-sleep", ["root-sleep", "60"])

        threading.Thread(target=execute).start()
        guest.ask_socket(MARKED, 1, 0)

    pid = start_request(guest, 1000, request_and_exec_in_a_thread)
    wait_for(lambda: real_and_effective_uid(pid) == (1000, 0))
    open_gate(guest)
    wait_for_helpers()
    os.kill(pid, signal.SIGKILL)
    reap(pid)
    expect(guest, "smp_marked", False)


def real_and_effective_uid(pid: int) -> tuple[int, int]:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("Uid:"):
                words = line.split()
                return int(words[1]), int(words[2])
    raise AssertionError("no Uid line")


def test_forged_trace_lines_load_nothing(guest: Guest) -> None:
    """Each process requests a name that looks like another task's line in the text of the trace."""
    for name in (
        b"x wait=1 call_site=y\n p-1 [000] .... 1.0: module_r",
        b"x\n init-1 [0] .. 9.9: module_request: smp_marked",
        b"smp_marked wait=1 call_site=do_init\nsmp_marked",
        b"smp_marked\n",
        b"\nsmp_marked",
    ):
        guest.run_as(1000, lambda name=name: guest.ask_raw(name))
        expect(guest, "smp_marked", False)


def test_hostile_names_load_nothing_and_run_nothing(guest: Guest) -> None:
    guest.sh("cp /lib/modules/$(uname -r)/*/smp_open.ko /tmp/x.ko 2>/dev/null || cp $(modinfo -n smp_open) /tmp/x.ko")
    guest.sh("rm -f /tmp/pwned")
    names = (
        b"../x", b"/tmp/x.ko", b"./x.ko", b"-r", b"*", b"[", b"smp_*", b"\n", b"$(touch /tmp/pwned)",
        b"`touch /tmp/pwned`", b";touch /tmp/pwned;", b"%s%n%x'\"\\", bytes(range(1, 56)),
        bytes(range(200, 255)), b"A" * 55, b"--",
    )  # fmt: skip
    before = guest.modules()
    for number, name in enumerate(names):
        guest.run_as((0, 1000)[number % 2], lambda name=name: guest.ask_raw(name))
    assert guest.modules() == before
    assert not os.path.exists("/tmp/pwned")
    assert not [line for line in guest.log() if "Traceback" in line or "failed (" in line], guest.log()[-5:]


def test_long_arguments_from_a_shell_get_one_line_of_error(guest: Guest) -> None:
    done = guest.sh("safe-modprobe -- $(head -c 100000 /dev/zero | tr '\\0' A)")
    assert done.returncode == 1
    assert done.stderr == "safe-modprobe: the alias has 100000 bytes; it may have 1 to 4095\n", done.stderr[:300]
    noise = os.urandom(100_000).replace(b"\0", b"")
    for words in (
        [noise],
        [b"-q", b"--", noise],
        [b"-q", b"--", b"smp_marked", *[noise] * 15],
        [noise] * 15,
        [noise] * 100,
    ):
        try:
            done = subprocess.run(["safe-modprobe", *words], capture_output=True, timeout=60)
        except OSError as error:
            assert error.errno == errno.E2BIG  # These are 10 MB; execve(2) accepts at most 6 MB.
            continue
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr and done.stderr.count(b"\n") <= 1, done.stderr[:500]
    expect(guest, "smp_marked", False)


def test_with_a_broken_policy_root_gets_modules_and_users_are_refused(guest: Guest) -> None:
    guest.write("/etc/safe-modprobe/policy.d/00-broken.toml", "[[rule]]\naction = 'alow'\n")
    try:
        assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_open")) == 256
        expect(guest, "smp_open", False)
        assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0
        expect(guest, "smp_marked", True)
        assert any("00-broken.toml:2" in line for line in guest.log()), guest.log()[-4:]
        assert guest.sh("safe-modprobectl reload").returncode == 1
    finally:
        guest.sh("rm /etc/safe-modprobe/policy.d/00-broken.toml")


def test_without_tracefs_root_gets_modules_and_users_are_refused(guest: Guest) -> None:
    guest.sh("rmdir /sys/kernel/tracing/instances/safe-modprobe")
    request = lambda: guest.ask_socket(MARKED, 1, 0)
    guest.run_as(1000, request)
    expect(guest, "smp_marked", False)
    guest.run_as(0, request)
    expect(guest, "smp_marked", True)


def test_without_tracefs_a_killed_requester_loads_nothing_while_root_waits(guest: Guest) -> None:
    guest.sh("rmdir /sys/kernel/tracing/instances/safe-modprobe")
    close_gate(guest)
    root = start_request(guest, 0, lambda: guest.ask_raw(b"nothing-answers-root"))
    user = start_request(guest, 1000, lambda: guest.ask_socket(MARKED, 1, 0))
    os.kill(user, signal.SIGKILL)
    reap(user)
    open_gate(guest)
    reap(root)
    wait_for_helpers()
    expect(guest, "smp_marked", False)


def test_without_tracefs_a_killed_requester_loads_nothing_while_root_requests_in_a_loop(guest: Guest) -> None:
    """Root's next helper starts while the dead requester's helper still walks all tasks, of which there are many."""
    guest.sh("rmdir /sys/kernel/tracing/instances/safe-modprobe")

    def idle() -> None:
        time.sleep(1000)

    def ask() -> None:
        while True:
            guest.ask_raw(b"nothing-answers-root")

    others = []
    for run in [idle] * 150 + [ask]:
        others.append(os.fork())
        if others[-1] == 0:
            run()
    try:
        for _ in range(12):  # The bug that this test is for appeared at the third try.
            user = start_request(guest, 1000, lambda: guest.ask_socket(MARKED, 1, 0))
            os.kill(user, signal.SIGKILL)
            reap(user)
            wait_for(lambda: count_helpers() <= 1)
            expect(guest, "smp_marked", False)
    finally:
        for pid in others:
            os.kill(pid, signal.SIGKILL)
            reap(pid)
        wait_for_helpers()
    expect(guest, "smp_marked", False)


def test_without_tracefs_a_users_nested_request_is_refused(guest: Guest) -> None:
    guest.sh("rmdir /sys/kernel/tracing/instances/safe-modprobe")
    guest.run_as(1000, lambda: guest.ask_socket(NESTED, 1, 0))
    expect(guest, "smp_nested_marked", False)


def test_without_tracefs_a_users_soft_dependency_is_skipped_while_root_waits(guest: Guest) -> None:
    """Both callers may load the target. Only root may load its soft dependency."""
    guest.sh("rmdir /sys/kernel/tracing/instances/safe-modprobe")
    close_gate(guest)
    user = start_request(guest, 1000, lambda: guest.ask_socket(SOFTDEP, 1, 0))
    root = start_request(guest, 0, lambda: guest.ask_raw(b"nothing-answers-root"))
    open_gate(guest)
    reap(user)
    reap(root)
    wait_for_helpers()
    expect(guest, "smp_softdep", True)
    expect(guest, "smp_marked", False)


def test_root_gets_a_soft_dependency_while_a_users_earlier_request_waits(guest: Guest) -> None:
    close_gate(guest)
    user = start_request(guest, 1000, lambda: guest.ask_socket(SOFTDEP, 1, 0))
    root = start_request(guest, 0, lambda: guest.ask_socket(SOFTDEP, 1, 0))
    open_gate(guest)
    reap(user)
    reap(root)
    wait_for_helpers()
    expect(guest, "smp_marked", True)


def test_two_simultaneous_requests_of_root_succeed_on_a_full_disk(guest: Guest) -> None:
    """The first helper reads both requests from the ring and cannot save the other one for the second helper."""
    guest.sh("mkdir -p /run/safe-modprobe && mount -t tmpfs -o size=32k tmpfs /run/safe-modprobe")
    try:
        guest.sh("cat /dev/zero > /run/safe-modprobe/full")
        close_gate(guest)
        requesters = [
            start_request(guest, 0, lambda name=name: guest.ask_raw(name)) for name in (b"smp_marked", b"smp_net_admin")
        ]
        open_gate(guest)
        for pid in requesters:
            reap(pid)
        wait_for_helpers()
        expect(guest, "smp_marked", True)
        expect(guest, "smp_net_admin", True)
    finally:
        guest.sh("umount /run/safe-modprobe")


def test_a_users_nowait_request_is_refused(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_nowait(b"smp_marked"))
    wait_for_helpers()
    expect(guest, "smp_marked", False)


BREAKABLE = (
    "model", "callers/kernel_args", "decide", "policy/schema", "callers/find", "callers/tracefs", "modules/plan", "modules/load",
)  # fmt: skip
LIBRARY = "/usr/lib/safe-modprobe/safe_modprobe"
POLICY_CACHE = "/run/safe-modprobe/policy.cache"
"""Without this file the helper also needs the policy's parser."""


def test_with_any_file_of_the_helper_broken_root_gets_modules_and_users_are_refused(guest: Guest) -> None:
    for name in BREAKABLE:
        path = f"{LIBRARY}/{name}.py"
        with open(path) as file:
            text = file.read()
        try:
            guest.write(path, "raise RuntimeError('broken on purpose')\n")
            guest.sh(f"rm -f {os.path.dirname(path)}/__pycache__/{os.path.basename(name)}.* {POLICY_CACHE}")
            guest.unload(*SMP)
            assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_open")) == 256, name
            assert "smp_open" not in guest.modules(), name
            assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0, (name, guest.log()[-3:])
            assert "smp_marked" in guest.modules(), name
            assert any("broken on purpose" in line for line in guest.log()), (name, guest.log()[-3:])
        finally:
            guest.write(path, text)


def test_with_any_function_failing_root_gets_modules_and_users_are_refused(guest: Guest) -> None:
    rows = (
        ("decide", "decide"), ("modules/plan", "read_plan"), ("modules/load", "load"), ("callers/find", "find_callers"),
        ("policy/files", "read_policy"),
    )  # fmt: skip
    for name, function in rows:
        path = f"{LIBRARY}/{name}.py"
        with open(path) as file:
            text = file.read()
        try:
            guest.write(path, text + f"\ndef {function}(*a, **k):\n    raise MemoryError('broken on purpose')\n")
            guest.sh(f"rm -f {os.path.dirname(path)}/__pycache__/{os.path.basename(name)}.* {POLICY_CACHE}")
            guest.unload(*SMP)
            guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked"))
            assert "smp_marked" not in guest.modules(), (name, function)
            assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0, (function, guest.log()[-3:])
            assert "smp_marked" in guest.modules(), (name, function)
        finally:
            guest.write(path, text)


def test_a_broken_policy_parser_has_no_effect_while_the_policy_is_cached(guest: Guest) -> None:
    wait_for(lambda: guest.run_as(0, lambda: guest.ask_raw(b"nothing-answers")) and os.path.exists(POLICY_CACHE))
    path = f"{LIBRARY}/policy/schema.py"
    with open(path) as file:
        text = file.read()
    try:
        guest.write(path, "raise RuntimeError('broken on purpose')\n")
        guest.sh(f"rm -f {LIBRARY}/policy/__pycache__/schema.*")
        assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_open")) == 0, guest.log()[-3:]
        guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked"))
        expect(guest, "smp_marked", False)
    finally:
        guest.write(path, text)


def test_enable_with_a_broken_helper_changes_nothing(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    before = guest.sh("cat /proc/sys/kernel/modprobe").stdout
    path = f"{LIBRARY}/helper.py"
    with open(path) as file:
        text = file.read()
    try:
        guest.write(path, "raise RuntimeError('broken on purpose')\n")
        guest.sh(f"rm -f {LIBRARY}/__pycache__/helper.*")
        done = guest.sh("safe-modprobectl enable --runtime")
        assert done.returncode == 1 and "kernel.modprobe was not changed" in done.stderr, done
        assert guest.sh("cat /proc/sys/kernel/modprobe").stdout == before
        assert not os.path.exists("/sys/kernel/tracing/instances/safe-modprobe")
    finally:
        guest.write(path, text)


def test_disable_restores_the_previous_helper(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    guest.write("/proc/sys/kernel/modprobe", "/usr/sbin/modprobe\n")
    guest.sh("safe-modprobectl enable --runtime")
    assert guest.sh("safe-modprobectl disable").returncode == 0
    assert guest.sh("cat /proc/sys/kernel/modprobe").stdout == "/usr/sbin/modprobe\n"
    assert not os.path.exists("/sys/kernel/tracing/instances/safe-modprobe")
    guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
    expect(guest, "smp_marked", True)


def test_disable_waits_for_a_helper_that_has_the_ring_open(guest: Guest) -> None:
    reader = os.fork()
    if reader == 0:
        with open("/sys/kernel/tracing/instances/safe-modprobe/per_cpu/cpu0/trace_pipe_raw", "rb", buffering=0):
            guest.write("/run/ring-is-open", "")
            time.sleep(5)
        os._exit(0)
    wait_for(lambda: os.path.exists("/run/ring-is-open"))
    done = guest.sh("safe-modprobectl disable")
    reap(reader)
    assert done.returncode == 0, done.stderr
    assert not os.path.exists("/sys/kernel/tracing/instances/safe-modprobe")


def test_forged_trace_lines_by_af_alg_bind_load_nothing(guest: Guest) -> None:
    """bind(2) puts up to 48 arbitrary bytes after `crypto-`, newlines included."""
    guest.sh("safe-modprobe -q -- net-pf-38; safe-modprobe -q -- algif_hash")
    for name in (
        b"x\n p-1 [0] .... 1.1: module_request: smp_marked",
        b"x wait=1 call_site=y\nsmp_marked",
    ):
        guest.run_as(1000, lambda name=name: guest.ask_alg_bind(b"hash", name[:48]))
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", False)
    guest.unload("algif_hash", "af_alg")


def test_root_gets_a_module_while_40_users_request_it_in_loops(guest: Guest) -> None:
    """This test must be the last: its helpers take long to end, and powering off saves waiting for them."""
    users = []
    for number in range(40):
        pid = os.fork()
        if pid == 0:
            guest.become(2000 + number)
            while True:
                guest.ask_socket(MARKED, 1, 0)
        users.append(pid)
    try:
        time.sleep(1)
        expect(guest, "smp_marked", False)
        guest.run_as(0, lambda: guest.ask_socket(MARKED, 1, 0), timeout=300)
        expect(guest, "smp_marked", True)
    finally:
        for pid in users:
            os.kill(pid, signal.SIGKILL)
