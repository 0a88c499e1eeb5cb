"""Read the policy files. Each file's owner and mode are checked on the descriptor that is read."""

import os
import stat
from collections.abc import Mapping, Sequence

from safe_modprobe.errors import PolicyError
from safe_modprobe.model import Policy
from safe_modprobe.policy.accounts import Accounts
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from safe_modprobe.policy.dropins import FOLDERS, MAX_BYTES, TRIAL_FILE, UNTIL_REBOOT_FILE, effective_files

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def read_policy(folders: Sequence[str] = FOLDERS, accounts: Accounts | None = None) -> Policy:
    """Return all drop-ins as one policy, or the built-in policy if there are no files.

    Raises PolicyError if a file is invalid, unreadable, or writable by other users.
    """
    return parse_policy(read_drop_ins(folders), accounts)


def check_parser_installed() -> None:
    """Raise ModuleNotFoundError if tomli is missing. A cached policy works without it, but the next edit needs it."""
    from importlib.util import find_spec  # no module request needs this

    if find_spec("tomli") is None:
        raise ModuleNotFoundError("No module named 'tomli'", name="tomli")


def parse_policy(files: Sequence[tuple[str, bytes]], accounts: Accounts | None = None) -> Policy:
    """Return the policy of the files from read_drop_ins(), or the built-in policy without files. Raises PolicyError."""
    from safe_modprobe.policy.schema import build  # imports tomli, which a cached policy does not need

    try:
        return build(files, accounts or Accounts()) if files else BUILTIN_POLICY
    except OSError as error:  # from /etc/passwd or /etc/group, which build() reads for a file with names
        raise _unreadable(error) from None


def read_drop_ins(folders: Sequence[str] = FOLDERS, instead: Mapping[str, bytes] = {}) -> list[tuple[str, bytes]]:
    """Return the path and content of every drop-in that counts, in the order of precedence.

    `instead` maps paths to contents that replace or add files. Raises PolicyError.
    """
    opened: list[int | None] = []
    try:
        opened += [open_folder(path) for path in folders]
        files = []
        names = effective_files(_listings(folders, opened, instead))
        if opened[0] is None and folders[0] == FOLDERS[0] and _lacks_default_policy(names):
            raise PolicyError(f"{folders[0]}: the default policy is missing; reinstall the package")
        for name, index in names:
            path = f"{folders[index]}/{name}"
            content = instead[path] if path in instead else read_file(opened[index], name, path)
            if content is not None:
                files.append((path, content))
        return files
    except OSError as error:
        raise _unreadable(error) from None
    finally:
        for fd in opened:
            if fd is not None:
                os.close(fd)


def _lacks_default_policy(names: Sequence[tuple[str, int]]) -> bool:
    """Return whether only the administrator's rows exist, as during an upgrade. Alone they would allow too much."""
    return bool(names) and all(index == 2 or name in (TRIAL_FILE, UNTIL_REBOOT_FILE) for name, index in names)


def _listings(folders: Sequence[str], opened: Sequence[int | None], instead: Mapping[str, bytes]) -> list[list[str]]:
    listings = [[] if fd is None else os.listdir(fd) for fd in opened]
    for path in instead:
        folder, _, name = path.rpartition("/")
        listings[folders.index(folder)].append(name)
    return listings


def _unreadable(error: OSError) -> PolicyError:
    return PolicyError(f"{error.filename or 'policy'}: {error.strerror}")


def open_folder(path: str) -> int | None:
    """Return the folder's descriptor, None without a folder. Raises OSError, and PolicyError if others may write."""
    try:
        fd = os.open(path, _OPEN | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    _check_owner(os.fstat(fd), path)
    return fd


def read_file(folder: int | None, name: str, path: str) -> bytes | None:
    """Return the file's content, None for a mask, which is a link to /dev/null. Raises PolicyError and OSError."""
    try:
        fd = os.open(name, _OPEN, dir_fd=folder)
    except OSError as error:
        raise PolicyError(f"{_printable(path)}: {error.strerror}; fix or remove it") from None
    try:
        about = os.fstat(fd)
        if is_mask(about):
            return None
        if not stat.S_ISREG(about.st_mode):
            raise PolicyError(f"{_printable(path)}: it is not a file; a drop-in is one, or a link to /dev/null")
        _check_owner(about, path)
        chunks = []
        while chunk := os.read(fd, MAX_BYTES + 1):
            chunks.append(chunk)
            if sum(map(len, chunks)) > MAX_BYTES:
                break
        return b"".join(chunks)
    finally:
        os.close(fd)


def is_mask(about: os.stat_result) -> bool:
    """Return whether an opened file is /dev/null, so that its link masks a drop-in."""
    return stat.S_ISCHR(about.st_mode) and about.st_rdev == os.makedev(1, 3)


def _check_owner(about: os.stat_result, path: str) -> None:
    """Raise PolicyError unless only root, or the user who runs this command, may write: the policy controls ring 0."""
    if about.st_uid not in (0, os.geteuid()):
        raise PolicyError(f"{_printable(path)}: it belongs to uid {about.st_uid}; chown it to root")
    if about.st_mode & 0o022:
        raise PolicyError(
            f"{_printable(path)}: others may write it (mode {stat.S_IMODE(about.st_mode):04o}); chmod it to"
            f" {stat.S_IMODE(about.st_mode) & ~0o022:04o}"
        )


def _printable(path: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in path)
