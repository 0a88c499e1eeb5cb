"""Read the files of a policy's own tests, and policies that are not installed yet.

Owner and mode are not checked, because these files decide nothing.
"""

import os
import stat
from collections.abc import Sequence

from safe_modprobe.errors import UsageError
from safe_modprobe.model import Policy
from safe_modprobe.policy.dropins import MAX_BYTES, SUFFIX, effective_files
from safe_modprobe.policy.files import is_mask
from safe_modprobe.policy.schema import Accounts, build
from safe_modprobe.runtime import read

FOLDERS = ("/usr/lib/safe-modprobe/tests.d", "/etc/safe-modprobe/tests.d")
"""The package's and the administrator's. A file in the second replaces the same name in the first; a link to /dev/null
masks it."""

Files = list[tuple[str, bytes]]


def read_case_files(paths: Sequence[str]) -> Files:
    """Return (path, content) of each file, and of each folder's files by name. Raises OSError and UsageError."""
    return [file for path in paths for file in (_effective([path]) if os.path.isdir(path) else _contents([path]))]


def read_installed_case_files(folders: Sequence[str]) -> Files:
    """Return (path, content) of the files in force in those of FOLDERS that exist. Raises OSError and UsageError."""
    return _effective([folder for folder in folders if os.path.isdir(folder)])


def draft_policy(folders: Sequence[str], accounts: Accounts) -> Policy:
    """Return the policy of these folders as if they were installed; the last folder is the administrator's.

    Raises PolicyError for an invalid policy, UsageError when there is no drop-in at all, and OSError.
    """
    files = _effective(folders)
    if not files:
        raise UsageError(f"{', '.join(folders)}: no drop-in found; the name of a drop-in ends in {SUFFIX}")
    return build(files, accounts)


def _effective(folders: Sequence[str]) -> Files:
    """Return (path, content) sorted by name; for a name in several folders, the last folder wins."""
    names = effective_files([os.listdir(folder) for folder in folders])
    return _contents([os.path.join(folders[index], name) for name, index in names])


def _contents(paths: Sequence[str]) -> Files:
    found = [(path, _content(path)) for path in paths]
    return [(path, content) for path, content in found if content is not None]


def _content(path: str) -> bytes | None:
    """Return at most MAX_BYTES + 1 bytes, so that the parser sees an oversized file; None for a mask (/dev/null)."""
    status = os.stat(path)
    if is_mask(status):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: it is not a file")
    return read(path, MAX_BYTES + 1)
