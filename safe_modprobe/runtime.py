"""The state directory in /run, and reads of small kernel files. Needs only `os`: the last resort imports it."""

import os

RUN = "/run/safe-modprobe"


def make_run_folder(folder: str = RUN) -> None:
    """Our folder in /run. Others may pass it, since drop-ins are below; what is root's alone is so by its own mode."""
    try:
        os.mkdir(folder, 0o755)  # no more than that for any moment, also where the umask is 0
    except FileExistsError:
        return
    os.chmod(folder, 0o755)  # mkdir's own mode is cut by the umask


def read(path: str, limit: int = 65536) -> bytes:
    """A small file of /proc, whole or up to the limit. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        chunks = [os.read(fd, limit)]
        while chunks[-1] and sum(map(len, chunks)) < limit:
            chunks.append(os.read(fd, limit))
        return b"".join(chunks)
    finally:
        os.close(fd)
