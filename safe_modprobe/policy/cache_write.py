"""Write a parsed policy to the cache for later requests."""

import marshal
import os

from safe_modprobe.model import Policy
from safe_modprobe.policy.cache import CACHE, Snapshot, retake, snapshot
from safe_modprobe.policy.dropins import FOLDERS
from safe_modprobe.policy.files import read_policy
from safe_modprobe.policy.packed import SHAPE, pack
from safe_modprobe.runtime import make_run_folder

_FINE_NS, _WHOLE_NS = 10_000_000, 2_000_000_000
"""The coarsest steps of st_ctime on any file system, in nanoseconds. _FINE_NS holds if st_ctime is no multiple of it.
Otherwise the file system may count whole seconds (an old ext4) or two seconds (FAT)."""


def read_and_cache() -> Policy:
    """Parse the policy files and try to cache the result. Raises PolicyError, OSError."""
    before = snapshot(FOLDERS)
    policy = read_policy()
    save(policy, before)
    return policy


def save(policy: Policy, before: Snapshot, cache: str = CACHE) -> bool:
    """Cache a policy if its files are unchanged since `before`, which was taken before they were read.

    Returns whether it was cached. Never raises, since without the cache a request only takes longer.
    """
    if retake(before).state != before.state or not all(
        _next_change_shows(each[4], before.taken) for each in before.state if each
    ):
        return False
    temporary = f"{cache}.{os.getpid()}"
    try:
        make_run_folder(os.path.dirname(cache))
        _write(temporary, marshal.dumps((SHAPE, before.paths, before.state, pack(policy))))
        os.rename(temporary, cache)
        return True
    except (OSError, ValueError):
        _remove(temporary)
        return False


def _next_change_shows(st_ctime: int, taken: int) -> bool:
    """Return whether any change from `taken` on gives the file a different st_ctime, both in nanoseconds."""
    return st_ctime < taken - (_FINE_NS if st_ctime % _FINE_NS else _WHOLE_NS)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, data) != len(data):
            raise OSError("the disk is full")
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
