"""What `log`, `suggest` and `explain` share: which records they read, and for whose machine."""

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
    """`--file`."""
    parser.add_argument(
        "--file", action="append", default=[], metavar="PATH", help="read this journal file (again for more)"
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """`--since`, `--user`, `--module`."""
    add_since(parser)
    parser.add_argument("--user", metavar="NAME", help="only what this user (a name or a number) asked for")
    parser.add_argument("--module", metavar="PATTERN", help="only what was about such a module: af_alg, 'algif_*'")


class Filters:
    """`--user` and `--module`. Raises UsageError for a user that is not there."""

    def __init__(self, arguments: argparse.Namespace, accounts: Accounts) -> None:
        self.module: str | None = arguments.module
        self.uid = None if arguments.user is None else _uid(arguments.user, accounts)

    def let(self, events: Iterable[Event]) -> Iterator[Event]:
        """Those that are asked for, in local time."""
        for event in events:
            if self.uid is not None and self.uid not in (event.uid, event.euid):
                continue
            if self.module is not None and not any(alias_glob(self.module, each) for each in event.modules):
                continue
            yield event._replace(time=event.time.astimezone())

    def let_counts(self, repeated: Iterable[Repeated], refused: bool) -> list[Repeated]:
        """Those that may be this user's, one of a range is not told from another; none of a module, they name none."""
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
        raise UsageError(f"--user: {text!a} is not in that machine's /etc/passwd; give the number instead")
    return uid


def user_names(events: Iterable[Event], on: Machine) -> dict[int, str]:
    """The users' names, for people; none where that machine has no /etc/passwd."""
    accounts = on.accounts()
    try:
        pairs = {uid: accounts.user_name(uid) for uid in {event.uid for event in events if event.uid is not None}}
    except OSError:
        return {}
    return {uid: name for uid, name in pairs.items() if name is not None}


def as_json(event: Event) -> dict[str, Any]:
    """Every field, by its name, without those that are empty."""
    values = event._asdict() | {"time": event.time.isoformat(), "capabilities": f"{event.capabilities:016x}"}
    namespace = values.pop("initial_user_namespace")
    values["user_namespace"] = None if namespace is None else "initial" if namespace else "other"
    return {key: value for key, value in values.items() if value not in (None, "", ())}


def report_skipped(journal: Journal) -> None:
    """Say on standard error how many records were passed over."""
    for count, what in ((journal.forged, "not written by safe-modprobe"), (journal.malformed, "damaged")):
        if count:
            print(f"safe-modprobectl: left out, since they pose as verdicts and are {what}: {count}", file=sys.stderr)
