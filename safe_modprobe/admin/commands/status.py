"""`status`: is it on, does it protect, and what is wrong. Nothing is changed.

The first line is the answer. Then: the mode, who can say who asks and why not the better sources, the policy's files
and their digest (`cat FILE… | sha256sum`, in that order), the last verdicts; each problem with how to mend it.
A problem is `moot` where because of it alone nothing is decided, or nothing that is decided counts; `weaker` where less
is known, or less is kept from users, than the policy says; `note` where it may well be meant.

Exit status: 0 when it is on and nothing is moot, 1 when it is on and something is (a trial, too), or status itself
failed, 3 when it is not switched on.
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from safe_modprobe.admin.commands.dry_run import dry_run
from safe_modprobe.admin.commands.output import console, local_time, print_json, printable, row_counts, rows_counted
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json
from safe_modprobe.admin.health.assess import Health, State, assess
from safe_modprobe.admin.health.facts import Facts
from safe_modprobe.admin.health.problem import Severity
from safe_modprobe.admin.health.read import read_facts
from safe_modprobe.admin.health.sources import Use
from safe_modprobe.admin.records.history import Event, caller_of
from safe_modprobe.admin.switch.switch import HELPER
from safe_modprobe.errors import SafeModprobeError, UsageError
from safe_modprobe.escape import escape
from safe_modprobe.log.report import describe_caller
from safe_modprobe.model import Policy

_EXAMPLES = """
  safe-modprobectl status                                      is it on, does it protect, what is wrong
  safe-modprobectl status >/run/seen || logger -f /run/seen   from a timer: 1 and 3 need a look
  safe-modprobectl status --json | jq -r '.problems[] | select(.severity == "moot") | .what'
  safe-modprobectl status --json | jq -r .policy.digest   the same on every machine of a fleet?
"""

_CODE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_VERDICTS = 3
_DIGITS = 16  # of a digest: enough for a person to compare; --json has it all

_STYLES = {"moot": "bold red", "weaker": "yellow", "note": "cyan", "protects": "bold green", "not": "bold red"}

Row = tuple[str, str, str]
"""A label, "" to go on below the last one; a text; and its style, "" for plain."""


def add_parser(commands: Commands) -> None:
    """Add `status`."""
    summary = "is it on, does it protect, and what is wrong"
    add_json(parser := add_command(commands, "status", summary, __doc__, _EXAMPLES))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0: on and nothing moot; 1: on, and something is; 3: not on."""
    if os.geteuid() != 0:
        raise UsageError("status: tracing and what is in /run/safe-modprobe are root's alone to see; run it as root")
    facts, health = assess_machine()
    verdicts, missing = _last_verdicts()
    if arguments.json:
        print_json(as_json(facts, health, verdicts, missing))
    else:
        _show([*_summary(facts, health, verdicts, missing), *_problems(health)])
    return 3 if health.state is State.OFF else 0 if health.protects else 1


def assess_machine() -> tuple[Facts, Health]:
    """The machine as it is, with a dry run of the helper, and what is to be said of it. Raises OSError."""
    facts = read_facts(HELPER, _CODE)
    # Not what somebody else may have written; and a broken policy the helper would record once more.
    if not facts.policy_error and all(program.sound for program in facts.programs):
        facts = facts._replace(dry_run=dry_run(subprocess.STDOUT))
    return facts, assess(facts)


def _last_verdicts() -> tuple[list[Event], str]:
    """The newest first, and why there can be none, "" where there could."""
    from safe_modprobe.admin.records.journal import Journal  # needs python3-systemd, which nothing else here does

    try:
        return list(itertools.islice(Journal().backwards(), _VERDICTS)), ""
    except SafeModprobeError as error:
        return [], str(error)


def as_json(facts: Facts, health: Health, verdicts: Sequence[Event], missing: str) -> dict[str, object]:
    """For machines; keys stay, and new ones may come."""
    settings = facts.policy.settings
    return {
        "state": str(health.state),
        "protects": health.protects,
        "kernel": facts.kernel,
        "helper": facts.current,
        "at_boot": facts.at_boot,
        "mode": str(settings.mode),
        "mismatch": str(settings.mismatch),
        "sources": [{"source": str(each.source), "use": str(each.use), "why": each.why} for each in health.sources],
        "policy": {
            "files": list(facts.policy.files),
            "digest": facts.digest or None,
            "error": facts.policy_error or None,
            **row_counts(facts.policy),
        },
        "verdicts": [_json_verdict(each) for each in verdicts],
        "verdicts_missing": missing or None,
        "problems": [each._asdict() for each in health.problems],
    }


def _json_verdict(event: Event) -> dict[str, object]:
    return {
        "time": event.time.isoformat(),
        "verdict": str(event.verdict),
        "alias": event.alias,
        "modules": list(event.modules),
        "uid": event.uid,
        "comm": event.comm,
        "unit": event.unit,
        "origin": event.origin,
        "cursor": event.cursor,
    }


def _summary(facts: Facts, health: Health, verdicts: Sequence[Event], missing: str) -> Iterator[Row]:
    settings = facts.policy.settings
    yield "", _answer(facts, health), _STYLES["protects" if health.protects else "not"]
    yield "kernel", facts.kernel, ""
    yield "at boot", "switched on" if facts.at_boot else "not switched on: 'safe-modprobectl enable' does that", ""
    yield (
        "mode",
        f"{settings.mode} [{settings.origin('mode')}]; a mismatch: {settings.mismatch} [{settings.origin('mismatch')}]",
        "",
    )
    used = [
        f"{each.source} {'in use' if each.use is Use.IN_USE else 'stands by'}"
        for each in health.sources
        if not each.why
    ]
    yield "sources", ", ".join(used) or "none", ""
    for each in health.sources:
        if each.why:
            yield "", f"{each.source} not: {each.why}", "dim"
    yield from _of_policy(facts)
    label = "verdicts"
    for event in verdicts:
        yield label, _verdict(event), ""
        label = ""
    if not verdicts:
        yield label, missing or "none yet", "dim"


def _answer(facts: Facts, health: Health) -> str:
    if health.state is State.OFF:
        current = "not there" if facts.current is None else facts.current or "empty"
        return f"safe-modprobe is off: kernel.modprobe is {current}"
    moot = sum(each.severity is Severity.MOOT for each in health.problems)
    if health.state is State.TRIAL:
        return "safe-modprobe is on trial: nothing is refused, so it does not protect"
    if not health.protects:
        return f"safe-modprobe is on and does not protect: {moot} problem{'s make' if moot > 1 else ' makes'} it moot"
    return "safe-modprobe is on and protects"


def _of_policy(facts: Facts) -> Iterator[Row]:
    policy = facts.policy
    counts = rows_counted(policy)
    if facts.policy_error:
        yield "policy", f"broken, so the built-in one: {counts}", ""
    else:
        yield (
            "policy",
            f"{counts}; sha256 {facts.digest[:_DIGITS]}…" if policy.files else f"the built-in one: {counts}",
            "",
        )
    for folder, names in _by_folder(policy).items():
        yield "", f"{folder}/: {' '.join(names)}", "dim"


def _by_folder(policy: Policy) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for path in policy.files:
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append(name)
    return folders


def _verdict(event: Event) -> str:
    what = f"'{escape(event.alias)}'" + (f" ({', '.join(map(escape, event.modules))})" if event.modules else "")
    return f"{local_time(event.time)} {event.verdict} {what} to {describe_caller(caller_of(event))}"


def _problems(health: Health) -> Iterator[Row]:
    for problem in health.problems:
        yield str(problem.severity), problem.what, _STYLES[problem.severity]
        yield "", f"→ {problem.mend}", ""


def _show(rows: Sequence[Row]) -> None:
    """A line each; on a terminal with colours, and long ones wrapped below their beginning."""
    width = max(len(label) for label, _, _ in rows) + 2
    if sys.stdout.isatty():
        try:
            _show_on_terminal(rows)
            return
        except ImportError:  # what says whether all is well has to work where not all is
            pass
    for index, (label, text, _) in enumerate(rows):
        print(printable(text) if index == 0 else f"{label:<{width}}{printable(text)}")


def _show_on_terminal(rows: Sequence[Row]) -> None:
    out = console()
    from rich.table import Table
    from rich.text import Text

    (_, answer, style), *rest = rows
    out.print(Text(answer, style))
    grid = Table.grid(padding=(0, 2, 0, 0))
    for label, text, style in rest:
        weight = style if label in _STYLES else "bold"
        grid.add_row(Text(label, weight), Text(printable(text), "" if label in _STYLES else style))
    out.print(grid)
