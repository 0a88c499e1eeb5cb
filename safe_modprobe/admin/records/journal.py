"""Read recorded verdicts from the systemd journal with python3-systemd, and skip forged ones.

Any user can send any field to the journal's socket, including our MESSAGE_ID. A sender cannot choose the fields that
start with an underscore (systemd.journal-fields(7), "Trusted Journal Fields"); is_ours() checks those.
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
_WAIT_S = 1.0  # Python handles a signal between two waits
_MAX_TEXT = 1 << 16  # bytes of a field; ours have some hundred


def is_ours(fields: Mapping[str, object]) -> bool:
    """Return whether safe-modprobe wrote this record, judged by the fields that journald sets for the sender.

    These are always present:

    - `_TRANSPORT=journal`: the native socket, where the kernel passes the sender's credentials with each datagram.
    - `_UID=0`: the sender's real user id in the initial user namespace.

    journald reads the others from /proc, so they are missing if the sender has exited. If present, they must fit:

    - `_EXE` and `_CMDLINE`: sudo and other root programs may print a user's text to a descriptor that the user opened
      on the journal's socket. They are not the helper.
    - `_CAP_EFFECTIVE`: the kernel's helper has CAP_SYS_MODULE. Root of a container with access to the socket has not.

    safe-modprobectl may write only counts. Its service has no capabilities, and no rule is made from a count.
    """
    if any(fields.get(key) != value for key, value in _TRUSTED.items()):
        return False
    exe, command, mask = (fields.get(key, "") for key in ("_EXE", "_CMDLINE", "_CAP_EFFECTIVE"))
    if not isinstance(exe, str) or not isinstance(command, str) or not isinstance(mask, str):
        return False
    program = exe.rpartition("/")[2]
    if program.startswith("python3"):
        # The script is the first word that is not an option. Later words are arguments of the script.
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
    """A reader of the records of the running system, of the system below `root`, or of `files`.

    `forged` and `malformed` count the records skipped since it was opened.
    Raises SafeModprobeError without a readable journal, and UsageError for files that are not journals.
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
                "cannot read the journal without Python's systemd module; install python3-systemd"
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
                f"{self._where}: cannot open it as a journal: {error.strerror}; give a file of /var/log/journal"
            ) from None
        if not self._files and not _is_there(reader, root):
            raise SafeModprobeError(
                f"{self._where}: cannot read a journal there; run as root or join group systemd-journal; on a system"
                " without a journal, look for the tag safe-modprobe in syslog's auth log or in the kernel log (dmesg)"
            )
        reader.data_threshold = _MAX_TEXT
        # The library's converters raise OverflowError for some numbers that a client can send.
        reader.converters = dict.fromkeys(("__REALTIME_TIMESTAMP", "__MONOTONIC_TIMESTAMP", "__CURSOR"), _unchanged)
        return reader

    def _match(self, message_ids: Sequence[str]) -> None:
        self._reader.flush_matches()
        for message_id in message_ids:  # matches of the same field are alternatives (sd_journal_add_match(3))
            self._reader.add_match(f"MESSAGE_ID={message_id}")

    def events(self, since: datetime | None = None) -> Iterator[Event]:
        """Yield all events, or those from `since` on, oldest first. Raises SafeModprobeError for a damaged journal."""
        self._seek(since)
        for event in self._walk(self._reader.get_next, parse_event):
            if since is None or event.time >= since:  # seek_realtime() may stop one record early
                yield event

    def repeated(self, since: datetime | None = None) -> Iterator[Repeated]:
        """Yield counts like events(). Later calls on this reader see only counts, too."""
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
        """Yield all events, newest first. Matches skip records of other senders, so their number costs no time here."""
        for key, value in _TRUSTED.items():
            self._reader.add_match(f"{key}={value}")
        self._do(self._reader.seek_tail)
        yield from self._walk(self._reader.get_previous, parse_event)

    def at(self, cursor: str) -> Event:
        """Return the event with this cursor. Raises UsageError if no record of safe-modprobe has it."""
        not_found = UsageError(
            f"{cursor!a}: no recorded verdict has this cursor; 'safe-modprobectl log --each' shows all cursors"
        )
        try:
            self._reader.seek_cursor(cursor)
        except (OSError, ValueError):
            raise not_found from None
        # For a deleted record, seek_cursor() goes to the nearest one. test_cursor() tells them apart.
        fields = self._do(self._reader.get_next)
        if not fields or not self._reader.test_cursor(cursor) or not is_ours(fields):
            raise not_found
        try:
            return parse_event(fields["__CURSOR"], _time(fields["__REALTIME_TIMESTAMP"]), fields)
        except UntrustedInputError:
            raise not_found from None

    def follow(self, since: datetime | None = None) -> Iterator[Event]:
        """Yield events from `since` or from now on, and wait for new ones forever."""
        if since is not None:
            yield from self.events(since)
        else:
            self._do(self._reader.seek_tail)
            if not self._do(self._reader.get_previous):  # the tail of an empty journal cannot be continued from
                self._do(self._reader.seek_head)
        while True:
            yield from self._walk(self._reader.get_next, parse_event)
            self._do(self._reader.wait, _WAIT_S)

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
            return None  # a signal interrupted the wait; follow() waits again
        except OSError as error:
            raise SafeModprobeError(
                f"{self._where}: cannot read the journal to its end: {error.strerror}; run 'journalctl --verify'"
            ) from None


def _is_there(reader: Any, root: str | None) -> bool:
    """Return whether there is any journal file. The library can tell this only for the running system."""
    if root is None:
        return bool(reader.has_persistent_files() or reader.has_runtime_files())
    return any(glob(f"{escape(root)}/{folder}/log/journal/*/*.journal") for folder in ("var", "run"))


def _unchanged(value: Any) -> Any:
    return value


def _time(microseconds: int) -> datetime:
    """Raises UntrustedInputError for a time out of range, as in a damaged file."""
    try:
        return datetime.fromtimestamp(microseconds / 1_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        raise UntrustedInputError(f"{microseconds} µs is not a valid time") from None


def _check_file(path: str) -> None:
    """Raises UsageError if it is not a regular file (opening a pipe would block), OSError if it is unreadable."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UsageError(
            f"{path}: it is not a regular file; give a journal file with --file, or a system's top folder with --root"
        )
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
