"""Read the cached policy, which is valid as long as its files, folders and accounts are unchanged.

Parsing takes as long as the rest of a decision, while the requester waits in the kernel.
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
"""CLOCK_REALTIME_COARSE (include/uapi/linux/time.h), the clock of file timestamps. Python has no name for it."""


class Snapshot(NamedTuple):
    """The state of everything that a policy depends on: the folders, every file in them, /etc/passwd and /etc/group.

    `state` reveals any change, because each write updates st_ctime and no user can set it. A folder's st_ctime
    changes with each name in it. `taken` is the time just before, in nanoseconds of the clock of st_ctime.
    """

    paths: tuple[str, ...]
    state: tuple[tuple[int, ...] | None, ...]
    taken: int


def snapshot(folders: Sequence[str]) -> Snapshot:
    """Return the current state of these folders. Raises OSError."""
    taken = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    files = [f"{folder}/{name}" for folder in folders if os.path.isdir(folder) for name in sorted(os.listdir(folder))]
    return _snapshot_of((*folders, *_ACCOUNTS, *files), taken)


def retake(before: Snapshot) -> Snapshot:
    """Return the current state of the same paths."""
    return _snapshot_of(before.paths, before.taken)


def last_change(folders: Sequence[str]) -> float | None:
    """Return the time of the last change in these folders, in seconds since the epoch. Raises OSError."""
    now = snapshot(folders)
    prefixes = tuple(folders)
    changes = [
        state[4] for path, state in zip(now.paths, now.state, strict=True) if state and path.startswith(prefixes)
    ]
    return max(changes) / 1e9 if changes else None


def _snapshot_of(paths: tuple[str, ...], taken: int) -> Snapshot:
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
    """Return the policy of these folders if the cache has it and nothing changed since; otherwise None."""
    try:
        about = os.lstat(cache)
        # marshal trusts its input, so only root may have written the file, in a folder that only root may change.
        if about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
            return None
        shape, paths, state, packed = marshal.loads(read(cache, _MAX_BYTES))
        if shape != SHAPE or paths[: len(folders)] != tuple(folders) or state != tuple(map(_state, paths)):
            return None
        return unpack(packed)
    except (OSError, ValueError, TypeError, EOFError):
        return None
