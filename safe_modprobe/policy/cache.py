"""The policy as it was parsed last, as long as nothing that it was made from has changed since.

Parsing costs as much as the rest of a decision, and somebody waits for it in the kernel.
"""

import marshal
import os
import time
from _collections_abc import Sequence

from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Policy
from safe_modprobe.policy.packed import SHAPE, unpack
from safe_modprobe.runtime import read

CACHE = "/run/safe-modprobe/policy.cache"
_ACCOUNTS = ("/etc/passwd", "/etc/group")
_MAX_BYTES = 8 << 20
_CLOCK_REALTIME_COARSE = 5
"""include/uapi/linux/time.h: the clock by which file systems stamp what changes. Python has no name for it."""


class Snapshot(NamedTuple):
    """What a policy is made from: the folders, every file in them, and those that give names their numbers.

    `state` shows any change: no write leaves st_ctime as it was, nobody can set it, and a folder's changes with every
    name in it. `taken` is when, just before, in nanoseconds of the clock of st_ctime.
    """

    paths: tuple[str, ...]
    state: tuple[tuple[int, ...] | None, ...]
    taken: int


def snapshot(folders: Sequence[str]) -> Snapshot:
    """As it is now. Raises OSError."""
    taken = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    files = [f"{folder}/{name}" for folder in folders if os.path.isdir(folder) for name in sorted(os.listdir(folder))]
    return _look((*folders, *_ACCOUNTS, *files), taken)


def retake(before: Snapshot) -> Snapshot:
    """The same paths, as they are now."""
    return _look(before.paths, before.taken)


def last_change(folders: Sequence[str]) -> float | None:
    """When a file of these folders, or which files there are, changed last, in seconds of the epoch. Raises OSError."""
    taken = snapshot(folders)
    ours = tuple(folders)
    found = [state[4] for path, state in zip(taken.paths, taken.state, strict=True) if state and path.startswith(ours)]
    return max(found) / 1e9 if found else None


def _look(paths: tuple[str, ...], taken: int) -> Snapshot:
    return Snapshot(paths, tuple(map(_state, paths)), taken)


def _state(path: str) -> tuple[int, ...] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return (
        about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_mode, about.st_uid,
    )  # fmt: skip


def cached_policy(folders: Sequence[str], cache: str = CACHE) -> Policy | None:
    """The policy of these folders if it was remembered and is still true; None otherwise, and in any doubt."""
    try:
        about = os.lstat(cache)
        # What marshal reads can do anything: only root may have written it, in a folder that only root may change.
        if about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
            return None
        shape, paths, state, packed = marshal.loads(read(cache, _MAX_BYTES))
        if shape != SHAPE or paths[: len(folders)] != tuple(folders) or state != tuple(map(_state, paths)):
            return None
        return unpack(packed)
    except (OSError, ValueError, TypeError, EOFError):
        return None
