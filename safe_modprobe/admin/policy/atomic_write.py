"""Write a drop-in of the policy as a whole or not at all: one writer at a time, in one step, kept through a crash."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from safe_modprobe.errors import SafeModprobeError

_PATIENCE_S = 10.0
_PAUSE_S = 0.05


class Draft:
    """A drop-in's next content, in a hidden file beside it, which is the lock as well."""

    def __init__(self, path: str, fd: int, part: str) -> None:
        self.path = path
        self._fd = fd
        self._part = part

    def land(self, content: bytes) -> None:
        """Put the content in the drop-in's place, with the old one's mode or 0644. Raises SafeModprobeError."""
        try:
            os.ftruncate(self._fd, 0)
            view = memoryview(content)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fchmod(self._fd, _mode(self.path))
            os.fsync(self._fd)
            os.rename(self._part, self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        _sync_folder(self.path)

    def drop(self) -> None:
        """Let the next writer at it. After land() there is nothing of ours left to remove."""
        try:
            if _is(self._part, self._fd):
                os.unlink(self._part)
        finally:
            os.close(self._fd)


@contextmanager
def open_draft(path: str, patience_s: float = _PATIENCE_S) -> Iterator[Draft]:
    """The right to write this drop-in; its folder is made, 0755, where there is none.

    Raises SafeModprobeError: for a link or something else that is no file, where nothing can be written, and where
    somebody else has been writing it all the time.
    """
    folder, _, name = path.rpartition("/")
    part = f"{folder}/.{name}.new"
    try:
        _make_folder(folder)
        fd = _locked(part, patience_s)
    except OSError as error:
        raise cannot_write(path, error) from None
    if fd is None:
        raise SafeModprobeError(
            f"{path}: another safe-modprobectl has been writing it for {patience_s:g} s; nothing was changed, try again"
        )
    draft = Draft(path, fd, part)
    try:
        require_regular_file(path)
        yield draft
    finally:
        draft.drop()


def remove(path: str) -> bool:
    """Take a drop-in away, whatever it is; False where there was none. Raises SafeModprobeError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_write(path, error) from None
    _sync_folder(path)
    return True


def require_regular_file(path: str) -> None:
    """A link may lead out of the folder, and renaming over it would lose it. Raises SafeModprobeError."""
    try:
        about = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(path, error) from None
    if stat.S_ISLNK(about.st_mode):
        raise SafeModprobeError(
            f"{path}: it is a link to {ascii(os.readlink(path))[1:-1]}, which is not followed; nothing was changed,"
            " remove the link or edit what it leads to"
        )
    if not stat.S_ISREG(about.st_mode):
        raise SafeModprobeError(f"{path}: it is not a file; nothing was changed, remove it")


def cannot_write(path: str, error: OSError) -> SafeModprobeError:
    """The sentence for a drop-in that the system does not let us write."""
    hint = "; run it as root" if isinstance(error, PermissionError) and os.geteuid() else ""
    return SafeModprobeError(f"{path}: it cannot be written: {error.strerror}; nothing was changed{hint}")


def _make_folder(folder: str) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(missing):
        try:
            os.mkdir(each, 0o755)
        except FileExistsError:
            if not os.path.isdir(each):  # else another writer was faster
                raise
        # Not by mkdir's own mode alone, which the umask cuts: others may read the policy, and explain it.
        os.chmod(each, 0o755)


def _locked(part: str, patience_s: float) -> int | None:
    """A descriptor on the hidden file, ours alone; None where it stays somebody else's.

    0600 until it lands, so that no user can hold the lock; and never waited for by flock(2) itself, since by the
    time that it is free the file may have landed, and the name stand for another one or none.
    """
    end = time.monotonic() + patience_s
    while True:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(part, fd):
                return fd
        except BlockingIOError:
            pass
        os.close(fd)
        if time.monotonic() >= end:
            return None
        time.sleep(_PAUSE_S)


def _is(path: str, fd: int) -> bool:
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
    """So that the name outlasts a crash as well. What was done is done, even if this fails: OSError, not cannot()."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
