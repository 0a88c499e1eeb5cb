"""Set kernel.modprobe to safe-modprobe and back, and manage the tracing instance that records callers."""

import errno
import os
import time

from safe_modprobe.callers.tracefs import CLOCK, EVENT, INSTANCE, MEMORY, STOOD_DOWN, TRACEFS, dump_memory
from safe_modprobe.modules.modprobe import MODPROBE
from safe_modprobe.runtime import RUN, make_run_folder, read

HELPER = "/usr/sbin/safe-modprobe"
SYSCTL = "/proc/sys/kernel/modprobe"
TRIAL_AT_BOOT = "/etc/safe-modprobe/trial"
"""While this file exists, every boot begins with a trial (admin/switch/trial.py)."""

_BEFORE = f"{RUN}/modprobe.before"
_LOCK = f"{RUN}/watch.lock"
LAST_RESORT_FOLDER = f"{RUN}/last-resort"
"""Where packaging/safe-modprobe.in finds the last resort while the package's own files are missing."""

LAST_RESORT_FILES = (
    "__init__", "last_resort", "rescue", "runtime", "callers/__init__", "callers/proc", "log/__init__", "log/record",
    "modules/__init__", "modules/modprobe",
)  # fmt: skip
"""The last resort and all modules of ours that it imports."""

_CODE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_REMOVE_SECONDS = 10
"""How long to wait for helpers that still read the ring."""

_WATCH_SECONDS = 130
"""The longest time that packaging/watch holds its lock, which it does if the helper hangs."""

_BUFFER_KB = "256"
"""KiB for each CPU, enough for about 2,500 requests. Every helper that starts empties the ring."""


def helper() -> str:
    """Return the path of the kernel's module helper, or "" if module requests are switched off. Raises OSError."""
    return os.fsdecode(read(SYSCTL)).removesuffix("\n")


def is_on() -> bool:
    """Return whether the kernel's helper is ours, under any path: /sbin is often a link. Raises OSError."""
    now = helper()
    try:
        return now == HELPER or (bool(now) and os.path.samefile(now, HELPER))
    except OSError:
        return False


def set_helper(path: str) -> None:
    """Write kernel.modprobe. Raises OSError."""
    _write(SYSCTL, path + "\n")


def install_helper() -> str:
    """Make safe-modprobe the kernel's helper, remember the previous one, and return it. Raises OSError."""
    before = helper()
    if not is_on():
        remember_helper(before)  # First: an empty value that is not remembered would be restored as modprobe.
    if before != HELPER:
        set_helper(HELPER)
    remove_if_exists(STOOD_DOWN)
    return before


def restore_helper() -> None:
    """Make the previous helper the kernel's, and keep the watch from bringing ours back. Raises OSError."""
    if is_on():
        set_helper(remembered_helper())
    remove_if_exists(STOOD_DOWN)


def wait_for_watch() -> int:
    """Return a descriptor that locks out every watch until it is closed. A watch could bring our helper back.

    After 130 seconds, return it without the lock, so that switching off always ends. Raises OSError.
    """
    import fcntl  # Only switching off needs it.

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


def remove_if_exists(path: str) -> None:
    """Remove a file of ours. A missing one is no error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def copy_last_resort() -> None:
    """Copy the last resort to /run, where no upgrade removes it. Raises OSError."""
    make_run_folder()
    for name in LAST_RESORT_FILES:
        path = f"{LAST_RESORT_FOLDER}/safe_modprobe/{name}.py"
        for folder in (LAST_RESORT_FOLDER, f"{LAST_RESORT_FOLDER}/safe_modprobe", os.path.dirname(path)):
            make_run_folder(folder)  # makedirs() would apply the umask to the parents.
        _write(f"{path}.new", os.fsdecode(read(f"{_CODE}/{name}.py", 1 << 20)), os.O_CREAT | os.O_TRUNC)
        os.rename(f"{path}.new", path)


def remove_prepared_files() -> None:
    """Remove the tracing instance and the copy of the last resort. A missing one is no error. Raises OSError."""
    import shutil  # Only switching off needs it.

    shutil.rmtree(LAST_RESORT_FOLDER, ignore_errors=True)
    remove_if_exists(STOOD_DOWN)
    remove_instance()


def remember_helper(path: str) -> None:
    """Write the previous helper's path to /run, which the next boot empties. Raises OSError."""
    make_run_folder()
    _write(f"{_BEFORE}.new", path, os.O_CREAT | os.O_TRUNC)
    os.rename(f"{_BEFORE}.new", _BEFORE)  # A half-written path would later be restored, and "" switches requests off.


def remembered_helper() -> str:
    """Return the previous helper's path, or "" for none. If it is unknown or cannot be run, return /sbin/modprobe."""
    try:
        before = os.fsdecode(read(_BEFORE))
    except FileNotFoundError:
        return MODPROBE
    return before if not before or os.access(before, os.X_OK) else MODPROBE


def make_instance() -> bool:
    """Create and start our tracing instance. Return True if it is new. Raises OSError, also without tracefs."""
    folder = f"{_tracefs()}/{INSTANCE}"
    try:
        os.mkdir(folder, 0o700)
        created = True
    except FileExistsError:
        created = False
    if f"[{CLOCK}]".encode() not in read(f"{folder}/trace_clock"):  # Setting it empties the ring.
        _write(f"{folder}/trace_clock", CLOCK)
    _write(f"{folder}/buffer_size_kb", _BUFFER_KB)
    if created:  # A missing memory file would count as lost.
        make_run_folder()
        _write(MEMORY, dump_memory({}, 0).decode(), os.O_CREAT | os.O_TRUNC)
    _write(f"{folder}/{EVENT}/enable", "1")
    _write(f"{folder}/tracing_on", "1")
    return created


def remove_instance() -> None:
    """Remove the instance, and what helpers remembered of it. A missing one is no error. Raises OSError."""
    for root in TRACEFS:
        _remove(f"{root}/{INSTANCE}")
    remove_if_exists(MEMORY)


def _remove(folder: str) -> None:
    """Remove the folder. Wait while a running helper has the ring open (EBUSY); no new one starts. Raises OSError."""
    end = time.monotonic() + _REMOVE_SECONDS
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
    """Return the folder of tracefs. Mount it if it is not mounted. Raises OSError."""
    for root in TRACEFS:
        if os.path.isdir(f"{root}/instances"):
            return root
    os.stat(TRACEFS[0])  # A kernel without tracefs lacks this folder.
    import subprocess  # Rarely needed: systemd mounts tracefs.

    subprocess.run(["mount", "-t", "tracefs", "-o", "nosuid,nodev,noexec", "tracefs", TRACEFS[0]], check=False)
    os.stat(f"{TRACEFS[0]}/instances")
    return TRACEFS[0]


def _write(path: str, text: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    try:
        left = os.fsencode(text)
        while left:  # On a nearly full file system, write(2) writes a part without an error.
            left = left[os.write(fd, left) :]
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
