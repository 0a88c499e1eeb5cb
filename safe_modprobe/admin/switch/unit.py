"""safe-modprobe.service, which switches it on at every boot: by systemctl(1) alone."""

import os
import subprocess

from safe_modprobe.errors import SafeModprobeError

UNIT = "safe-modprobe.service"
_TIMER = "safe-modprobe-watch.timer"
_SYSTEMD = "/run/systemd/system"  # sd_booted(3)


def systemd_runs() -> bool:
    """Whether there is anybody to ask."""
    return os.path.isdir(_SYSTEMD)


def at_boot() -> bool:
    """Whether the unit is enabled."""
    return systemd_runs() and _systemctl("is-enabled", "--quiet", UNIT).returncode == 0


def enable() -> bool:
    """Have it switched on at every boot; False where it was already. Raises SafeModprobeError."""
    if not systemd_runs():
        raise SafeModprobeError(
            "systemd does not run here, so nobody would switch it on at the next boot; nothing was changed:"
            " have your init run 'safe-modprobectl enable --runtime'"
        )
    if at_boot():
        return False
    _must("enable", "--quiet", UNIT)
    return True


def start() -> None:
    """Let systemd know that it is on. Raises SafeModprobeError."""
    _must("start", UNIT)


def disable() -> bool:
    """Never again at boot, and stopped now; False where it was neither enabled nor active. Raises SafeModprobeError."""
    if not systemd_runs():
        return False
    enabled, active = at_boot(), _systemctl("is-active", "--quiet", UNIT).returncode == 0
    if enabled or active:
        _must("disable", "--quiet", "--now", UNIT)
    return enabled


def forget_failure() -> None:
    """A boot that has failed counts as one that was stopped, which packaging/watch does not make up for.

    Nothing is run by that, and nobody waited for. Raises SafeModprobeError.
    """
    if not systemd_runs():
        return
    if _systemctl("is-failed", "--quiet", UNIT).returncode == 0:
        _must("reset-failed", UNIT)
    if _systemctl("is-active", "--quiet", _TIMER).returncode == 0:
        _must("--no-block", "stop", _TIMER)


def _must(*command: str) -> None:
    done = _systemctl(*command)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise SafeModprobeError(f"systemctl {' '.join(command)}: {said[0]}")


def _systemctl(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(["systemctl", *command], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise SafeModprobeError(f"systemctl: {error.strerror}; it belongs to systemd, which runs here") from None
