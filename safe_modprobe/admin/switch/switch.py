"""Switching the kernel over to us and back: kernel.modprobe, and the tracing instance that tells who asks."""

import errno
import os
import time

from safe_modprobe.callers.tracefs import CLOCK, EVENT, INSTANCE, MEMORY, STOOD_DOWN, TRACEFS, dump_memory
from safe_modprobe.modules.modprobe import MODPROBE
from safe_modprobe.runtime import RUN, make_run_folder, read

HELPER = "/usr/sbin/safe-modprobe"
SYSCTL = "/proc/sys/kernel/modprobe"
TRIAL_AT_BOOT = "/etc/safe-modprobe/trial"
"""While it is there, every boot begins with a trial: see admin/switch/trial.py."""

_BEFORE = f"{RUN}/modprobe.before"
_LOCK = f"{RUN}/watch.lock"
LAST_RESORT_FOLDER = f"{RUN}/last-resort"
"""Where packaging/safe-modprobe.in looks for the last resort, once the package's own is gone."""

LAST_RESORT_FILES = (
    "__init__", "last_resort", "rescue", "runtime", "callers/__init__", "callers/proc", "log/__init__", "log/record",
    "modules/__init__", "modules/modprobe",
)  # fmt: skip
"""All that it imports of ours."""

_CODE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_SECONDS = 10
"""For helpers that are still at work."""

_WATCH_SECONDS = 130
"""The longest that packaging/watch keeps its lock, while it looks at a helper that hangs."""

_BUFFER_KB = "256"
"""Of each processor: some 2,500 requests, while every helper that starts empties it."""


def helper() -> str:
    """The kernel's module helper; empty when module requests are switched off."""
    return os.fsdecode(read(SYSCTL)).removesuffix("\n")


def is_on() -> bool:
    """Whether the kernel's helper is ours, by whatever name: /sbin is often a link. Raises OSError."""
    now = helper()
    try:
        return now == HELPER or (bool(now) and os.path.samefile(now, HELPER))
    except OSError:
        return False


def set_helper(path: str) -> None:
    """Write kernel.modprobe. Raises OSError."""
    _write(SYSCTL, path + "\n")


def install_helper() -> str:
    """Become the kernel's helper, and remember the one that was there; that one. Raises OSError."""
    before = helper()
    if not is_on():
        remember_helper(before)  # first: an empty one that nobody remembers would come back as modprobe
    if before != HELPER:
        set_helper(HELPER)
    forget(STOOD_DOWN)
    return before


def restore_helper() -> None:
    """The helper that was there before is the kernel's, and the watch does not bring ours back. Raises OSError."""
    if is_on():
        set_helper(remembered_helper())
    forget(STOOD_DOWN)


def wait_for_watch() -> int:
    """The descriptor by which no watch is at work until it is closed: one that began before might act after us.

    Whoever switches off does not wait for ever: then it is had without. Raises OSError.
    """
    import fcntl  # when switching off alone

    make_run_folder()
    fd = os.open(_LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < end:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.05)
    return fd


def forget(path: str) -> None:
    """Remove a file of ours. None there is no error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def copy_last_resort() -> None:
    """Copy the last resort to where no upgrade takes it away. Raises OSError."""
    make_run_folder()
    for name in LAST_RESORT_FILES:
        path = f"{LAST_RESORT_FOLDER}/safe_modprobe/{name}.py"
        for folder in (LAST_RESORT_FOLDER, f"{LAST_RESORT_FOLDER}/safe_modprobe", os.path.dirname(path)):
            make_run_folder(folder)  # makedirs() leaves those between to the umask
        _write(f"{path}.new", os.fsdecode(read(f"{_CODE}/{name}.py", 1 << 20)), os.O_CREAT | os.O_TRUNC)
        os.rename(f"{path}.new", path)


def remove_prepared_files() -> None:
    """The tracing instance, and what was put aside. Nothing there is no error; raises OSError."""
    import shutil  # when switching off alone

    shutil.rmtree(LAST_RESORT_FOLDER, ignore_errors=True)
    forget(STOOD_DOWN)
    remove_instance()


def remember_helper(path: str) -> None:
    """Keep the helper that was there before, until the next boot."""
    make_run_folder()
    _write(f"{_BEFORE}.new", path, os.O_CREAT | os.O_TRUNC)
    os.rename(f"{_BEFORE}.new", _BEFORE)  # half of it would be the helper once: an empty one asks nobody


def remembered_helper() -> str:
    """The helper that was there before, or none; the kernel's usual one where nobody remembers, or it is gone."""
    try:
        before = os.fsdecode(read(_BEFORE))
    except FileNotFoundError:
        return MODPROBE
    return before if not before or os.access(before, os.X_OK) else MODPROBE


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
        make_run_folder()
        _write(MEMORY, dump_memory({}, 0).decode(), os.O_CREAT | os.O_TRUNC)
    _write(f"{folder}/{EVENT}/enable", "1")
    _write(f"{folder}/tracing_on", "1")
    return made


def remove_instance() -> None:
    """Take the instance away, and what helpers remembered of it. Nothing there is no error."""
    for root in TRACEFS:
        _remove(f"{root}/{INSTANCE}")
    forget(MEMORY)


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
        left = os.fsencode(text)
        while left:  # where little space is left, a part of it is written without an error
            left = left[os.write(fd, left) :]
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
