"""Nested requests inherit their caller: each helper records its own caller in /run while it loads a module.

A module's init may call request_module(). The blocked task is then one of our helpers, or a modprobe that the helper
started for an `install` command. It has root's credentials, so the recorded caller takes their place.
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
"""About 10 µs each. While a helper loads, root is refused below a deeper chain of processes, as of nested scripts."""

_MAX_BYTES = 1 << 20
"""Bytes of a record. A caller may have 65,536 groups (NGROUPS_MAX), each of up to ten digits and a comma."""

ENDED = ".ended"
"""FOLDER with this suffix records the latest load for an unprivileged caller. Its mtime is the end in ns after boot."""

_NOWAIT_WINDOW_NS = 60_000_000_000
"""Nanoseconds after a load in which a helper may still start for a request that the module did not wait for."""

_POLL_INTERVAL_S = 0.01
"""Seconds between two checks of the running loads."""

_NONE = "-"


def dump_caller(start: int, caller: Caller) -> bytes:
    """Return a record: the loading helper's start time in clock ticks and its caller, one word for each field."""
    numbers = (start, caller.uid, caller.euid, caller.tid, caller.capabilities, caller.may_hold)
    flags = (caller.initial_user_namespace, caller.no_new_privs, caller.kernel_thread)
    texts = (caller.source, caller.comm, caller.executable, caller.unit, caller.call_site)
    words = [_NONE if number is None else f"{number:d}" for number in (*numbers, *flags)]
    words += [_NONE if text is None else f"={os.fsencode(text).hex()}" for text in texts]
    words.append(_NONE if caller.gids is None else f"={','.join(map(str, sorted(caller.gids)))}")
    return " ".join(words).encode()


def parse_caller(record: bytes) -> tuple[int, Caller]:
    """Parse what dump_caller() wrote: (start time, caller). Raises UntrustedInputError for any other content."""
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
    raise UntrustedInputError("the record of a loading helper is malformed")


def _number(word: str) -> int | None:
    return None if word == _NONE else int(word)


def _flag(word: str) -> bool | None:
    return None if word == _NONE else bool(int(word))


def _text(word: str) -> str | None:
    return None if word == _NONE else os.fsdecode(bytes.fromhex(word[1:]))


def inherited_caller(tid: int) -> Caller | None:
    """Return the caller that this task or its nearest loading ancestor loads for; None if none of them is loading.

    A record counts only with the task's own start time, since a TID may be reused. A malformed record, or a chain that
    is too deep, gives an unknown caller. Raises OSError, ValueError when an ancestor cannot be read.
    """
    try:
        if not os.listdir(FOLDER):
            return None
    except FileNotFoundError:
        return None
    for _ in range(_MAX_ANCESTORS):
        task = stat(tid)
        try:
            start, caller = parse_caller(read(f"{FOLDER}/{tid}", _MAX_BYTES))
        except FileNotFoundError:
            start = 0
        except UntrustedInputError:
            return UNKNOWN_CALLER
        if start == task.start:
            return caller
        if task.parent == 0 or task.kernel_thread:
            return None
        tid = task.parent
    return UNKNOWN_CALLER


def silence_means_root(late: bool, patience: float = 0.0) -> bool:
    """Return whether a request without kernel arguments cannot come from a module that is loaded for a user.

    A module's init makes requests as our helper, which has all capabilities. So silence proves nothing while a helper
    loads for a caller without CAP_SYS_MODULE. For a `late` request, which no init waits for, it proves nothing until
    _NOWAIT_WINDOW_NS after such a load. A load that ends within `patience` seconds was not waiting for this request.
    Raises OSError, ValueError.
    """
    deadline = time.monotonic() + (0.0 if late else patience)
    try:
        # A load that begins from now on cannot have made this request.
        names = [name for name in os.listdir(FOLDER) if name.isdigit()]
    except FileNotFoundError:
        return True
    while any(_loads_for_unprivileged(name) for name in names):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_INTERVAL_S)
    try:
        return not late or os.stat(f"{FOLDER}{ENDED}").st_mtime_ns + _NOWAIT_WINDOW_NS < _now()
    except FileNotFoundError:
        return True


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _loads_for_unprivileged(name: str) -> bool:
    try:
        start, caller = parse_caller(read(f"{FOLDER}/{name}", _MAX_BYTES))
    except FileNotFoundError:  # the load has ended
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
    # The helper was killed at an unknown time, so its own start begins the window.
    return _now() < start * (1_000_000_000 // os.sysconf("SC_CLK_TCK")) + _NOWAIT_WINDOW_NS


def is_privileged(caller: Caller) -> bool:
    """Return whether the caller holds CAP_SYS_MODULE in the initial user namespace."""
    return bool(caller.initial_user_namespace) and holds(caller.capabilities, SYS_MODULE)


class on_behalf_of:  # noqa: N801  (a class, since importing contextlib costs too much)
    """Inside, `inherited_caller()` returns this caller for the process and its children.

    Raises OSError when the record cannot be written. Then nothing may be loaded for an unprivileged caller, since a
    nested request would count as root's.
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
            os.utime(self._path, ns=(now, now))  # neither utime nor rename needs free space
            os.rename(self._path, f"{FOLDER}{ENDED}")
