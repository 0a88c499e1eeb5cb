"""Our folder in /run, and reads of small kernel files. It imports only `os`, because the last resort needs it."""

import os

RUN = "/run/safe-modprobe"


def make_run_folder(folder: str = RUN) -> None:
    """Create our folder in /run. Any user may enter it, since drop-ins are below. Private files have their own mode."""
    try:
        os.mkdir(folder, 0o755)  # the mode is an upper bound from the first moment, even with umask 0
    except FileExistsError:
        return
    os.chmod(folder, 0o755)  # the umask may have cleared bits of that mode


def read(path: str, limit: int = 65536) -> bytes:
    """Return a small kernel file, at most about `limit` bytes of it. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        chunks = [os.read(fd, limit)]
        while chunks[-1] and sum(map(len, chunks)) < limit:
            chunks.append(os.read(fd, limit))
        return b"".join(chunks)
    finally:
        os.close(fd)
