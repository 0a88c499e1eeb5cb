"""While a helper loads, it says for whom, so that requests of the modules' own inits are judged by the same caller."""

import os
import time

from safe_modprobe.model import Caller
from safe_modprobe.read.behalf import ENDED, FOLDER, dump_caller, privileged
from safe_modprobe.read.trace import make_run
from safe_modprobe.read.waiting import stat


class on_behalf_of:  # noqa: N801  (a class, since contextlib brings too much along)
    """Inside, `read.behalf.inherited()` of this process is the caller.

    Raises OSError when that cannot be written: then nothing must be loaded for somebody without
    privilege, since the kernel would take the next request in the chain for root's.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._path = f"{FOLDER}/{os.getpid()}"

    def __enter__(self) -> None:
        make_run(os.path.dirname(FOLDER))
        os.makedirs(FOLDER, mode=0o700, exist_ok=True)
        new = f"{self._path}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, dump_caller(stat(os.getpid()).start, self._caller))
        finally:
            os.close(fd)
        os.rename(new, self._path)

    def __exit__(self, *_: object) -> None:
        if privileged(self._caller):
            os.unlink(self._path)
        else:
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            os.utime(self._path, ns=(now, now))  # neither this nor the renaming needs space
            os.rename(self._path, f"{FOLDER}{ENDED}")
