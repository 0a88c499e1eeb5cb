"""Manage safe-modprobe.service, which switches safe-modprobe on at every boot. Only systemctl(1) does the work."""

import os
import subprocess

from safe_modprobe.errors import SafeModprobeError

UNIT = "safe-modprobe.service"
_TIMER = "safe-modprobe-watch.timer"
_SYSTEMD = "/run/systemd/system"  # sd_booted(3)


def systemd_runs() -> bool:
    """Return whether systemd is the init that runs."""
    return os.path.isdir(_SYSTEMD)


def at_boot() -> bool:
    """Return whether the unit is enabled."""
    return systemd_runs() and _systemctl("is-enabled", "--quiet", UNIT).returncode == 0


def enable() -> bool:
    """Enable the unit. Return False if it was enabled already. Raises SafeModprobeError."""
    if not systemd_runs():
        raise SafeModprobeError(
            "systemd does not run here, so nothing would switch safe-modprobe on at the next boot; nothing was changed:"
            " let your init run 'safe-modprobectl enable --runtime'"
        )
    if at_boot():
        return False
    _run_systemctl("enable", "--quiet", UNIT)
    return True


def start() -> None:
    """Start the unit, so that systemd shows safe-modprobe as on. Raises SafeModprobeError."""
    _run_systemctl("start", UNIT)


def disable() -> bool:
    """Disable and stop the unit. Return True if it was enabled. Raises SafeModprobeError."""
    if not systemd_runs():
        return False
    enabled, active = at_boot(), _systemctl("is-active", "--quiet", UNIT).returncode == 0
    if enabled or active:
        _run_systemctl("disable", "--quiet", "--now", UNIT)
    return enabled


def forget_failure() -> None:
    """Make a failed unit count as stopped, so that packaging/watch does not start it again.

    This starts nothing and does not wait. Raises SafeModprobeError.
    """
    if not systemd_runs():
        return
    if _systemctl("is-failed", "--quiet", UNIT).returncode == 0:
        _run_systemctl("reset-failed", UNIT)
    if _systemctl("is-active", "--quiet", _TIMER).returncode == 0:
        _run_systemctl("--no-block", "stop", _TIMER)


def _run_systemctl(*command: str) -> None:
    done = _systemctl(*command)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SafeModprobeError(f"systemctl {' '.join(command)}: {lines[0]}")


def _systemctl(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(["systemctl", *command], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise SafeModprobeError(f"systemctl: {error.strerror}; systemd runs here, so install its systemctl") from None
