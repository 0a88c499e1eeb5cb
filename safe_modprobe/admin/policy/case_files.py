"""The files of a policy's own tests, and policies that are not installed yet.

Whoever owns them: they decide nothing.
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
"""Ours and the admin's: a name in the latter replaces the same name in the former, a link to /dev/null masks it."""

Files = list[tuple[str, bytes]]


def read_case_files(paths: Sequence[str]) -> Files:
    """(path, content) of these files, and of the files in these folders by name. Raises OSError and UsageError."""
    return [file for path in paths for file in (_effective([path]) if os.path.isdir(path) else _contents([path]))]


def read_installed_case_files(folders: Sequence[str]) -> Files:
    """(path, content) of those that count in FOLDERS, as far as these are there. Raises OSError and UsageError."""
    return _effective([folder for folder in folders if os.path.isdir(folder)])


def draft_policy(folders: Sequence[str], accounts: Accounts) -> Policy:
    """The policy of these folders, the last one the admin's, as if they were installed.

    Raises PolicyError for a wrong one, UsageError where there is not a single drop-in, and OSError.
    """
    files = _effective(folders)
    if not files:
        raise UsageError(f"{', '.join(folders)}: no drop-in is there; their names end in {SUFFIX}")
    return build(files, accounts)


def _effective(folders: Sequence[str]) -> Files:
    """By name, the last folder first in rank."""
    names = effective_files([os.listdir(folder) for folder in folders])
    return _contents([os.path.join(folders[index], name) for name, index in names])


def _contents(paths: Sequence[str]) -> Files:
    found = [(path, _content(path)) for path in paths]
    return [(path, content) for path, content in found if content is not None]


def _content(path: str) -> bytes | None:
    """The file's bytes, and one more than a file may have; None for a mask, a link to /dev/null."""
    about = os.stat(path)
    if is_mask(about):
        return None
    if not stat.S_ISREG(about.st_mode):
        raise UsageError(f"{path}: it is not a file")
    return read(path, MAX_BYTES + 1)
