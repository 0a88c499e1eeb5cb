"""`check`: every error of the policy, and what in it cannot be meant. Nothing is changed, and nothing is loaded.

Without PATH it looks at the policy that is in force; with PATHs at each file, or folder of files, as if it were
installed alone. Errors are those for which the policy would not hold. Warnings: rows that never decide, and names that
this machine does not have. The files that came with the package name modules of many kernels, so what is odd there is
but a note, shown with --all.
"""

import argparse
import os
from collections.abc import Sequence

from safe_modprobe.admin.commands import machine
from safe_modprobe.admin.commands.output import count_noun, print_json, printable, rows_counted
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json, add_machine
from safe_modprobe.admin.policy.drop_ins import DropIns, read_draft, read_installed
from safe_modprobe.admin.policy.findings import Finding, ParsedPolicy, Severity, parse_and_check
from safe_modprobe.admin.policy.lint import lint
from safe_modprobe.admin.policy.names import Facts, names_in
from safe_modprobe.errors import UsageError, reason_of

_EXAMPLES = """
  safe-modprobectl check                        the policy in force, and what in it is odd
  safe-modprobectl check ./10-site.toml         a draft, before it is installed
  safe-modprobectl check --strict policy.d/     in a pipeline: warnings count as errors
  safe-modprobectl check --root /mnt --kernel 6.1.0-49-amd64
  safe-modprobectl check --schema >policy.json  for an editor: #:schema ./policy.json in a file's first line
"""


def add_parser(commands: Commands) -> None:
    """Add `check`."""
    parser = add_command(commands, "check", "every error of the policy, and what is odd in it", __doc__, _EXAMPLES)
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="a drop-in, or a folder of them; default: those in force"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings, too")
    parser.add_argument("--all", action="store_true", help="also the notes on the files that came with the package")
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema of a drop-in, for editors, and stop"
    )
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 for a policy that holds, 1 for errors, and with --strict for warnings."""
    if arguments.schema:
        from safe_modprobe.admin.policy.json_schema import json_schema

        print_json(json_schema())
        return 0
    on = machine.from_arguments(arguments)
    policies = [read_draft(path) for path in arguments.paths] or [read_installed(on.folders())]
    checked = [_checked(policy, on) for policy in policies]
    sheets = [sheet for sheet, _ in checked if sheet is not None]
    facts, found = _facts(on, sheets) if sheets else (Facts(), [])
    for sheet, findings in checked:
        found += findings if sheet is None else [*findings, *lint(sheet, facts)]
    package = "" if arguments.paths else f"{on.folders()[0]}/"
    found = [_softened(each, package) for each in found]
    if arguments.json:
        print_json([each._asdict() | {"line": each.line or None, "key": each.key or None} for each in found])
    else:
        hidden = [] if arguments.all else [each for each in found if _is_hidden(each, package)]
        _print(found, hidden, sheets)
    severities = {each.severity for each in found}
    return 1 if Severity.ERROR in severities or (arguments.strict and Severity.WARNING in severities) else 0


def _checked(policy: DropIns, on: machine.Machine) -> tuple[ParsedPolicy | None, list[Finding]]:
    """The policy, None where it does not hold, and what was found so far."""
    found = list(policy.findings)
    try:
        sheet = parse_and_check(policy.files, on.accounts())
    except OSError as error:  # /etc/passwd, which only a file with names in it asks for
        path = str(error.filename or "accounts")
        return None, [*found, Finding(Severity.ERROR, path, 0, "", reason_of(error))]
    if not isinstance(sheet, ParsedPolicy):
        return None, [*found, *sheet]
    return (None if any(each.severity is Severity.ERROR for each in found) else sheet), found


def _facts(on: machine.Machine, sheets: Sequence[ParsedPolicy]) -> tuple[Facts, list[Finding]]:
    """What the machine has; a finding where its modules are not to be found. Raises UsageError for a wrong --kernel."""
    from safe_modprobe.admin.health.machine_facts import read_facts

    folder = on.folder()
    if on.kernel is not None and not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder of modules; give the right -d and -S")
    facts = read_facts(on.root, folder, on.config(), names_in(sheet.policy for sheet in sheets))
    if facts.modules is not None:
        return facts, []
    message = (
        "it lacks modules.dep or modules.builtin, so names of modules and aliases were not looked up;"
        " --kernel names another kernel"
    )
    return facts, [Finding(Severity.NOTE, folder, 0, "", message)]


def _softened(finding: Finding, package: str) -> Finding:
    """The package's files are not the reader's to mend, and name what only some machines have."""
    if package and finding.severity is Severity.WARNING and finding.path.startswith(package):
        return finding._replace(severity=Severity.NOTE)
    return finding


def _is_hidden(finding: Finding, package: str) -> bool:
    return bool(package) and finding.severity is Severity.NOTE and finding.path.startswith(package)


def _print(found: Sequence[Finding], hidden: Sequence[Finding], sheets: Sequence[ParsedPolicy]) -> None:
    """A line for each finding, errors first, then the sum."""
    order = list(Severity)
    for finding in sorted(found, key=lambda each: order.index(each.severity)):
        if finding not in hidden:
            print(printable(str(finding)))
    print(_summary(found, hidden, sheets))


def _summary(found: Sequence[Finding], hidden: Sequence[Finding], sheets: Sequence[ParsedPolicy]) -> str:
    count = {severity: sum(each.severity is severity for each in found) for severity in Severity}
    policies = [sheet.policy for sheet in sheets]
    what = ", ".join(count_noun(number, str(severity)) for severity, number in count.items())
    more = f" ({len(hidden)} on the package's own files, which --all shows)" if hidden else ""
    if not policies:
        return f"{what}{more}; the policy does not hold"
    return f"{count_noun(sum(len(each.files) for each in policies), 'file')}, {rows_counted(*policies)}: {what}{more}"
