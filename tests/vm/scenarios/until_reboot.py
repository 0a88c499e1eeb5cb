"""`safe-modprobectl status` on settings that last until the next boot. This scenario must be the last one."""

import json

from guest import Guest
from status import BY_PROC, expect, setup, status, uses  # noqa: F401  (the agent calls setup)

LOCKDOWN = "/sys/kernel/security/lockdown"
BSET = "/proc/sys/kernel/usermodehelper/bset"


def test_lockdown_confidentiality_closes_tracefs_and_integrity_does_not(guest: Guest) -> None:
    guest.write(LOCKDOWN, "integrity")
    code, output = status(guest)
    assert (code, uses(output)["tracefs"]) == (0, "in use"), output
    guest.write(LOCKDOWN, "confidentiality")
    output = expect(guest, 0, "tracefs", "weaker", f"lockdown=confidentiality blocks tracefs, {BY_PROC}")
    assert uses(output)["proc"] == "in use"
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" in guest.modules()
    text = guest.sh("journalctl -q -o json -t safe-modprobe").stdout.splitlines()
    assert json.loads(text[-1])["SAFE_MODPROBE_SOURCE"] == "proc", text[-1]


def test_helpers_without_cap_sys_ptrace_are_a_problem(guest: Guest) -> None:
    guest.write(BSET, f"{0xFFFFFFFF & ~(1 << 19)} 511\n")
    what = "kernel.usermodehelper.bset lacks CAP_SYS_PTRACE, so helpers cannot identify callers"
    output = expect(guest, 0, "bset", "weaker", what)
    assert set(uses(output).values()) == {"unused"}, output["sources"]
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules(), "the kernel does not do what status says"


def test_helpers_without_cap_sys_module_are_a_problem(guest: Guest) -> None:
    guest.write(BSET, f"{0xFFFFFFFF & ~(1 << 19 | 1 << 16)} 511\n")
    what = "kernel.usermodehelper.bset lacks CAP_SYS_MODULE and CAP_SYS_PTRACE, so helpers cannot load modules"
    expect(guest, 1, "bset", "moot", what)


def test_modules_disabled_is_a_problem(guest: Guest) -> None:
    guest.write("/proc/sys/kernel/modules_disabled", "1")
    what = "kernel.modules_disabled is 1, so no module can be loaded until the next boot"
    output = expect(guest, 1, "modules-disabled", "moot", what)
    assert (output["state"], output["protects"]) == ("on", False)
    assert guest.sh("modprobe af_alg").returncode != 0, "the kernel does not do what status says"
