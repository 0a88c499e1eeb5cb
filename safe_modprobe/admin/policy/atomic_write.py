"""Write a drop-in atomically: one writer at a time, a rename at the end, synced to disk against a crash."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from safe_modprobe.errors import SafeModprobeError

_LOCK_TIMEOUT_S = 10.0
_RETRY_S = 0.05


class Draft:
    """A drop-in's next content, in a hidden file beside it. The hidden file is also the lock."""

    def __init__(self, path: str, fd: int, temporary: str) -> None:
        self.path = path
        self._fd = fd
        self._temporary = temporary

    def commit(self, content: bytes) -> None:
        """Replace the drop-in by this content, and keep its mode; a new file gets 0644. Raises SafeModprobeError."""
        try:
            os.ftruncate(self._fd, 0)
            view = memoryview(content)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fchmod(self._fd, _mode(self.path))
            os.fsync(self._fd)
            os.rename(self._temporary, self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        _sync_folder(self.path)

    def discard(self) -> None:
        """Remove the hidden file, unless commit() has renamed it, and release the lock."""
        try:
            if _is_same_file(self._temporary, self._fd):
                os.unlink(self._temporary)
        finally:
            os.close(self._fd)


@contextmanager
def open_draft(path: str, timeout_s: float = _LOCK_TIMEOUT_S) -> Iterator[Draft]:
    """Lock this drop-in and return its draft. A missing folder is created with mode 0755.

    Raises SafeModprobeError when the path is a link or another file type, when the system does not let us write, and
    when another writer holds the lock for the whole `timeout_s` (seconds).
    """
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.new"
    try:
        _make_folder(folder)
        fd = _lock(temporary, timeout_s)
    except OSError as error:
        raise cannot_write(path, error) from None
    if fd is None:
        raise SafeModprobeError(
            f"{path}: another safe-modprobectl has been writing it for {timeout_s:g} s; nothing was changed, try again"
        )
    draft = Draft(path, fd, temporary)
    try:
        require_regular_file(path)
        yield draft
    finally:
        draft.discard()


def remove(path: str) -> bool:
    """Remove a drop-in, also one that is a link; return False if there was none. Raises SafeModprobeError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_write(path, error) from None
    _sync_folder(path)
    return True


def require_regular_file(path: str) -> None:
    """Raise SafeModprobeError when the path is anything but a regular file. A missing file is fine.

    A rename would replace a link, and the link's target may lie outside of the folder.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(path, error) from None
    if stat.S_ISLNK(status.st_mode):
        raise SafeModprobeError(
            f"{path}: it is a link to {ascii(os.readlink(path))[1:-1]}, and links are not followed;"
            " nothing was changed; remove the link or edit its target"
        )
    if not stat.S_ISREG(status.st_mode):
        raise SafeModprobeError(f"{path}: it is not a file; nothing was changed, remove it")


def cannot_write(path: str, error: OSError) -> SafeModprobeError:
    """Return the error for a drop-in that the system does not let us write."""
    hint = "; run it as root" if isinstance(error, PermissionError) and os.geteuid() else ""
    return SafeModprobeError(f"{path}: it cannot be written: {error.strerror}; nothing was changed{hint}")


def _make_folder(folder: str) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if not os.path.isdir(path):  # another writer may have created it in the meantime
                raise
        # The umask cuts mkdir(2)'s mode. Other users need to read the policy for `explain`.
        os.chmod(path, 0o755)


def _lock(temporary: str, timeout_s: float) -> int | None:
    """Return a descriptor on the locked hidden file; None when another writer keeps the lock for `timeout_s`.

    The file has mode 0600 until commit(), so that no user can hold the lock. flock(2) must not block: when the lock
    becomes free, the hidden file may have been renamed, and its name may belong to a new file or to none.
    """
    end = time.monotonic() + timeout_s
    while True:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(temporary, fd):
                return fd
        except BlockingIOError:
            pass
        os.close(fd)
        if time.monotonic() >= end:
            return None
        time.sleep(_RETRY_S)


def _is_same_file(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _mode(path: str) -> int:
    try:
        return stat.S_IMODE(os.lstat(path).st_mode) & 0o755
    except FileNotFoundError:
        return 0o644


def _sync_folder(path: str) -> None:
    """Sync the folder, so that the new name survives a crash.

    Raises OSError and not cannot_write(), which would say that nothing was changed: the rename is already done.
    """
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
