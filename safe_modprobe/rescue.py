"""The rescue: `safe_modprobe=off` or `safe_modprobe=log` on the kernel's command line, where only who boots can write.

For a machine that does not come up as it should. It needs nothing but `os`, since the last resort asks it, too.
"""

from safe_modprobe.runtime import read

CMDLINE = "/proc/cmdline"
OFF, LOG = "off", "log"


def rescue_word(path: str = CMDLINE) -> str:
    """OFF: every request is left to modprobe. LOG: nothing is refused, and what would be is recorded. "" for neither.

    Where both are said, OFF counts, as it does for the unit's ConditionKernelCommandLine=.
    """
    try:
        words = read(path).split()
    except OSError:
        return ""
    return next((each for each in (OFF, LOG) if f"safe_modprobe={each}".encode() in words), "")
