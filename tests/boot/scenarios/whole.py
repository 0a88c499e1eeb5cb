"""What the boots of a whole system share: how it is asked whether it is on, and who is served."""

import json
import time

from guest import Guest

SYSCTL = "/proc/sys/kernel/modprobe"
HELPER = "/usr/sbin/safe-modprobe"
USUAL = "/sbin/modprobe"
UNIT = "safe-modprobe.service"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0"
ALG, KEY = 38, 15
"""Protocol families: of af_alg, which the default policy marks, and of af_key, which it marks as a class."""


def setup(guest: Guest) -> None:
    """Before each test: nothing of it in the kernel."""
    guest.unload("algif_hash", "af_alg", "af_key")


def current() -> str:
    with open(SYSCTL) as file:
        return file.read().removesuffix("\n")


def got(guest: Guest, uid: int) -> bool:
    """Whether this user's socket brings af_alg in; it is not there after."""
    guest.run_as(uid, lambda: guest.ask_socket(ALG, 5))
    there = "af_alg" in guest.modules()
    guest.unload("af_alg")
    return there


def well(guest: Guest, command: str) -> str:
    """What the command says, which has to end well."""
    done = guest.sh(command)
    assert done.returncode == 0, done
    return done.stdout


def ctl(guest: Guest, command: str) -> dict:
    """What safe-modprobectl says to machines."""
    return json.loads(well(guest, f"safe-modprobectl {command} --json"))


def state(guest: Guest, unit: str) -> tuple[str, str]:
    """(enabled, active) as systemctl says it."""
    return (
        guest.sh(f"systemctl is-enabled {unit}").stdout.strip(),
        guest.sh(f"systemctl is-active {unit}").stdout.strip(),
    )


def failed(guest: Guest) -> list[str]:
    return well(guest, "systemctl --failed --no-legend --plain").split()[::5]


def in_time(guest: Guest, what, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, guest.sh(
            "systemctl status 'safe-modprobe*' --no-pager; journalctl -b -n 30"
        ).stdout
        time.sleep(0.1)
