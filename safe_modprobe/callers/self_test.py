"""The helper's notes on the test requests of `enable`: whether it judged them privileged, and by which source."""

import os
from collections.abc import Sequence

from safe_modprobe.model import Caller
from safe_modprobe.runtime import RUN

PATH = f"{RUN}/self-test"


def begin() -> None:
    """Create the file, so that the helper writes its notes to it. Raises OSError."""
    os.close(os.open(PATH, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))


def note(callers: Sequence[Caller], privileged: bool) -> None:
    """Append one line if a test is running. Never raises."""
    try:
        fd = os.open(PATH, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, f"{'privileged' if privileged else 'unprivileged'} {callers[0].source}\n".encode())
    except OSError:
        pass
    finally:
        os.close(fd)


def end() -> list[str]:
    """Remove the file and return its lines: `privileged` or `unprivileged`, and the source. Raises OSError."""
    with open(PATH, encoding="ascii") as file:
        lines = file.read().splitlines()
    os.unlink(PATH)
    return lines
