"""Parse recorded verdicts into events, and group events for display. Pure: journal.py reads the records."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from safe_modprobe.callers import kernel_args
from safe_modprobe.capability import SYS_MODULE
from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.escape import escape
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.log import report
from safe_modprobe.log.counts import KINDS, Budget
from safe_modprobe.model import UID_MAX, Action, Caller, Marker, Plan, Request, Source, Step, Target, TargetState

_PREFIX = "SAFE_MODPROBE_"
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_UID_DIGITS = 10  # digits of 2**32 - 1
_MAX_NAMES = 32  # aliases or program names in a group; callers choose them, so their number has no other bound

REFUSED = (Action.DENY, Action.LOG)
"""Verdicts of refused requests, and of those that only a trial or `mismatch = "log"` let through."""


class Event(NamedTuple):
    """A recorded verdict (report.fields()), with all names unescaped.

    `time` is when the journal received it. `refused` are the modules that a rule would have to allow. `barred` is what
    a new rule cannot override, "" if a rule helps. `capabilities` is the effective mask. `groups` are all gids of the
    caller. None means that a detail of the caller was unknown or not recorded.
    """

    cursor: str
    time: datetime
    verdict: Action
    alias: str
    modules: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    reason: str = ""
    origin: str = ""
    barred: str = ""
    source: Source = Source.NONE
    uid: int | None = None
    euid: int | None = None
    pid: int | None = None
    tid: int | None = None
    comm: str | None = None
    exe: str | None = None
    unit: str | None = None
    groups: tuple[int, ...] | None = None
    capabilities: int = 0
    initial_user_namespace: bool | None = None
    no_new_privs: bool | None = None
    kernel_thread: bool = False
    call_site: str | None = None
    kernel_args: tuple[str, ...] = ()
    message: str = ""


class Repeated(NamedTuple):
    """A count (counts.Repeats): the number of decisions of one kind that were not recorded one by one."""

    time: datetime
    budget: Budget
    times: int


class Group(NamedTuple):
    """Events with the same verdict, caller and modules.

    `modules` are the refused ones, or all modules if none was refused. `latest` is the last event; its verdict and
    caller are those of the group.
    """

    latest: Event
    modules: tuple[str, ...]
    times: int
    first: datetime
    aliases: tuple[str, ...]
    comms: tuple[str, ...]


def parse_event(cursor: str, time: datetime, fields: Mapping[str, object]) -> Event:
    """Parse the fields of a record. Raises UntrustedInputError for fields that safe-modprobe would not write."""
    uid = _number(fields, "CALLER_UID")
    namespace = _text(fields, "CALLER_USERNS")
    if namespace not in ("", "initial", "other"):
        raise UntrustedInputError(f"CALLER_USERNS: {namespace[:40]!a} is neither 'initial' nor 'other'")
    alias = unescape(_text(fields, "ALIAS"))
    if not 0 < len(alias.encode(errors="surrogateescape")) <= kernel_args.MAX_ALIAS:
        raise UntrustedInputError(f"ALIAS: its length is not 1 to {kernel_args.MAX_ALIAS} bytes")
    try:
        verdict, source = Action(_text(fields, "VERDICT")), Source(_text(fields, "SOURCE") or Source.NONE)
    except ValueError as error:
        raise UntrustedInputError(f"VERDICT or SOURCE: {str(error)[:60]}") from None
    return Event(
        cursor,
        time,
        verdict,
        alias,
        modules=_words(fields, "MODULES"),
        refused=_words(fields, "REFUSED"),
        reason=_text(fields, "REASON"),
        origin=_text(fields, "ORIGIN"),
        barred=_text(fields, "BARRED"),
        source=source,
        uid=uid,
        euid=_number(fields, "CALLER_EUID"),
        pid=_number(fields, "CALLER_PID"),
        tid=_number(fields, "CALLER_TID"),
        comm=_name(fields, "CALLER_COMM"),
        exe=_name(fields, "CALLER_EXE"),
        unit=_name(fields, "CALLER_UNIT"),
        groups=_numbers(fields, "CALLER_GROUPS"),
        capabilities=_mask(fields, "CALLER_CAPS"),
        initial_user_namespace=namespace == "initial" if namespace else None,
        no_new_privs=_yes(fields, "CALLER_NO_NEW_PRIVS"),
        kernel_thread=bool(_yes(fields, "CALLER_KERNEL_THREAD")),
        call_site=_name(fields, "CALL_SITE"),
        kernel_args=_words(fields, "KERNEL_ARGS"),
        message=_plain(fields, "MESSAGE"),
    )


def parse_repeated(cursor: str, time: datetime, fields: Mapping[str, object]) -> Repeated:
    """Parse what report.repeats_fields() returned. Raises UntrustedInputError like parse_event()."""
    kind = _text(fields, "KIND")
    if kind not in KINDS:
        raise UntrustedInputError(f"KIND: {kind[:40]!a} is not one of {', '.join(KINDS)}")
    times, uid = _as_number("TIMES", _text(fields, "TIMES")), _number(fields, "CALLER_UID")
    first, dash, last = _text(fields, "CALLER_UIDS").partition("-")
    if dash:
        return Repeated(time, Budget(kind, _as_number("CALLER_UIDS", first), _as_number("CALLER_UIDS", last)), times)
    return Repeated(time, Budget(kind, -1, -1) if uid is None else Budget(kind, uid, uid), times)


def unescape(text: str) -> str:
    """Reverse escape()."""
    raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode(errors="surrogateescape"))
    return raw.decode(errors="surrogateescape")


def _plain(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):  # bytes if it is not UTF-8; a list if the record has the field twice
        raise UntrustedInputError(f"{key.removeprefix(_PREFIX)}: it is not a single text")
    return value


def _text(fields: Mapping[str, object], key: str) -> str:
    value = _plain(fields, _PREFIX + key)
    if any(char < " " or char == "\x7f" for char in value):
        raise UntrustedInputError(f"{key}: it has a control character, which safe-modprobe would escape")
    return value


def _name(fields: Mapping[str, object], key: str) -> str | None:
    return unescape(_text(fields, key)) or None


def _words(fields: Mapping[str, object], key: str) -> tuple[str, ...]:
    return tuple(map(unescape, _text(fields, key).split()))


def _number(fields: Mapping[str, object], key: str) -> int | None:
    text = _text(fields, key)
    return _as_number(key, text) if text else None


def _numbers(fields: Mapping[str, object], key: str) -> tuple[int, ...] | None:
    words = _text(fields, key).split(" ")
    return None if words == [""] else tuple(_as_number(key, word) for word in words)


def _as_number(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _UID_DIGITS and int(text) <= UID_MAX):
        raise UntrustedInputError(f"{key}: {text[:40]!a} is not a number from 0 to {UID_MAX}")
    return int(text)


def _yes(fields: Mapping[str, object], key: str) -> bool | None:
    text = _text(fields, key)
    if text not in ("", "yes", "no"):
        raise UntrustedInputError(f"{key}: {text[:40]!a} is neither 'yes' nor 'no'")
    return text == "yes" if text else None


def _mask(fields: Mapping[str, object], key: str) -> int:
    text = _text(fields, key)
    if text and not re.fullmatch("[0-9a-f]{16}", text):
        raise UntrustedInputError(f"{key}: {text[:40]!a} is not a mask of 16 hexadecimal digits")
    return int(text or "0", 16)


def caller_of(event: Event) -> Caller:
    """Return the caller as recorded, without the tasks behind a kernel thread. Missing details mean no privilege."""
    claim = request_of(event).claim
    return Caller(
        event.source,
        event.uid,
        event.euid,
        None if event.groups is None else frozenset(event.groups),
        event.capabilities,
        event.initial_user_namespace,
        event.no_new_privs,
        event.kernel_thread,
        tid=event.tid,
        comm=event.comm,
        executable=event.exe,
        unit=event.unit,
        call_site=event.call_site,
        pid=event.pid,
        may_hold=kernel_args.claimed_caller(claim).may_hold if claim.unprivileged else 0,
    )


def request_of(event: Event) -> Request:
    """Return the recorded request."""
    return kernel_args.parse(["--", event.alias, *event.kernel_args]).request


def plan_of(event: Event) -> Plan:
    """Return a plan with one target for each refused module. Markers were not recorded, so all count as privileged."""
    steps = (Step(name, marker=Marker("unknown, it was not recorded", SYS_MODULE)) for name in event.refused)
    return Plan(event.alias, tuple(Target(step.module, TargetState.NEW, (step,)) for step in steps))


def describe_requester(event: Event, names: Mapping[int, str] = {}) -> str:
    """Describe the caller without details that differ between its requests. `names` maps uids to user names."""
    caller = caller_of(event)._replace(tid=None, comm=None, unit=steady_unit(event.unit))
    name = None if event.uid is None else names.get(event.uid)
    return report.describe_caller(caller) if name is None else f"{escape(name)}, {report.describe_caller(caller)}"


_TEMPORARY_UNIT = re.compile(r"(run-|user@)|.*@\d+-")
"""Units of systemd-run, of a user's manager, and of one connection of a socket (systemd.socket(5), Accept=)."""


def steady_unit(unit: str | None) -> str | None:
    """Return the unit if it is a service with a permanent name, otherwise None, as for the scope of a login."""
    steady = unit is not None and unit.endswith(".service") and unit.isprintable() and not _TEMPORARY_UNIT.match(unit)
    return unit if steady else None


def group(events: Iterable[Event]) -> tuple[Group, ...]:
    """Group events, oldest first, by verdict, caller and modules. The group with the latest event comes last."""
    groups: dict[tuple[object, ...], Group] = {}
    for event in events:
        modules = event.refused or event.modules
        caller = (event.uid, event.euid, event.initial_user_namespace, steady_unit(event.unit))
        key = (event.verdict, caller, modules, event.barred)
        before = groups.pop(key, Group(event, modules, 0, event.time, (), ()))
        groups[key] = before._replace(
            latest=event,
            times=before.times + 1,
            aliases=with_name(before.aliases, event.alias),
            comms=with_name(before.comms, event.comm),
        )
    return tuple(groups.values())


def sum_repeated(repeated: Iterable[Repeated]) -> list[tuple[str, str, int]]:
    """Return (kind, who, number) with one entry for each kind and user, largest number first."""
    sums: dict[Budget, int] = {}
    for each in repeated:
        sums[each.budget] = sums.get(each.budget, 0) + each.times
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [(budget.kind, report.describe_budget(budget), times) for budget, times in ordered]


def with_name(names: tuple[str, ...], name: str | None) -> tuple[str, ...]:
    """Add a name if it is new and fewer than _MAX_NAMES are there."""
    return names if name is None or name in names or len(names) >= _MAX_NAMES else (*names, name)
