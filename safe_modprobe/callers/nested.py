"""On whose behalf a task loads modules: what our own helpers say of themselves while they load.

A module's init may call request_module(): then one of our helpers, or a modprobe that it
started for an `install` command, is what waits, with all of root's power. It has its own caller's instead.
"""

import os
import time

from safe_modprobe.callers.proc import stat
from safe_modprobe.capability import SYS_MODULE, holds
from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.model import UNKNOWN_CALLER, Caller, Source
from safe_modprobe.runtime import RUN, make_run_folder, read

FOLDER = f"{RUN}/loads"
_MAX_ANCESTORS = 1024
"""Some 10 µs each; scripts in scripts go deep, and root below more of them than this is refused while anybody loads."""

_MAX_BYTES = 1 << 20
"""A caller may have 65,536 groups (NGROUPS_MAX), each a number of up to ten digits and a comma."""

ENDED = ".ended"
"""Behind FOLDER: the latest load for somebody without CAP_SYS_MODULE; when it ended is its mtime, in ns after boot."""

_NOWAIT_WINDOW_NS = 60_000_000_000
"""Nanoseconds after a load in which a helper may still come for what the module asked for without waiting."""

_POLL_INTERVAL_S = 0.01
"""Seconds between two looks at who loads."""

_NONE = "-"


def dump_caller(start: int, caller: Caller) -> bytes:
    """A file's content: the loading helper's start time in clock ticks, and its caller, a word for each field."""
    numbers = (start, caller.uid, caller.euid, caller.tid, caller.capabilities, caller.may_hold)
    flags = (caller.initial_user_namespace, caller.no_new_privs, caller.kernel_thread)
    texts = (caller.source, caller.comm, caller.executable, caller.unit, caller.call_site)
    words = [_NONE if number is None else f"{number:d}" for number in (*numbers, *flags)]
    words += [_NONE if text is None else f"={os.fsencode(text).hex()}" for text in texts]
    words.append(_NONE if caller.gids is None else f"={','.join(map(str, sorted(caller.gids)))}")
    return " ".join(words).encode()


def parse_caller(record: bytes) -> tuple[int, Caller]:
    """The other direction. Raises UntrustedInputError for anything that dump_caller() would not have written."""
    try:
        words = record.decode("ascii").split(" ")
        start, uid, euid, tid, capabilities, may_hold = map(_number, words[:6])
        initial, no_new_privs, kernel_thread = map(_flag, words[6:9])
        source, comm, executable, unit, call_site = map(_text, words[9:14])
        caller = Caller(
            source=Source(source or ""),
            uid=uid,
            euid=euid,
            gids=None if words[14] == _NONE else frozenset(map(int, filter(None, words[14][1:].split(",")))),
            capabilities=capabilities or 0,
            may_hold=may_hold or 0,
            initial_user_namespace=initial,
            no_new_privs=no_new_privs,
            kernel_thread=bool(kernel_thread),
            tid=tid,
            comm=comm,
            executable=executable,
            unit=unit,
            call_site=call_site,
        )
        if dump_caller(start or 0, caller) == record:
            return start or 0, caller
    except (IndexError, TypeError, ValueError):
        pass
    raise UntrustedInputError("a record of whom a helper loads for is not as helpers write it")


def _number(word: str) -> int | None:
    return None if word == _NONE else int(word)


def _flag(word: str) -> bool | None:
    return None if word == _NONE else bool(int(word))


def _text(word: str) -> str | None:
    return None if word == _NONE else os.fsdecode(bytes.fromhex(word[1:]))


def inherited_caller(tid: int) -> Caller | None:
    """The caller for whom this task, or a process that started it, is loading; None if it is for nobody.

    A record that cannot be read is of somebody unknown, not of nobody. Raises OSError, ValueError when the ancestors
    cannot be read.
    """
    try:
        if not os.listdir(FOLDER):
            return None
    except FileNotFoundError:
        return None
    for _ in range(_MAX_ANCESTORS):
        about = stat(tid)
        try:
            start, caller = parse_caller(read(f"{FOLDER}/{tid}", _MAX_BYTES))
        except FileNotFoundError:
            start = 0
        except UntrustedInputError:
            return UNKNOWN_CALLER
        if start == about.start:
            return caller
        if about.parent == 0 or about.kernel_thread:
            return None
        tid = about.parent
    return UNKNOWN_CALLER


def silence_means_root(late: bool, patience: float = 0.0) -> bool:
    """Whether a request of which the kernel says nothing cannot be one of a module's that was loaded for a user.

    A module's init asks as our helper, which has all capabilities. While one loads for somebody without
    CAP_SYS_MODULE, and for a while longer if the request may be `late`, since no init waits for it, silence proves
    nothing. A load that ends within `patience`, in seconds, before this request is answered did not wait for it.
    Raises OSError, ValueError.
    """
    end = time.monotonic() + (0.0 if late else patience)
    try:
        # Whoever begins to load from now on was not waiting for us to start.
        names = [name for name in os.listdir(FOLDER) if name.isdigit()]
    except FileNotFoundError:
        return True
    while any(_loads_for_another(name) for name in names):
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_INTERVAL_S)
    try:
        return not late or os.stat(f"{FOLDER}{ENDED}").st_mtime_ns + _NOWAIT_WINDOW_NS < _now()
    except FileNotFoundError:
        return True


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _loads_for_another(name: str) -> bool:
    try:
        start, caller = parse_caller(read(f"{FOLDER}/{name}", _MAX_BYTES))
    except FileNotFoundError:  # it has ended meanwhile, or waits for nothing
        return False
    except UntrustedInputError:
        return True
    if is_privileged(caller):
        return False
    try:
        if stat(int(name)).start == start:
            return True
    except (FileNotFoundError, ProcessLookupError):
        pass
    # It was killed, when nobody knows.
    return _now() < start * (1_000_000_000 // os.sysconf("SC_CLK_TCK")) + _NOWAIT_WINDOW_NS


def is_privileged(caller: Caller) -> bool:
    """Whether the caller itself may load any module."""
    return bool(caller.initial_user_namespace) and holds(caller.capabilities, SYS_MODULE)


class on_behalf_of:  # noqa: N801  (a class, since contextlib brings too much along)
    """Inside, `inherited()` of this process is the caller.

    Raises OSError when that cannot be written: then nothing must be loaded for somebody without
    privilege, since the kernel would take the next request in the chain for root's.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._path = f"{FOLDER}/{os.getpid()}"

    def __enter__(self) -> None:
        make_run_folder(os.path.dirname(FOLDER))
        os.makedirs(FOLDER, mode=0o700, exist_ok=True)
        new = f"{self._path}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, dump_caller(stat(os.getpid()).start, self._caller))
        finally:
            os.close(fd)
        os.rename(new, self._path)

    def __exit__(self, *_: object) -> None:
        if is_privileged(self._caller):
            os.unlink(self._path)
        else:
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            os.utime(self._path, ns=(now, now))  # neither this nor the renaming needs space
            os.rename(self._path, f"{FOLDER}{ENDED}")
