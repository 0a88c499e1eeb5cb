"""Check that the running kernel belongs to this system, with the program that the package's scripts use too."""

import subprocess

from safe_modprobe.errors import SafeModprobeError

PROGRAM = "/usr/libexec/safe-modprobe/own-kernel"
_FOREIGN = 1


def refuse_foreign_kernel() -> None:
    """Raise SafeModprobeError in a container or a chroot, where the kernel belongs to another system.

    If the program is missing or cannot tell, the kernel counts as this system's own, so that switching off works.
    """
    try:
        done = subprocess.run([PROGRAM], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return
    if done.returncode == _FOREIGN:
        raise SafeModprobeError(
            f"this is {done.stdout.strip()}, and its kernel is another system's; nothing was changed; run this there"
        )
