"""Half of an installation: what an upgrade has under way. Users are refused, and root gets its modules."""

import glob
import os

from decisions import MARKED, SMP, expect, setup  # noqa: F401  (setup is the machine's)
from guest import Guest

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
    "the default policy is gone": (f"{LIB}/policy.d: the default policy is not there", f"{LIB}/policy.d"),
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
    text = open(HELPER).read()
    guest.write(HELPER, "#!/nowhere/python3\n")
    try:
        done = guest.sh(BOOT)
        assert done.returncode == 1 and "does not run" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"
    finally:
        guest.write(HELPER, text)


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
            f"{CODE}/ctl",
            "its own files are not all there (No module named 'safe_modprobe.ctl'); install the package anew",
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
