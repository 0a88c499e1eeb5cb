"""With half of the package installed, as during an upgrade, users are refused and root gets its modules."""

import glob
import os
import subprocess

from decisions import MARKED, SMP, expect, setup  # noqa: F401  (the agent calls setup)
from guest import Guest, wait_for

LIB = "/usr/lib/safe-modprobe"
CODE = f"{LIB}/safe_modprobe"
TOMLI = "/usr/lib/python3/dist-packages/tomli"
PYTHON = "/usr/bin/python3"
SYSCTL = "/proc/sys/kernel/modprobe"
HELPER = "/usr/sbin/safe-modprobe"
BOOT, WATCH = "/usr/libexec/safe-modprobe/boot", "/usr/libexec/safe-modprobe/watch"
POLICY_CACHE = "/run/safe-modprobe/policy.cache"
"""Without this file the helper also needs the policy and its parser."""

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


class Hidden:
    """Context manager: move these paths away, and back at its end."""

    def __init__(self, *patterns: str) -> None:
        self.paths = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
        assert self.paths, patterns

    def __enter__(self) -> None:
        for path in self.paths:
            os.rename(path, f"{path}.away")

    def __exit__(self, *_: object) -> None:
        for path in self.paths:
            os.rename(f"{path}.away", path)


def row(guest: Guest, message: str, *patterns: str) -> None:
    """With these paths hidden, check both callers' requests, and that a record contains the message."""
    guest.sh(f"rm -f {POLICY_CACHE}")
    with Hidden(*patterns):
        assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 256
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", False)
        assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0, guest.log()[-3:]
        expect(guest, "smp_marked", True)
        assert any(message in line for line in guest.log()[-5:]), guest.log()[-5:]


def test_the_watch_replaces_a_helper_that_does_not_run(guest: Guest) -> None:
    """The watch notices it. The path unit and dpkg's triggers start the watch; this test runs it by hand."""
    assert guest.sh(WATCH).returncode == 0
    with Hidden(PYTHON):
        guest.run_as(0, lambda: guest.ask_raw(b"smp_marked"))
        expect(guest, "smp_marked", False)  # Until the watch runs, root gets no modules either.
        done = guest.sh(WATCH)
        assert done.returncode == 1 and "no longer runs" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout == "/sbin/modprobe\n"
        assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0
        expect(guest, "smp_marked", True)
    guest.unload(*SMP)
    done = guest.sh(WATCH)
    assert done.returncode == 0 and "runs again" in done.stderr, done
    assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
    guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
    expect(guest, "smp_marked", False)


def test_the_watch_keeps_a_helper_whose_last_resort_works(guest: Guest) -> None:
    with Hidden(f"{CODE}/kmod.*.so"):
        done = guest.sh(WATCH)
        assert done.returncode == 1 and "root's requests are left to modprobe" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
    assert guest.sh(WATCH).returncode == 0


def test_a_user_cannot_lock_the_watchs_lock_file(guest: Guest) -> None:
    """Any process that can open a file can lock it, and dpkg waits for the watch."""
    assert guest.sh(WATCH).returncode == 0
    lock = "/run/safe-modprobe/watch.lock"
    output = guest.run_as(1000, lambda: guest.sh(f"flock -n {lock} true").stderr)
    assert os.path.exists(lock) and "Permission denied" in output, output


def test_the_watch_does_not_switch_safe_modprobe_on(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    assert guest.sh(WATCH).returncode == 0
    assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"


class FakeHelper:
    """Context manager: replace the helper by a shell script, and restore it at the end."""

    def __init__(self, guest: Guest, script: str) -> None:
        self.guest, self.script = guest, script

    def __enter__(self) -> None:
        with open(HELPER) as file:
            self.text = file.read()
        self.guest.write(HELPER, f"#!/bin/sh\n{self.script}\n")

    def __exit__(self, *_: object) -> None:
        self.guest.write(HELPER, self.text)


def test_disable_during_a_run_of_the_watch_stays_in_force(guest: Guest) -> None:
    """`disable` wins though the watch is testing the helper, whether that test then succeeds or fails."""
    for answer in ("echo \"allowed 'safe-modprobe-self-test'\"", "echo nonsense"):
        assert guest.sh("safe-modprobectl enable --runtime; rm -f /run/asked /run/answer").returncode == 0
        with FakeHelper(guest, f": >/run/asked; until [ -e /run/answer ]; do sleep 0.1; done; {answer}"):
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


def test_the_watch_ignores_a_temporary_failure(guest: Guest) -> None:
    """The first helper is killed, as by the OOM killer. The second one answers."""
    once = "/run/once"
    text = open(HELPER).read()
    guest.write("/run/helper", text)
    os.chmod("/run/helper", 0o755)
    with FakeHelper(guest, f'[ -e {once} ] && exec /run/helper "$@"; : >{once}; kill -9 $$'):
        done = guest.sh(WATCH)
        assert os.path.exists(once) and done.returncode == 0 and "safe-modprobe: " not in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
    os.unlink(once)


def test_in_a_container_enable_disable_and_watch_change_nothing(guest: Guest) -> None:
    """A privileged container can write its host's /proc/sys. The test creates the file by which systemd marks one."""
    guest.sh("mkdir -p /run/systemd; echo lxc >/run/systemd/container")
    try:
        for command in ("enable --runtime", "disable"):
            done = guest.sh(f"safe-modprobectl {command}")
            output = "safe-modprobectl: this is a container ("
            assert done.returncode == 1 and done.stderr.startswith(output) and done.stderr.count("\n") == 1, done
        with FakeHelper(guest, "echo nonsense"):
            assert guest.sh(WATCH).returncode == 0
        assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
    finally:
        os.unlink("/run/systemd/container")


def test_disable_restores_an_empty_kernel_modprobe(guest: Guest) -> None:
    """The administrator had emptied kernel.modprobe. If the helper breaks, root still gets modules until `disable`."""
    guest.sh("safe-modprobectl disable")
    guest.sh(f"echo >{SYSCTL}")
    try:
        assert guest.sh("safe-modprobectl enable --runtime").returncode == 0
        with FakeHelper(guest, "echo nonsense"):
            assert guest.sh(WATCH).returncode == 1
            assert guest.sh(f"cat {SYSCTL}").stdout == "/sbin/modprobe\n"
        assert guest.sh(WATCH).returncode == 0
        assert guest.sh(f"cat {SYSCTL}").stdout == f"{HELPER}\n"
        assert guest.sh("safe-modprobectl disable").returncode == 0
        assert guest.sh(f"cat {SYSCTL}").stdout == "\n"
    finally:
        guest.sh("safe-modprobectl disable")
        guest.sh(f"echo /sbin/modprobe >{SYSCTL}")


def test_disable_restores_modprobe_though_the_instance_is_busy(guest: Guest) -> None:
    """A process keeps the ring of the tracing instance open."""
    instance = "/sys/kernel/tracing/instances/safe-modprobe"
    with open(f"{instance}/trace_pipe"):
        done = guest.sh("safe-modprobectl disable")
    output = f"kernel.modprobe is now /sbin/modprobe, but this failed: {instance}: Device or resource busy\n"
    assert (done.returncode, done.stderr) == (1, f"safe-modprobectl: {output}"), done
    assert guest.sh("safe-modprobectl disable").returncode == 0
    assert not os.path.exists(instance)


def test_a_boot_with_half_of_the_package_refuses_users(guest: Guest) -> None:
    """A system that boots during an upgrade uses the last resort, which still refuses users."""
    guest.sh("safe-modprobectl disable")
    guest.sh(f"rm -f {POLICY_CACHE}")
    with Hidden(f"{CODE}/kmod.*.so", TOMLI, f"{LIB}/policy.d"):
        done = guest.sh(BOOT)
        assert done.returncode == 0 and "is broken" in done.stderr, done
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", False)
        assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0, guest.log()[-3:]


def test_a_boot_with_a_helper_that_does_not_run_keeps_modprobe(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    with FakeHelper(guest, "exec /nowhere/python3"):
        done = guest.sh(BOOT)
        assert done.returncode == 1 and "does not run" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"


def test_a_refresh_does_not_switch_safe_modprobe_on(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    done = guest.sh(f"{BOOT} refresh")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert guest.sh(f"cat {SYSCTL}").stdout == "/sbin/modprobe\n"
    assert not os.path.exists("/sys/kernel/tracing/instances/safe-modprobe")


def test_disable_works_with_half_of_the_package(guest: Guest) -> None:
    with Hidden(f"{CODE}/kmod.*.so", TOMLI):
        done = guest.sh("safe-modprobectl disable")
        assert done.returncode == 0, done
        assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"
        assert not os.path.exists("/run/safe-modprobe/last-resort")


def test_safe_modprobectl_names_the_missing_part(guest: Guest) -> None:
    rows = (
        (f"{CODE}/kmod.*.so", "safe_modprobe.kmod is missing for this version of Python; reinstall the package"),
        (
            f"{CODE}/admin/commands",
            "files of the package are missing or damaged (ModuleNotFoundError: No module named 'safe_modprobe.admin.commands'); reinstall"
            " the package",
        ),
        (TOMLI, "the Python module tomli is missing; install it (Debian package python3-tomli)"),
    )
    for path, output in rows:
        with Hidden(path):
            done = guest.sh("safe-modprobectl status")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"safe-modprobectl: {output}\n"), done


def test_enable_fails_when_its_own_request_as_root_is_refused(guest: Guest) -> None:
    """The helper passes a dry run, but cannot find the caller of the kernel's request."""
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


def test_enable_fails_when_a_path_does_not_belong_to_root(guest: Guest) -> None:
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
