"""Options and functions that `log`, `suggest` and `explain` share: which records to read, and how to filter them."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from safe_modprobe.admin.commands.machine import Machine
from safe_modprobe.admin.commands.since import add_since
from safe_modprobe.admin.records.history import REFUSED, Event, Repeated
from safe_modprobe.admin.records.journal import Journal
from safe_modprobe.errors import UsageError
from safe_modprobe.policy.accounts import Accounts
from safe_modprobe.policy.match import alias_glob


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add `--file`."""
    parser.add_argument(
        "--file", action="append", default=[], metavar="PATH", help="read this journal file (repeatable)"
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add `--since`, `--user` and `--module`."""
    add_since(parser)
    parser.add_argument("--user", metavar="NAME", help="only requests of this user (a name or a number)")
    parser.add_argument(
        "--module", metavar="PATTERN", help="only requests that needed a matching module: af_alg, 'algif_*'"
    )


class Filters:
    """The filters `--user` and `--module`. Raises UsageError for an unknown user."""

    def __init__(self, arguments: argparse.Namespace, accounts: Accounts) -> None:
        self.module: str | None = arguments.module
        self.uid = None if arguments.user is None else _uid(arguments.user, accounts)

    def select(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield the events that match, with their time in the local time zone."""
        for event in events:
            if self.uid is not None and self.uid not in (event.uid, event.euid):
                continue
            if self.module is not None and not any(alias_glob(self.module, each) for each in event.modules):
                continue
            yield event._replace(time=event.time.astimezone())

    def select_counts(self, repeated: Iterable[Repeated], refused: bool) -> list[Repeated]:
        """Return the counts that match, with their time in the local time zone; with `refused`, only refusals.

        A count for a range of user ids matches each of these users. Counts name no module, so none matches `--module`.
        """
        return [
            each._replace(time=each.time.astimezone())
            for each in repeated
            if self.module is None
            and (self.uid is None or each.budget.first <= self.uid <= each.budget.last)
            and (not refused or each.budget.kind in REFUSED)
        ]


def _uid(text: str, accounts: Accounts) -> int:
    if text.isascii() and text.isdigit():
        return int(text[:11])
    uid = accounts.uid(text)
    if uid is None:
        raise UsageError(f"--user: {text!a} is not in /etc/passwd of that system; give the user id instead")
    return uid


def user_names(events: Iterable[Event], system: Machine) -> dict[int, str]:
    """Return the names of the events' users by user id. Without an /etc/passwd there are none."""
    accounts = system.accounts()
    try:
        pairs = {uid: accounts.user_name(uid) for uid in {event.uid for event in events if event.uid is not None}}
    except OSError:
        return {}
    return {uid: name for uid, name in pairs.items() if name is not None}


def as_json(event: Event) -> dict[str, Any]:
    """Return the event's fields as JSON values, without the empty ones. `capabilities` is a hexadecimal mask."""
    values = event._asdict() | {"time": event.time.isoformat(), "capabilities": f"{event.capabilities:016x}"}
    namespace = values.pop("initial_user_namespace")
    values["user_namespace"] = None if namespace is None else "initial" if namespace else "other"
    return {key: value for key, value in values.items() if value not in (None, "", ())}


def report_skipped(journal: Journal) -> None:
    """Print on standard error how many forged and how many malformed records were skipped."""
    for count, kind in (
        (journal.forged, "forged records (not written by safe-modprobe)"),
        (journal.malformed, "malformed records"),
    ):
        if count:
            print(f"safe-modprobectl: skipped {kind}: {count}", file=sys.stderr)
