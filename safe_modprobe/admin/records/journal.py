"""Recorded verdicts, from the systemd journal by python3-systemd, and how to tell them from forged ones.

Any user may send any field to the journal's socket, our MESSAGE_ID as well. What nobody can choose for himself are
the fields that start with an underscore (systemd.journal-fields(7), "Trusted Journal Fields"); see is_ours().
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from glob import escape, glob
from typing import Any, TypeVar

from safe_modprobe.admin.records.history import Event, Repeated, parse_event, parse_repeated
from safe_modprobe.capability import SYS_MODULE, holds
from safe_modprobe.errors import SafeModprobeError, UntrustedInputError, UsageError
from safe_modprobe.log.message_ids import REPEATED, VERDICTS

_T = TypeVar("_T")
_TRUSTED = {"_TRANSPORT": "journal", "_UID": "0"}
_WAIT = 1.0  # seconds; a signal is served between two waits
_MAX_TEXT = 1 << 16  # bytes of a field; ours are some hundred


def is_ours(fields: Mapping[str, object]) -> bool:
    """Whether safe-modprobe wrote this record, by what journald itself says of the sender.

    `_TRANSPORT=journal`: the native socket, where the kernel gives the sender's credentials with each datagram.
    `_UID=0`: the sender's real user id, in the initial user namespace. Both are always there. The rest journald reads
    from /proc, so it is missing where the sender had ended already; where it is there, it has to be right:
    `_EXE` and `_CMDLINE`: a program of root's that repeats a user's words on a descriptor which that user gave it
    (sudo, its standard error on the journal's socket) is not the helper. `_CAP_EFFECTIVE`: the kernel's helper can load
    modules, and a container's root who was given the socket can not. Only a count may be written by safe-modprobectl,
    whose service needs no capability: no rule is ever made of one.
    """
    if any(fields.get(key) != value for key, value in _TRUSTED.items()):
        return False
    exe, command, mask = (fields.get(key, "") for key in ("_EXE", "_CMDLINE", "_CAP_EFFECTIVE"))
    if not isinstance(exe, str) or not isinstance(command, str) or not isinstance(mask, str):
        return False
    program = exe.rpartition("/")[2]
    if program.startswith("python3"):
        # The script is the first word that is no option: what follows it is for the script.
        program = next((word for word in command.split()[1:] if not word.startswith("-")), "").rpartition("/")[2]
    if program == "safe-modprobectl" and fields.get("MESSAGE_ID") == REPEATED:
        return True
    if program not in ("", "safe-modprobe"):
        return False
    try:
        return not mask or holds(int(mask, 16), SYS_MODULE)
    except ValueError:
        return False


class Journal:
    """The records of the running system, of the one below `root`, or of `files`.

    `forged` and `malformed` count the records that were passed over since it was opened.
    Raises SafeModprobeError where there is no journal, UsageError for files that are none.
    """

    def __init__(self, root: str | None = None, files: Sequence[str] = ()) -> None:
        self.forged = 0
        self.malformed = 0
        self._files = tuple(files)
        self._where = ", ".join(files) or os.path.join(root or "/", "var/log/journal")
        self._reader = self._open(root)
        self._match(VERDICTS)

    def _open(self, root: str | None) -> Any:
        try:
            from systemd import journal  # type: ignore[import-untyped]
        except ImportError:
            raise SafeModprobeError(
                "the journal cannot be read without Python's systemd module; install python3-systemd"
            ) from None
        for path in self._files:
            _check_file(path)
        try:
            if self._files:
                reader = journal.Reader(files=list(self._files))
            elif root is not None:
                reader = journal.Reader(journal.OS_ROOT, root)
            else:
                reader = journal.Reader(journal.LOCAL_ONLY)
        except OSError as error:
            raise UsageError(
                f"{self._where}: {error.strerror}, so it is no journal; give a file of /var/log/journal"
            ) from None
        if not self._files and not _is_there(reader, root):
            raise SafeModprobeError(
                f"{self._where}: there is no journal that you may read (root and the group systemd-journal may);"
                " without one, verdicts are in syslog's auth log or in the kernel's log (dmesg), tagged safe-modprobe"
            )
        reader.data_threshold = _MAX_TEXT
        # The library's own converters raise OverflowError for a client's odd number.
        reader.converters = dict.fromkeys(("__REALTIME_TIMESTAMP", "__MONOTONIC_TIMESTAMP", "__CURSOR"), _as_it_is)
        return reader

    def _match(self, message_ids: Sequence[str]) -> None:
        self._reader.flush_matches()
        for message_id in message_ids:  # any of them: matches of one field are alternatives
            self._reader.add_match(f"MESSAGE_ID={message_id}")

    def events(self, since: datetime | None = None) -> Iterator[Event]:
        """All, or those from `since` on, the oldest first. Raises SafeModprobeError for a damaged journal."""
        self._seek(since)
        for event in self._walk(self._reader.get_next, parse_event):
            if since is None or event.time >= since:  # seek_realtime() may come out a record early
                yield event

    def repeated(self, since: datetime | None = None) -> Iterator[Repeated]:
        """The records of counts, as events(). What comes after it goes by those as well."""
        self._match([REPEATED])
        self._seek(since)
        for found in self._walk(self._reader.get_next, parse_repeated):
            if since is None or found.time >= since:
                yield found

    def _seek(self, since: datetime | None) -> None:
        if since is None:
            self._do(self._reader.seek_head)
        else:
            self._do(self._reader.seek_realtime, max(0, int(since.timestamp() * 1_000_000)))

    def backwards(self) -> Iterator[Event]:
        """All, the newest first; others' records are not even looked at, however many there are."""
        for key, value in _TRUSTED.items():
            self._reader.add_match(f"{key}={value}")
        self._do(self._reader.seek_tail)
        yield from self._walk(self._reader.get_previous, parse_event)

    def at(self, cursor: str) -> Event:
        """The event of this cursor. Raises UsageError where no record of ours has it."""
        none = UsageError(f"{cursor!a}: no recorded verdict has this cursor; 'safe-modprobectl log --each' shows those")
        try:
            self._reader.seek_cursor(cursor)
        except (OSError, ValueError):
            raise none from None
        # A cursor that is gone leads to what is nearest: the next record has to be the very one.
        fields = self._do(self._reader.get_next)
        if not fields or not self._reader.test_cursor(cursor) or not is_ours(fields):
            raise none
        try:
            return parse_event(fields["__CURSOR"], _time(fields["__REALTIME_TIMESTAMP"]), fields)
        except UntrustedInputError:
            raise none from None

    def follow(self, since: datetime | None = None) -> Iterator[Event]:
        """Those from `since`, or from now, on, without an end."""
        if since is not None:
            yield from self.events(since)
        else:
            self._do(self._reader.seek_tail)
            if not self._do(self._reader.get_previous):  # in an empty journal the tail is no place to go on from
                self._do(self._reader.seek_head)
        while True:
            yield from self._walk(self._reader.get_next, parse_event)
            self._do(self._reader.wait, _WAIT)

    def _walk(
        self, step: Callable[[], Any], parse: Callable[[str, datetime, Mapping[str, object]], _T]
    ) -> Iterator[_T]:
        while fields := self._do(step):
            if not is_ours(fields):
                self.forged += 1
                continue
            try:
                yield parse(fields["__CURSOR"], _time(fields["__REALTIME_TIMESTAMP"]), fields)
            except UntrustedInputError:
                self.malformed += 1

    def _do(self, call: Callable[..., Any], *values: object) -> Any:
        try:
            return call(*values)
        except InterruptedError:
            return None  # a signal during a wait; the next one is a second away
        except OSError as error:
            raise SafeModprobeError(
                f"{self._where}: {error.strerror}, so it cannot be read to its end; journalctl --verify says more"
            ) from None


def _is_there(reader: Any, root: str | None) -> bool:
    """Whether it has any file; the library knows only of those below /."""
    if root is None:
        return bool(reader.has_persistent_files() or reader.has_runtime_files())
    return any(glob(f"{escape(root)}/{folder}/log/journal/*/*.journal") for folder in ("var", "run"))


def _as_it_is(value: Any) -> Any:
    return value


def _time(microseconds: int) -> datetime:
    """Raises UntrustedInputError for a time beyond the calendar, which a damaged file may have."""
    try:
        return datetime.fromtimestamp(microseconds / 1_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        raise UntrustedInputError(f"{microseconds} µs is no time") from None


def _check_file(path: str) -> None:
    """Raises OSError with the path, UsageError for what is not a file: a pipe would hold us."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UsageError(f"{path}: it is not a file; --file takes a journal's, --root the top of a system's files")
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
