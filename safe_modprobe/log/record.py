"""Write a record to the journal, without one to syslog, and without either to the kernel log."""

import os
from _collections_abc import Mapping

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
KMSG = "/dev/kmsg"

_IDENTIFIER = "safe-modprobe"
_FACILITY = 10 << 3  # LOG_AUTHPRIV, syslog(3)
_KMSG_LINE = 960  # bytes; the kernel cuts a record at 1024 - PREFIX_MAX (kernel/printk/printk.c)


def record(message: str, priority: int, fields: Mapping[str, str] = {}) -> None:  # noqa: B006
    """Write one record to the first log that accepts it. Never raises, so that a full log stops no load."""
    for write in (_journal, _syslog, _kmsg):
        try:
            write(message, priority, fields)
            return
        except (OSError, ImportError, MemoryError):  # an upgrade may be replacing Python's library just now
            continue


def journal_datagram(message: str, priority: int, fields: Mapping[str, str]) -> bytes:
    """Return a record in the journal's native protocol (systemd's docs/JOURNAL_NATIVE_PROTOCOL.md).

    A field is a `KEY=value` line; a value with a newline is written as its length and bytes.
    """
    all_fields = {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": _IDENTIFIER, **fields}
    data = bytearray()
    for key, value in all_fields.items():
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
        # Without a newline the kernel waits for the rest of the line and shows it only with the next record.
        os.write(fd, text[:_KMSG_LINE] + b"\n")
    finally:
        os.close(fd)


def _send(path: str, datagram: bytes) -> None:
    """Send to a listening datagram socket. Raises OSError."""
    # If no such file exists, AF_UNIX itself may be a module, and socket(2) would be a module request.
    os.stat(path)
    import socket  # takes as long as the decision, and a dry run or a quiet rule needs none

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)  # a full journal must not block the requester
        sock.connect(path)
        sock.send(datagram)
