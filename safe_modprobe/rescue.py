"""The rescue of a machine that does not boot: `safe_modprobe=off` or `safe_modprobe=log` on the kernel command line.

Only the person who boots the machine can write there. It imports almost nothing, because the last resort needs it.
"""

from safe_modprobe.runtime import read

CMDLINE = "/proc/cmdline"
OFF, LOG = "off", "log"


def rescue_word(path: str = CMDLINE) -> str:
    """Return OFF (modprobe answers each request), LOG (refuse nothing, record what would be refused) or "" for neither.

    OFF wins over LOG, as it does for the unit's ConditionKernelCommandLine=.
    """
    try:
        words = read(path).split()
    except OSError:
        return ""
    return next((each for each in (OFF, LOG) if f"safe_modprobe={each}".encode() in words), "")
