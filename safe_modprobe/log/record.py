"""Say what was decided: to the journal where it listens, to syslog otherwise, to the kernel's log where neither is."""

import os
from _collections_abc import Mapping

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
KMSG = "/dev/kmsg"

_IDENTIFIER = "safe-modprobe"
_FACILITY = 10 << 3  # LOG_AUTHPRIV, syslog(3)
_KMSG_LINE = 960  # the kernel cuts a record at 1024 - PREFIX_MAX bytes (kernel/printk/printk.c)


def record(message: str, priority: int, fields: Mapping[str, str] = {}) -> None:  # noqa: B006
    """Write one record to the first place that takes it. Never raises: a full log must refuse no module."""
    for write in (_journal, _syslog, _kmsg):
        try:
            write(message, priority, fields)
            return
        except (OSError, ImportError, MemoryError):  # the library may be under way to another version just now
            continue


def journal_datagram(message: str, priority: int, fields: Mapping[str, str]) -> bytes:
    """The native protocol: `KEY=value` lines, a value with a newline as a length and bytes (systemd's docs)."""
    every = {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": _IDENTIFIER, **fields}
    data = bytearray()
    for key, value in every.items():
        raw = value.encode(errors="surrogateescape")
        if b"\n" in raw:
            data += key.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        else:
            data += key.encode() + b"=" + raw + b"\n"
    return bytes(data)


def _journal(message: str, priority: int, fields: Mapping[str, str]) -> None:
    _send(JOURNAL, journal_datagram(message, priority, fields))


def _syslog(message: str, priority: int, fields: Mapping[str, str]) -> None:
    text = f"<{_FACILITY | priority}>{_IDENTIFIER}[{os.getpid()}]: {message}"
    _send(SYSLOG, text.encode(errors="surrogateescape"))


def _kmsg(message: str, priority: int, fields: Mapping[str, str]) -> None:
    fd = os.open(KMSG, os.O_WRONLY | os.O_CLOEXEC)
    try:
        text = f"<{priority}>{_IDENTIFIER}: {message}".encode(errors="surrogateescape")
        # Without the newline the kernel waits for more, and shows the record only with the next one.
        os.write(fd, text[:_KMSG_LINE] + b"\n")
    finally:
        os.close(fd)


def _send(path: str, datagram: bytes) -> None:
    """To a listening datagram socket. The file is looked for first: without one the kernel may not even have
    AF_UNIX, and asking it for a socket would be a module request."""
    os.stat(path)
    import socket  # costs as much as the decision, and a dry run or a quiet rule needs none

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)  # a full journal must not hold the requester
        sock.connect(path)
        sock.send(datagram)
