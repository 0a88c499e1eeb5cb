"""The counts as helpers left them, in /run."""

import fcntl
import os
import time

from safe_modprobe.log.counts import SIZE, Counts, parse
from safe_modprobe.runtime import RUN

COUNTS = f"{RUN}/counts"
PENDING = f"{RUN}/counts.pending"
"""It is there from the first count that nobody has recorded yet: what safe-modprobe-counts.path waits for."""

_PATIENCE_S, _PAUSE_S = 0.5, 0.001
"""Who holds the lock is a helper at work, for some hundred microseconds; 50 of them may stand in line."""


def read_counts(path: str = COUNTS) -> Counts:
    """As they are now; none where nobody has counted. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Counts()
    try:
        lock(fd, fcntl.LOCK_SH)
        return parse(os.read(fd, SIZE))
    finally:
        os.close(fd)


def lock(fd: int, how: int) -> None:
    """Until the descriptor is closed. Raises BlockingIOError where somebody else has it all the time."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(_PAUSE_S)
