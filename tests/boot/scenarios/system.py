"""Shared by the scenarios: read the state of the system, run commands, and try to load a module as a user."""

import json
import time

from guest import Guest

SYSCTL = "/proc/sys/kernel/modprobe"
HELPER = "/usr/sbin/safe-modprobe"
USUAL = "/sbin/modprobe"
UNIT = "safe-modprobe.service"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0"
ALG, KEY = 38, 15
"""Protocol families of af_alg, which the default policy marks by name, and of af_key, which it marks as a class."""


def setup(guest: Guest) -> None:
    """Unload the modules that the tests ask for. The agent calls this before each test."""
    guest.unload("algif_hash", "af_alg", "af_key")


def kernel_helper() -> str:
    """Return the content of /proc/sys/kernel/modprobe without its newline."""
    with open(SYSCTL) as file:
        return file.read().removesuffix("\n")


def loads_af_alg(guest: Guest, uid: int) -> bool:
    """Return whether socket(AF_ALG) by this user loads af_alg. Unload it again."""
    guest.run_as(uid, lambda: guest.ask_socket(ALG, 5))
    loaded = "af_alg" in guest.modules()
    guest.unload("af_alg")
    return loaded


def check_output(guest: Guest, command: str) -> str:
    """Run a shell command that must succeed, and return its output."""
    done = guest.sh(command)
    assert done.returncode == 0, done
    return done.stdout


def ctl_json(guest: Guest, command: str) -> dict:
    """Return the parsed output of `safe-modprobectl COMMAND --json`."""
    return json.loads(check_output(guest, f"safe-modprobectl {command} --json"))


def unit_state(guest: Guest, unit: str) -> tuple[str, str]:
    """Return the words of `systemctl is-enabled` and `systemctl is-active`."""
    return (
        guest.sh(f"systemctl is-enabled {unit}").stdout.strip(),
        guest.sh(f"systemctl is-active {unit}").stdout.strip(),
    )


def failed_units(guest: Guest) -> list[str]:
    return check_output(guest, "systemctl --failed --no-legend --plain").split()[::5]


def wait_until(guest: Guest, condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, guest.sh(
            "systemctl status 'safe-modprobe*' --no-pager; journalctl -b -n 30"
        ).stdout
        time.sleep(0.1)
