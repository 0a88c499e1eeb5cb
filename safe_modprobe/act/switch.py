"""Switching the kernel over to us and back: kernel.modprobe, and the tracing instance that tells who asks."""

import errno
import os
import time

from safe_modprobe.act.load import MODPROBE
from safe_modprobe.read.trace import CLOCK, EVENT, INSTANCE, MEMORY, RUN, TRACEFS, dump_memory, make_run
from safe_modprobe.read.waiting import read

SYSCTL = "/proc/sys/kernel/modprobe"
_BEFORE = f"{RUN}/modprobe.before"
_SECONDS = 10
"""For helpers that are still at work."""

_BUFFER_KB = "256"
"""Of each processor: some 2,500 requests, while every helper that starts empties it."""


def helper() -> str:
    """The kernel's module helper; empty when module requests are switched off."""
    return os.fsdecode(read(SYSCTL)).removesuffix("\n")


def set_helper(path: str) -> None:
    """Write kernel.modprobe. Raises OSError."""
    _write(SYSCTL, path + "\n")


def remember(path: str) -> None:
    """Keep the helper that was there before, until the next boot."""
    make_run()
    _write(_BEFORE, path, os.O_CREAT | os.O_TRUNC)


def remembered() -> str:
    """The helper that was there before; the kernel's usual one where nobody remembers."""
    try:
        return os.fsdecode(read(_BEFORE))
    except FileNotFoundError:
        return MODPROBE


def make_instance() -> bool:
    """Make our tracing instance listen; True if it was not there before. Raises OSError without tracefs."""
    folder = f"{_tracefs()}/{INSTANCE}"
    try:
        os.mkdir(folder, 0o700)
        made = True
    except FileExistsError:
        made = False
    if f"[{CLOCK}]".encode() not in read(f"{folder}/trace_clock"):  # to set it empties the ring, and somebody may wait
        _write(f"{folder}/trace_clock", CLOCK)
    _write(f"{folder}/buffer_size_kb", _BUFFER_KB)
    if made:  # a memory that is not there counts as one that was lost
        make_run()
        _write(MEMORY, dump_memory({}, 0).decode(), os.O_CREAT | os.O_TRUNC)
    _write(f"{folder}/{EVENT}/enable", "1")
    _write(f"{folder}/tracing_on", "1")
    return made


def remove_instance() -> None:
    """Take the instance away, and what helpers remembered of it. Nothing there is no error."""
    for root in TRACEFS:
        _remove(f"{root}/{INSTANCE}")
    try:
        os.unlink(MEMORY)
    except FileNotFoundError:
        pass


def _remove(folder: str) -> None:
    """A helper that is at work may have the ring open: EBUSY, and no new one starts. Raises OSError."""
    end = time.monotonic() + _SECONDS
    while True:
        try:
            os.rmdir(folder)
            return
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _tracefs() -> str:
    """tracefs, mounted here if nobody has done it. Raises OSError."""
    for root in TRACEFS:
        if os.path.isdir(f"{root}/instances"):
            return root
    os.stat(TRACEFS[0])  # a kernel that has no tracefs has no such folder
    import subprocess  # a rare branch: systemd mounts it everywhere

    subprocess.run(["mount", "-t", "tracefs", "-o", "nosuid,nodev,noexec", "tracefs", TRACEFS[0]], check=False)
    os.stat(f"{TRACEFS[0]}/instances")
    return TRACEFS[0]


def _write(path: str, text: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    try:
        os.write(fd, os.fsencode(text))
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
