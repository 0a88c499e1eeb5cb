"""The trial's switch: one drop-in below /run, which no boot keeps, and which the last resort finds without a parser."""

import os

from safe_modprobe.admin.policy import atomic_write
from safe_modprobe.admin.switch.switch import TRIAL_AT_BOOT
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.policy.dropins import FOLDERS, TRIAL_FILE

PATH = f"{FOLDERS[1]}/{TRIAL_FILE}"
_REPLACES = f"{FOLDERS[2]}/{TRIAL_FILE}"
_TEXT = b"""\
# Nothing is refused, and what would be is recorded: until the next boot, 'safe-modprobectl enable' or 'disable'.
[settings]
trial = true
"""

_ABOUT_BOOT = b"""\
While this file is there, every boot begins with a trial. 'safe-modprobectl enable' or 'disable' removes it.
"""


def start() -> bool:
    """Write the switch; False where it is there already. Raises SafeModprobeError."""
    if os.path.lexists(_REPLACES):
        raise SafeModprobeError(
            f"{_REPLACES}: it takes the place of {PATH}, so a trial would not hold; nothing was changed, remove it"
        )
    before = is_on()
    with atomic_write.open_draft(PATH) as draft:
        draft.commit(_TEXT)
    return not before


def end() -> bool:
    """Take the switch away; False where there was none. Raises SafeModprobeError."""
    return atomic_write.remove(PATH)


def set_at_every_boot(wanted: bool) -> None:
    """Say so, or no more. Raises SafeModprobeError."""
    if not wanted:
        atomic_write.remove(TRIAL_AT_BOOT)
    elif not is_at_every_boot():
        with atomic_write.open_draft(TRIAL_AT_BOOT) as draft:
            draft.commit(_ABOUT_BOOT)


def is_at_every_boot() -> bool:
    """Whether a trial begins with every boot."""
    return os.path.exists(TRIAL_AT_BOOT)


def is_on() -> bool:
    """Whether the switch is there; a drop-in of the admin's may say `trial = true` besides."""
    return os.path.exists(PATH)
