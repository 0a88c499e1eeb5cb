"""Keep a parsed policy for the requests to come."""

import marshal
import os

from safe_modprobe.model import Policy
from safe_modprobe.policy.cache import CACHE, Snapshot, retake, snapshot
from safe_modprobe.policy.dropins import FOLDERS
from safe_modprobe.policy.files import read_policy
from safe_modprobe.policy.packed import SHAPE, pack
from safe_modprobe.runtime import make_run_folder

_FINE_NS, _WHOLE_NS = 10_000_000, 2_000_000_000
"""In these steps file systems count st_ctime at most: where it is no multiple of the first, and where it is one (the
full seconds of an old ext4, the two of FAT)."""


def read_and_cache() -> Policy:
    """The files' policy, parsed, and remembered as far as that can be. Raises PolicyError, OSError."""
    before = snapshot(FOLDERS)
    policy = read_policy()
    save(policy, before)
    return policy


def save(policy: Policy, before: Snapshot, cache: str = CACHE) -> bool:
    """Keep it, if all that it was made from is as it was `before` that was read. False where it was not kept.

    Never raises: without the cache, a request only takes longer.
    """
    if retake(before).state != before.state or not all(
        _settled(each[4], before.taken) for each in before.state if each
    ):
        return False
    part = f"{cache}.{os.getpid()}"
    try:
        make_run_folder(os.path.dirname(cache))
        _write(part, marshal.dumps((SHAPE, before.paths, before.state, pack(policy))))
        os.rename(part, cache)
        return True
    except (OSError, ValueError):
        _drop(part)
        return False


def _settled(changed: int, taken: int) -> bool:
    """Whether a file with that st_ctime will have another one after any change from `taken` on."""
    return changed < taken - (_FINE_NS if changed % _FINE_NS else _WHOLE_NS)


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
