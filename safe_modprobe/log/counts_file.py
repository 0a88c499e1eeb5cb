"""Read and lock the file in /run that holds the helpers' counts."""

import fcntl
import os
import time

from safe_modprobe.log.counts import SIZE, Counts, parse
from safe_modprobe.runtime import RUN

COUNTS = f"{RUN}/counts"
PENDING = f"{RUN}/counts.pending"
"""This file exists while summaries are still to be written. safe-modprobe-counts.path waits for it."""

_LOCK_TIMEOUT_S, _PAUSE_S = 0.5, 0.001
"""A helper holds the lock for some hundred microseconds, and the kernel may run 50 helpers at a time."""


def read_counts(path: str = COUNTS) -> Counts:
    """Return the current counts, which are empty if the file does not exist. Raises OSError."""
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
    """Take a lock of flock(2) until the descriptor is closed. Raises BlockingIOError after _LOCK_TIMEOUT_S."""
    end = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(_PAUSE_S)
