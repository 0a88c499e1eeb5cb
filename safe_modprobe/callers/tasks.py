"""Read a Caller from /proc/TID: the credentials, program and unit that one task has now."""

import os

from safe_modprobe.callers.proc import INITIAL_USER_NAMESPACE, stat
from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.model import Caller, Source
from safe_modprobe.runtime import read


def read_caller(tid: int | str, source: Source, call_site: str | None = None) -> Caller:
    """Return the task as it is now. This proves nothing by itself: check before and after that the task is blocked.

    Raises OSError for an ended task, UntrustedInputError for text that is not as proc(5) says.
    """
    status = parse_status(read(f"/proc/{tid}/status", 1 << 20))
    uids, gids = _numbers(status, "Uid", 4), _numbers(status, "Gid", 4)
    groups = _numbers(status, "Groups", None)
    return Caller(
        source=source,
        uid=uids[0],
        euid=uids[1],
        gids=frozenset((gids[0], *groups)),
        capabilities=_mask(status, "CapEff"),
        initial_user_namespace=os.stat(f"/proc/{tid}/ns/user").st_ino == INITIAL_USER_NAMESPACE,
        no_new_privs=status.get("NoNewPrivs") != "0",
        kernel_thread=_is_kernel_thread(tid),
        tid=int(tid) if tid != "self" else os.getpid(),
        comm=_comm(tid),
        executable=_executable(tid),
        unit=_unit(tid),
        call_site=call_site,
        pid=_numbers(status, "Tgid", 1)[0],
    )


def parse_status(text: bytes) -> dict[str, str]:
    """Parse `Key:\tvalue` lines. A repeated key is forged, since the kernel escapes newlines in a task's name.

    Raises UntrustedInputError.
    """
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        key, colon, value = line.partition(":")
        if colon and key in fields:
            raise UntrustedInputError(f"/proc/TID/status: {key} appears twice")
        fields[key] = value.strip()
    return fields


def parse_unit(text: bytes) -> str | None:
    """Return the system unit in /proc/TID/cgroup, which is the first name below the slices; None if there is none.

    The unit may delegate deeper names (to a user's own manager, a container), which choose them freely.
    """
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        hierarchy, _, path = line.partition("::") if line.startswith("0::") else line.partition(":name=systemd:")
        if not path.startswith("/") or not hierarchy.isdigit():
            continue
        for name in path.split("/")[1:]:
            if not name.endswith(".slice"):
                return name if name.endswith((".service", ".scope")) else None
    return None


def _numbers(status: dict[str, str], key: str, count: int | None) -> tuple[int, ...]:
    words = status.get(key, "").split()
    if not all(word.isascii() and word.isdigit() and len(word) <= 10 for word in words) or count not in (
        None,
        len(words),
    ):
        raise UntrustedInputError(f"/proc/TID/status: {key}: {words} are not {count or 'all'} numbers")
    return tuple(map(int, words))


def _mask(status: dict[str, str], key: str) -> int:
    word = status.get(key, "")
    # int() also accepts a sign, and -1 would hold every capability.
    if len(word) != 16 or not set(word) <= set("0123456789abcdef"):
        raise UntrustedInputError(f"/proc/TID/status: {key} is not a mask of 16 hexadecimal digits")
    return int(word, 16)


def _is_kernel_thread(tid: int | str) -> bool:
    try:
        return stat(tid if isinstance(tid, int) else os.getpid()).kernel_thread
    except ValueError as error:
        raise UntrustedInputError(f"/proc/TID/stat: {error}") from None


def _comm(tid: int | str) -> str | None:
    try:
        return os.fsdecode(read(f"/proc/{tid}/comm").removesuffix(b"\n"))
    except OSError:
        return None


def _executable(tid: int | str) -> str | None:
    """Return the program's path; None in another mount namespace, where any program may have any path.

    The file itself is not accessed: the server of a network or FUSE file system could block the helper.
    """
    try:
        same = os.stat(f"/proc/{tid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino
        return os.readlink(f"/proc/{tid}/exe") if same else None
    except OSError:
        return None


def _unit(tid: int | str) -> str | None:
    try:
        return parse_unit(read(f"/proc/{tid}/cgroup"))
    except OSError:
        return None
