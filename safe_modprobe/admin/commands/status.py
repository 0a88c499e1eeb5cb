"""`status`: show whether safe-modprobe is on, whether it protects, and what is wrong. It changes nothing.

The first line is the answer. The next lines show the mode, the sources of the caller and why a better one is unused,
the policy's files, and the last verdicts. The policy's digest is that of `cat FILE… | sha256sum` in the order shown.
Each problem comes with its remedy. A problem is `moot` if it alone leaves nothing decided, or leaves decisions without
effect. It is `weaker` if less is known of callers, or less is refused, than the policy says. It is a `note` if it may
be intended.

Exit status: 0 if it is on without a moot problem. 1 if it is on with one, which a trial is too, or if status itself
failed. 3 if it is off.
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
_SHOWN_VERDICTS = 3
_SHOWN_DIGITS = 16  # hexadecimal digits of the digest, enough for a person to compare; --json shows all

_STYLES = {"moot": "bold red", "weaker": "yellow", "note": "cyan", "protects": "bold green", "not": "bold red"}

Row = tuple[str, str, str]
"""(label, text, style). Label "" continues the row above; style "" is plain text."""


def add_parser(commands: Commands) -> None:
    """Add `status`."""
    summary = "show whether it is on, whether it protects, and what is wrong"
    add_json(parser := add_command(commands, "status", summary, __doc__, _EXAMPLES))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Return 0 if it is on without a moot problem, 1 if it is on with one, 3 if it is off."""
    if os.geteuid() != 0:
        raise UsageError("status: only root can read tracefs and /run/safe-modprobe; run it as root")
    facts, health = assess_machine()
    verdicts, missing = _last_verdicts()
    if arguments.json:
        print_json(as_json(facts, health, verdicts, missing))
    else:
        _show([*_summary(facts, health, verdicts, missing), *_problems(health)])
    return 3 if health.state is State.OFF else 0 if health.protects else 1


def assess_machine() -> tuple[Facts, Health]:
    """Return the facts of this machine, with a dry run of the helper, and their assessment. Raises OSError."""
    facts = read_facts(HELPER, _CODE)
    # Do not run programs that another user may have written. With a broken policy the helper would log that once more.
    if not facts.policy_error and all(program.sound for program in facts.programs):
        facts = facts._replace(dry_run=dry_run(subprocess.STDOUT))
    return facts, assess(facts)


def _last_verdicts() -> tuple[list[Event], str]:
    """Return the last verdicts, newest first, and why they cannot be read ("" if they can)."""
    from safe_modprobe.admin.records.journal import Journal  # Only this needs python3-systemd.

    try:
        return list(itertools.islice(Journal().backwards(), _SHOWN_VERDICTS)), ""
    except SafeModprobeError as error:
        return [], str(error)


def as_json(facts: Facts, health: Health, verdicts: Sequence[Event], missing: str) -> dict[str, object]:
    """Return the report for programs. Keys are stable; new ones may be added."""
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
    yield "at boot", "switched on" if facts.at_boot else "not switched on; run 'safe-modprobectl enable'", ""
    mode = f"{settings.mode} [{settings.origin('mode')}]"
    yield "mode", f"{mode}; on a mismatch: {settings.mismatch} [{settings.origin('mismatch')}]", ""
    used = [
        f"{each.source} {'in use' if each.use is Use.IN_USE else 'stands by'}"
        for each in health.sources
        if not each.why
    ]
    yield "sources", ", ".join(used) or "none", ""
    for each in health.sources:
        if each.why:
            yield "", f"{each.source} unused: {each.why}", "dim"
    yield from _policy_rows(facts)
    label = "verdicts"
    for event in verdicts:
        yield label, _verdict_text(event), ""
        label = ""
    if not verdicts:
        yield label, missing or "none yet", "dim"


def _answer(facts: Facts, health: Health) -> str:
    if health.state is State.OFF:
        current = "missing" if facts.current is None else facts.current or "empty"
        return f"safe-modprobe is off: kernel.modprobe is {current}"
    moot = sum(each.severity is Severity.MOOT for each in health.problems)
    if health.state is State.TRIAL:
        return "safe-modprobe is on trial: nothing is refused, so it does not protect"
    if not health.protects:
        return f"safe-modprobe is on and does not protect: {moot} problem{'s make' if moot > 1 else ' makes'} it moot"
    return "safe-modprobe is on and protects"


def _policy_rows(facts: Facts) -> Iterator[Row]:
    policy = facts.policy
    counts = rows_counted(policy)
    if facts.policy_error:
        yield "policy", f"broken, so the built-in policy is in force: {counts}", ""
    else:
        yield (
            "policy",
            f"{counts}; sha256 {facts.digest[:_SHOWN_DIGITS]}…" if policy.files else f"the built-in policy: {counts}",
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


def _verdict_text(event: Event) -> str:
    request = f"'{escape(event.alias)}'" + (f" ({', '.join(map(escape, event.modules))})" if event.modules else "")
    return f"{local_time(event.time)} {event.verdict} {request} to {describe_caller(caller_of(event))}"


def _problems(health: Health) -> Iterator[Row]:
    for problem in health.problems:
        yield str(problem.severity), problem.what, _STYLES[problem.severity]
        yield "", f"→ {problem.mend}", ""


def _show(rows: Sequence[Row]) -> None:
    """Print one row a line. On a terminal, use colours and indent what is wrapped."""
    width = max(len(label) for label, _, _ in rows) + 2
    if sys.stdout.isatty():
        try:
            _show_on_terminal(rows)
            return
        except ImportError:  # rich may be missing: status must work on a half-installed system.
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
