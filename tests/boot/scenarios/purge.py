"""The way back: the kernel has its old helper again before a file goes."""

import os
import signal

from guest import Guest
from whole import APT, HELPER, UNIT, USUAL, ctl, current, failed, got, setup, state, well  # noqa: F401

INFO = "/var/lib/dpkg/info/safe-modprobe"


def test_a_removal_that_is_taken_back_leaves_it_as_it_was(guest: Guest) -> None:
    """By the scripts in dpkg's order: another package may refuse once ours has prepared."""
    for how in ("", "--trial", "--runtime"):
        if how == "--runtime":
            well(guest, "safe-modprobectl disable")
        well(guest, f"safe-modprobectl enable {how}")
        before = ctl(guest, f"enable {how}")
        well(guest, f"DPKG_MAINTSCRIPT_PACKAGE=safe-modprobe {INFO}.prerm remove")
        assert (current(), state(guest, UNIT)) == (USUAL, ("disabled", "inactive"))
        well(guest, f"DPKG_MAINTSCRIPT_PACKAGE=safe-modprobe {INFO}.postinst abort-remove")
        assert (current(), ctl(guest, f"enable {how}")) == (HELPER, before)
    well(guest, "safe-modprobectl enable")


def test_purge_puts_the_helper_back_first(guest: Guest) -> None:
    """Watched all the time: whatever the kernel's helper is, it is there."""
    assert current() == HELPER
    watcher = os.fork()
    if watcher == 0:
        looks, seen = 0, set()

        def end(*_: object) -> None:
            guest.write("/run/seen", f"{looks} {' '.join(sorted(seen))}")
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        while True:
            # Before and after, since the kernel's may change while we look.
            helper = current()
            there = os.access(helper, os.X_OK) if helper else False
            seen.add(helper if there or current() != helper else f"nothing-at:{helper}")
            looks += 1
    try:
        well(guest, f"{APT} purge safe-modprobe")
    finally:
        os.kill(watcher, signal.SIGTERM)
        os.waitpid(watcher, 0)
    with open("/run/seen") as file:
        looks, *seen = file.read().split()
    assert int(looks) > 100 and seen == [USUAL, HELPER], (looks, seen)


def test_plain_modprobe_is_back(guest: Guest) -> None:
    assert current() == USUAL
    assert got(guest, 1000)
    assert got(guest, 0)


def test_nothing_is_left(guest: Guest) -> None:
    assert state(guest, UNIT)[1] == "inactive" and failed(guest) == []
    left = well(
        guest,
        "find / -xdev '(' -name '*safe*modprobe*' -o -path '*/safe?modprobe*' ')' -not -path '/deb/*' -not -path '/var/log/*'",
    )
    assert left == "", left
    assert not os.path.exists("/run/safe-modprobe")
    assert not os.path.exists("/sys/kernel/tracing/instances/safe-modprobe")
    assert guest.sh("dpkg-query -W safe-modprobe").returncode == 1
