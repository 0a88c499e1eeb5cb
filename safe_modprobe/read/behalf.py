"""On whose behalf a task loads modules: what our own helpers say of themselves while they load.

A module's init may call request_module(): then one of our helpers, or a modprobe that it
started for an `install` command, is what waits, with all of root's power. It has its own caller's instead.
"""

import os

from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.model import UNKNOWN_CALLER, Caller, Source
from safe_modprobe.read.trace import RUN
from safe_modprobe.read.waiting import read, stat

FOLDER = f"{RUN}/loads"
_MAX_ANCESTORS = 1024
"""Some 10 µs each; scripts in scripts go deep, and root below more of them than this is refused while anybody loads."""

_MAX_BYTES = 1 << 20
"""A caller may have 65,536 groups (NGROUPS_MAX), each a number of up to ten digits and a comma."""

_NONE = "-"


def dump_caller(start: int, caller: Caller) -> bytes:
    """A file's content: the loading helper's start time in clock ticks, and its caller, a word for each field."""
    numbers = (start, caller.uid, caller.euid, caller.tid, caller.capabilities)
    flags = (caller.initial_user_namespace, caller.no_new_privs, caller.kernel_thread)
    texts = (caller.source, caller.comm, caller.executable, caller.unit, caller.call_site)
    words = [_NONE if number is None else f"{number:d}" for number in (*numbers, *flags)]
    words += [_NONE if text is None else f"={os.fsencode(text).hex()}" for text in texts]
    words.append(",".join(map(str, sorted(caller.gids))) or _NONE)
    return " ".join(words).encode()


def parse_caller(record: bytes) -> tuple[int, Caller]:
    """The other direction. Raises UntrustedInputError for anything that dump_caller() would not have written."""
    try:
        words = record.decode("ascii").split(" ")
        start, uid, euid, tid, capabilities, initial, no_new_privs, kernel_thread = map(_number, words[:8])
        source, comm, executable, unit, call_site = map(_text, words[8:13])
        caller = Caller(
            source=Source(source or ""),
            uid=uid,
            euid=euid,
            gids=frozenset() if words[13] == _NONE else frozenset(map(int, words[13].split(","))),
            capabilities=capabilities or 0,
            initial_user_namespace=bool(initial),
            no_new_privs=bool(no_new_privs),
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


def _text(word: str) -> str | None:
    return None if word == _NONE else os.fsdecode(bytes.fromhex(word[1:]))


def inherited(tid: int) -> Caller | None:
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
