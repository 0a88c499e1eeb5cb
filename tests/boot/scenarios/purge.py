"""Removal and purge: the kernel gets its old helper back before dpkg deletes the first file."""

import os
import signal

from guest import Guest
from system import (
    APT,
    HELPER,
    UNIT,
    USUAL,
    check_output,
    ctl_json,
    failed_units,
    kernel_helper,
    loads_af_alg,
    setup,  # noqa: F401
    unit_state,
)

INFO = "/var/lib/dpkg/info/safe-modprobe"


def test_an_aborted_removal_restores_the_state_before(guest: Guest) -> None:
    """Run the maintainer scripts in dpkg's order: dpkg may abort the removal after our prerm."""
    for option in ("", "--trial", "--runtime"):
        if option == "--runtime":
            check_output(guest, "safe-modprobectl disable")
        check_output(guest, f"safe-modprobectl enable {option}")
        before = ctl_json(guest, f"enable {option}")
        check_output(guest, f"DPKG_MAINTSCRIPT_PACKAGE=safe-modprobe {INFO}.prerm remove")
        assert (kernel_helper(), unit_state(guest, UNIT)) == (USUAL, ("disabled", "inactive"))
        check_output(guest, f"DPKG_MAINTSCRIPT_PACKAGE=safe-modprobe {INFO}.postinst abort-remove")
        assert (kernel_helper(), ctl_json(guest, f"enable {option}")) == (HELPER, before)
    check_output(guest, "safe-modprobectl enable")


def test_purge_restores_modprobe_before_files_are_deleted(guest: Guest) -> None:
    """A child polls during the purge: the file that the kernel would run exists at every moment."""
    assert kernel_helper() == HELPER
    watcher = os.fork()
    if watcher == 0:
        polls, seen = 0, set()

        def end(*_: object) -> None:
            guest.write("/run/seen", f"{polls} {' '.join(sorted(seen))}")
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        while True:
            # Read the sysctl twice, because it may change between the first read and access(2).
            helper = kernel_helper()
            exists = os.access(helper, os.X_OK) if helper else False
            seen.add(helper if exists or kernel_helper() != helper else f"nothing-at:{helper}")
            polls += 1
    try:
        check_output(guest, f"{APT} purge safe-modprobe")
    finally:
        os.kill(watcher, signal.SIGTERM)
        os.waitpid(watcher, 0)
    with open("/run/seen") as file:
        polls, *seen = file.read().split()
    assert int(polls) > 100 and seen == [USUAL, HELPER], (polls, seen)


def test_the_kernel_runs_modprobe_again(guest: Guest) -> None:
    assert kernel_helper() == USUAL
    assert loads_af_alg(guest, 1000)
    assert loads_af_alg(guest, 0)


def test_purge_leaves_no_file(guest: Guest) -> None:
    assert unit_state(guest, UNIT)[1] == "inactive" and failed_units(guest) == []
    left = check_output(
        guest,
        "find / -xdev '(' -name '*safe*modprobe*' -o -path '*/safe?modprobe*' ')' -not -path '/deb/*' -not -path '/var/log/*'",
    )
    assert left == "", left
    assert not os.path.exists("/run/safe-modprobe")
    assert not os.path.exists("/sys/kernel/tracing/instances/safe-modprobe")
    assert guest.sh("dpkg-query -W safe-modprobe").returncode == 1
