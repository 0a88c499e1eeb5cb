"""On whose behalf a task loads modules: what our own helpers say of themselves while they load.

A module's init may call request_module(): then one of our helpers, or a modprobe that it
started for an `install` command, is what waits, with all of root's power. It has its own caller's instead.
"""

import marshal
import os

from safe_modprobe.model import UNKNOWN_CALLER, Caller, Source
from safe_modprobe.read.trace import RUN
from safe_modprobe.read.waiting import read, stat

FOLDER = f"{RUN}/loads"
_MAX_ANCESTORS = 32


def dump_caller(start: int, caller: Caller) -> bytes:
    """A file's content: the loading helper's start time in clock ticks, and its caller."""
    source, uid, euid, gids, *rest = caller._replace(behind=())
    return marshal.dumps((start, (str(source), uid, euid, tuple(gids), *rest)))


def parse_caller(text: bytes) -> tuple[int, Caller]:
    """The other direction. Anything wrong: start 0, which is nobody's."""
    try:
        start, (source, uid, euid, gids, *rest) = marshal.loads(text)
        return int(start), Caller(Source(source), uid, euid, frozenset(gids), *rest)
    except (EOFError, TypeError, ValueError):
        return 0, UNKNOWN_CALLER


def inherited(tid: int) -> Caller | None:
    """The caller for whom this task, or a process that started it, is loading; None if it is for nobody.

    Raises OSError, ValueError when the ancestors cannot be read: then it is not known.
    """
    try:
        if not os.listdir(FOLDER):
            return None
    except FileNotFoundError:
        return None
    for _ in range(_MAX_ANCESTORS):
        about = stat(tid)
        try:
            start, caller = parse_caller(read(f"{FOLDER}/{tid}"))
        except FileNotFoundError:
            start = 0
        if start == about.start:
            return caller
        if about.parent == 0 or about.kernel_thread:
            return None
        tid = about.parent
    return UNKNOWN_CALLER
