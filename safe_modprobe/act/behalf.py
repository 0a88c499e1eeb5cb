"""While a helper loads, it says for whom, so that requests of the modules' own inits are judged by the same caller."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from safe_modprobe.model import Caller
from safe_modprobe.read.behalf import ENDED, FOLDER, dump_caller, privileged
from safe_modprobe.read.trace import make_run
from safe_modprobe.read.waiting import stat


@contextmanager
def on_behalf_of(caller: Caller) -> Iterator[None]:
    """Inside, `read.behalf.inherited()` of this process is the caller.

    Raises OSError when that cannot be written: then nothing must be loaded for somebody without
    privilege, since the kernel would take the next request in the chain for root's.
    """
    pid = os.getpid()
    path = f"{FOLDER}/{pid}"
    make_run(os.path.dirname(FOLDER))
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, dump_caller(stat(pid).start, caller))
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)
    try:
        yield
    finally:
        if privileged(caller):
            os.unlink(path)
        else:
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            os.utime(path, ns=(now, now))  # neither this nor the renaming needs space
            os.rename(path, f"{FOLDER}{ENDED}")
