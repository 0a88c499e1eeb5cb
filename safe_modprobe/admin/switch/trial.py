"""The switch of a trial: a drop-in in /run. A boot removes it, and the last resort can see it without a TOML parser."""

import os

from safe_modprobe.admin.policy import atomic_write
from safe_modprobe.admin.switch.switch import TRIAL_AT_BOOT
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.policy.dropins import FOLDERS, TRIAL_FILE

PATH = f"{FOLDERS[1]}/{TRIAL_FILE}"
_OVERRIDE = f"{FOLDERS[2]}/{TRIAL_FILE}"
_TEXT = b"""\
# Nothing is refused, and would-be refusals are recorded, until a boot, 'safe-modprobectl enable' or 'disable'.
[settings]
trial = true
"""

_ABOUT_BOOT = b"""\
While this file is there, every boot begins with a trial. 'safe-modprobectl enable' or 'disable' removes it.
"""


def start() -> bool:
    """Begin a trial. Return False if one was on already. Raises SafeModprobeError."""
    if os.path.lexists(_OVERRIDE):
        raise SafeModprobeError(
            f"{_OVERRIDE}: it replaces {PATH}, so a trial would have no effect; nothing was changed; remove it"
        )
    before = is_on()
    with atomic_write.open_draft(PATH) as draft:
        draft.commit(_TEXT)
    return not before


def end() -> bool:
    """End the trial. Return False if none was on. Raises SafeModprobeError."""
    return atomic_write.remove(PATH)


def set_at_every_boot(wanted: bool) -> None:
    """Let every boot begin with a trial, or let none. Raises SafeModprobeError."""
    if not wanted:
        atomic_write.remove(TRIAL_AT_BOOT)
    elif not is_at_every_boot():
        with atomic_write.open_draft(TRIAL_AT_BOOT) as draft:
            draft.commit(_ABOUT_BOOT)


def is_at_every_boot() -> bool:
    """Return whether every boot begins with a trial."""
    return os.path.exists(TRIAL_AT_BOOT)


def is_on() -> bool:
    """Return whether the switch exists. A drop-in of the administrator can also say `trial = true`; this ignores it."""
    return os.path.exists(PATH)
