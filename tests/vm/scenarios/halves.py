"""Half of an installation: what an upgrade has under way. Users are refused, and root gets its modules."""

import glob
import os
import subprocess

from decisions import MARKED, SMP, expect, setup  # noqa: F401  (setup is the machine's)
from guest import Guest, wait_for

LIB = "/usr/lib/safe-modprobe"
CODE = f"{LIB}/safe_modprobe"
TOMLI = "/usr/lib/python3/dist-packages/tomli"
PYTHON = "/usr/bin/python3"
SYSCTL = "/proc/sys/kernel/modprobe"
HELPER = "/usr/sbin/safe-modprobe"
BOOT, WATCH = "/usr/libexec/safe-modprobe/boot", "/usr/libexec/safe-modprobe/watch"
POLICY_CACHE = "/run/safe-modprobe/policy.cache"
"""Without it, the helper needs the policy and its parser, too."""

ROWS = {
    "the extension is another Python's": ("safe-modprobe failed (ModuleNotFoundError: ", f"{CODE}/kmod.*.so"),
    "libkmod is gone": ("safe-modprobe failed (ImportError: libkmod.so.2", "/usr/lib/*/libkmod.so.2"),
    "the parser is gone": ("safe-modprobe failed (ModuleNotFoundError: No module named 'tomli'", TOMLI),
    "the default policy is gone": (f"{LIB}/policy.d: the default policy is missing", f"{LIB}/policy.d"),
    "the policy's code is gone": ("safe-modprobe failed (", f"{CODE}/policy"),
    "half of the code is gone": ("safe-modprobe failed (", f"{CODE}/[a-l]*"),
    "the other half of the code is gone": ("safe-modprobe failed (", f"{CODE}/[m-z]*", f"{CODE}/helper.py"),
    "the last resort is gone with the helper": (
        "safe-modprobe failed (",
        f"{CODE}/last_resort.py",
        f"{CODE}/helper.py",
    ),
    "all of the code is gone": ("safe-modprobe failed (", CODE),
    "all of ours but the entry is gone": ("safe-modprobe failed (", LIB),
}


class Away:
    """Paths that are not there meanwhile."""

    def __init__(self, *patterns: str) -> None:
        self.paths = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
        assert self.paths, patterns

    def __enter__(self) -> None:
        for path in self.paths:
            os.rename(path, f"{path}.away")

    def __exit__(self, *_: object) -> None:
        for path in self.paths:
            os.rename(f"{path}.away", path)


def row(guest: Guest, said: str, *patterns: str) -> None:
    guest.sh(f"rm -f {POLICY_CACHE}")
    with Away(*patterns):
        assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 256
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", False)
        assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0, guest.log()[-3:]
        expect(guest, "smp_marked", True)
        assert any(said in line for line in guest.log()[-5:]), guest.log()[-5:]


def test_a_helper_that_does_not_run_is_noticed(guest: Guest) -> None:
    """By the watch, which the path unit and dpkg's triggers start: here it is started by hand."""
    assert guest.sh(WATCH).returncode == 0
    with Away(PYTHON):
        guest.run_as(0, lambda: guest.ask_raw(b"smp_marked"))
        expect(guest, "smp_marked", False)  # so long root has lost its modules
        done = guest.sh(WATCH)
        assert done.returncode == 1 and "does not run any more" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout == "/sbin/modprobe\n"
        assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0
        expect(guest, "smp_marked", True)
    guest.unload(*SMP)
    done = guest.sh(WATCH)
    assert done.returncode == 0 and "runs again" in done.stderr, done
    assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
    guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
    expect(guest, "smp_marked", False)


def test_the_watch_leaves_the_last_resort_alone(guest: Guest) -> None:
    with Away(f"{CODE}/kmod.*.so"):
        done = guest.sh(WATCH)
        assert done.returncode == 1 and "root's modules are left to modprobe" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
    assert guest.sh(WATCH).returncode == 0


def test_no_user_can_keep_the_watch_waiting(guest: Guest) -> None:
    """Whoever can open a file can lock it, and dpkg waits for the watch."""
    assert guest.sh(WATCH).returncode == 0
    lock = "/run/safe-modprobe/watch.lock"
    said = guest.run_as(1000, lambda: guest.sh(f"flock -n {lock} true").stderr)
    assert os.path.exists(lock) and "Permission denied" in said, said


def test_the_watch_switches_nothing_on(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    assert guest.sh(WATCH).returncode == 0
    assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"


class Answers:
    """A helper that does this and no more, meanwhile."""

    def __init__(self, guest: Guest, script: str) -> None:
        self.guest, self.script = guest, script

    def __enter__(self) -> None:
        with open(HELPER) as file:
            self.text = file.read()
        self.guest.write(HELPER, f"#!/bin/sh\n{self.script}\n")

    def __exit__(self, *_: object) -> None:
        self.guest.write(HELPER, self.text)


def test_what_is_switched_off_while_the_watch_looks_stays_off(guest: Guest) -> None:
    """At once, and also once the watch has its answer; whether that is a good one or not."""
    for answer in ("echo \"allowed 'safe-modprobe-self-test'\"", "echo nonsense"):
        assert guest.sh("safe-modprobectl enable --runtime; rm -f /run/asked /run/answer").returncode == 0
        with Answers(guest, f": >/run/asked; until [ -e /run/answer ]; do sleep 0.1; done; {answer}"):
            watch = subprocess.Popen([WATCH])
            wait_for(lambda: os.path.exists("/run/asked"))
            disable = subprocess.Popen(["safe-modprobectl", "disable"])
            wait_for(lambda: guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n")
            guest.write("/run/answer", "")
            codes = watch.wait(60), disable.wait(60)
            assert codes == (0, 0), codes
        assert guest.sh(f"cat {SYSCTL}").stdout == "/sbin/modprobe\n"
        assert not os.path.exists("/sys/kernel/tracing/instances/safe-modprobe")
        assert not os.path.exists("/run/safe-modprobe/stood-down")


def test_a_failure_that_passes_is_none(guest: Guest) -> None:
    """Killed, as where memory is short; then it answers."""
    once = "/run/once"
    text = open(HELPER).read()
    guest.write("/run/helper", text)
    os.chmod("/run/helper", 0o755)
    with Answers(guest, f'[ -e {once} ] && exec /run/helper "$@"; : >{once}; kill -9 $$'):
        done = guest.sh(WATCH)
        assert os.path.exists(once) and done.returncode == 0 and "safe-modprobe: " not in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
    os.unlink(once)


def test_in_a_container_nothing_is_switched(guest: Guest) -> None:
    """A privileged one sees, and may write, its host's /proc/sys: here by what systemd leaves in a container."""
    guest.sh("mkdir -p /run/systemd; echo lxc >/run/systemd/container")
    try:
        for command in ("enable --runtime", "disable"):
            done = guest.sh(f"safe-modprobectl {command}")
            said = "safe-modprobectl: this is a container ("
            assert done.returncode == 1 and done.stderr.startswith(said) and done.stderr.count("\n") == 1, done
        with Answers(guest, "echo nonsense"):
            assert guest.sh(WATCH).returncode == 0
        assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
    finally:
        os.unlink("/run/systemd/container")


def test_nothing_was_there_before_and_comes_back(guest: Guest) -> None:
    """An admin had switched off all requests, root's too. Switched on since, root keeps its modules until it is off."""
    guest.sh("safe-modprobectl disable")
    guest.sh(f"echo >{SYSCTL}")
    try:
        assert guest.sh("safe-modprobectl enable --runtime").returncode == 0
        with Answers(guest, "echo nonsense"):
            assert guest.sh(WATCH).returncode == 1
            assert guest.sh(f"cat {SYSCTL}").stdout == "/sbin/modprobe\n"
        assert guest.sh(WATCH).returncode == 0
        assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
        assert guest.sh("safe-modprobectl disable").returncode == 0
        assert guest.sh(f"cat {SYSCTL}").stdout == "\n"
    finally:
        guest.sh("safe-modprobectl disable")
        guest.sh(f"echo /sbin/modprobe >{SYSCTL}")


def test_a_busy_instance_keeps_nothing_from_being_switched_off(guest: Guest) -> None:
    """Somebody has its ring open, and keeps it."""
    instance = "/sys/kernel/tracing/instances/safe-modprobe"
    with open(f"{instance}/trace_pipe"):
        done = guest.sh("safe-modprobectl disable")
    said = f"kernel.modprobe is /sbin/modprobe now, and this failed: {instance}: Device or resource busy\n"
    assert (done.returncode, done.stderr) == (1, f"safe-modprobectl: {said}"), done
    assert guest.sh("safe-modprobectl disable").returncode == 0
    assert not os.path.exists(instance)


def test_a_boot_with_half_of_it_keeps_users_out(guest: Guest) -> None:
    """Who boots in the middle of an upgrade has the last resort: better than nobody who refuses."""
    guest.sh("safe-modprobectl disable")
    guest.sh(f"rm -f {POLICY_CACHE}")
    with Away(f"{CODE}/kmod.*.so", TOMLI, f"{LIB}/policy.d"):
        done = guest.sh(BOOT)
        assert done.returncode == 0 and "is broken" in done.stderr, done
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", False)
        assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0, guest.log()[-3:]


def test_a_boot_with_none_of_it_leaves_plain_modprobe(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    with Answers(guest, "exec /nowhere/python3"):
        done = guest.sh(BOOT)
        assert done.returncode == 1 and "does not run" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"


def test_a_refresh_switches_nothing_on(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    done = guest.sh(f"{BOOT} refresh")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert guest.sh(f"cat {SYSCTL}").stdout == "/sbin/modprobe\n"
    assert not os.path.exists("/sys/kernel/tracing/instances/safe-modprobe")


def test_off_works_with_half_of_it(guest: Guest) -> None:
    with Away(f"{CODE}/kmod.*.so", TOMLI):
        done = guest.sh("safe-modprobectl disable")
        assert done.returncode == 0, done
        assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"
        assert not os.path.exists("/run/safe-modprobe/last-resort")


def test_the_admins_tool_says_what_is_missing(guest: Guest) -> None:
    rows = (
        (f"{CODE}/kmod.*.so", "safe_modprobe.kmod is not there for this Python; install the package anew"),
        (
            f"{CODE}/admin/commands",
            "its own files are not all there (ModuleNotFoundError: No module named 'safe_modprobe.admin.commands'); install the package"
            " anew",
        ),
        (TOMLI, "Python's module tomli is not installed, which this needs; Debian's python3-tomli has it"),
    )
    for path, said in rows:
        with Away(path):
            done = guest.sh("safe-modprobectl status")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"safe-modprobectl: {said}\n"), done


def test_enable_makes_a_request_of_roots_own(guest: Guest) -> None:
    """A helper that answers a dry run, and not the kernel's request: as if something forbade it to look."""
    guest.sh("safe-modprobectl disable")
    before = guest.sh(f"cat {SYSCTL}").stdout
    guest.write("/etc/safe-modprobe/policy.d/00-none.toml", '[settings]\nsources = ["bpf"]\n')
    try:
        done = guest.sh("safe-modprobectl enable --runtime")
        assert done.returncode == 1 and "took root's own request for an unprivileged one" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout == before
        assert not os.path.exists("/run/safe-modprobe/self-test")
    finally:
        os.unlink("/etc/safe-modprobe/policy.d/00-none.toml")


def test_enable_refuses_a_folder_that_others_may_write(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    before = guest.sh(f"cat {SYSCTL}").stdout
    for path in ("/etc/safe-modprobe", "/usr/sbin/safe-modprobectl", LIB):
        os.chown(path, 1000, -1)
        try:
            done = guest.sh("safe-modprobectl enable --runtime")
            assert done.returncode == 1 and f"{path}: it belongs to uid 1000" in done.stderr, done
            assert guest.sh(f"cat {SYSCTL}").stdout == before
        finally:
            os.chown(path, 0, -1)
