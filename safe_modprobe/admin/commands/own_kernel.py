"""Whether the kernel that runs is this system's own, by the program that the package's scripts ask, too."""

import subprocess

from safe_modprobe.errors import SafeModprobeError

PROGRAM = "/usr/libexec/safe-modprobe/own-kernel"
_NOT_OURS = 1


def refuse_foreign_kernel() -> None:
    """Raises SafeModprobeError in a container and in a chroot, where nothing is to be switched.

    Where the program is not there, or cannot say, it counts as our own: else nobody could switch off.
    """
    try:
        done = subprocess.run([PROGRAM], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return
    if done.returncode == _NOT_OURS:
        raise SafeModprobeError(
            f"this is {done.stdout.strip()}, and the kernel is another system's; nothing was changed: run it there"
        )
