"""Keep a parsed policy for the requests to come."""

import marshal
import os

from safe_modprobe.model import Policy
from safe_modprobe.policy.packed import SHAPE, pack
from safe_modprobe.read.policy_cache import CACHE, Snapshot, again
from safe_modprobe.read.trace import make_run

_SETTLED_NS = 2_000_000_000
"""A file that changed just before it was read may change once more within the same tick of its clock, unseen."""


def remember(policy: Policy, before: Snapshot, cache: str = CACHE) -> bool:
    """Keep it, if all that it was made from is as it was `before` that was read. False where it was not kept.

    Never raises: without the cache, a request only takes longer.
    """
    newest = max((each[4] for each in before.state if each is not None), default=0)  # st_ctime
    if again(before).state != before.state or newest > before.taken - _SETTLED_NS:
        return False
    part = f"{cache}.{os.getpid()}"
    try:
        make_run(os.path.dirname(cache))
        _write(part, marshal.dumps((SHAPE, before.paths, before.state, pack(policy))))
        os.rename(part, cache)
        return True
    except (OSError, ValueError):
        _drop(part)
        return False


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, data) != len(data):
            raise OSError("the disk is full")
    finally:
        os.close(fd)


def _drop(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
