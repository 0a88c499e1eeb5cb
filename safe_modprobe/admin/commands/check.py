"""`check`: report every error in the policy, and every row that is probably a mistake. It changes and loads nothing.

Without PATH, the command checks the policy that is in force. With PATHs, it checks each file or folder as if that were
the only policy installed. An error makes the whole policy invalid. A warning is a row that never decides, or a name
that this machine does not have. The package's own files name modules of many kernels, so a warning there is only a
note; --all shows those notes.
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
  safe-modprobectl check                        check the policy that is in force
  safe-modprobectl check ./10-site.toml         check a draft before you install it
  safe-modprobectl check --strict policy.d/     in a CI pipeline, where warnings count as errors
  safe-modprobectl check --root /mnt --kernel 6.1.0-49-amd64
  safe-modprobectl check --schema >policy.json  for an editor; put '#:schema ./policy.json' in a drop-in's first line
"""


def add_parser(commands: Commands) -> None:
    """Add `check`."""
    parser = add_command(commands, "check", "report errors and likely mistakes in the policy", __doc__, _EXAMPLES)
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="a drop-in or a folder of drop-ins; default: those in force"
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 for warnings too")
    parser.add_argument("--all", action="store_true", help="also show the notes on the package's own files")
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema of a drop-in, for editors, and exit"
    )
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 when the policy has errors, or with --strict warnings; otherwise 0."""
    if arguments.schema:
        from safe_modprobe.admin.policy.json_schema import json_schema

        print_json(json_schema())
        return 0
    system = machine.from_arguments(arguments)
    policies = [read_draft(path) for path in arguments.paths] or [read_installed(system.folders())]
    checked = [_parse(policy, system) for policy in policies]
    valid = [parsed for parsed, _ in checked if parsed is not None]
    facts, found = _read_facts(system, valid) if valid else (Facts(), [])
    for parsed, findings in checked:
        found += findings if parsed is None else [*findings, *lint(parsed, facts)]
    package = "" if arguments.paths else f"{system.folders()[0]}/"
    found = [_demote_package_warning(each, package) for each in found]
    if arguments.json:
        print_json([each._asdict() | {"line": each.line or None, "key": each.key or None} for each in found])
    else:
        hidden = [] if arguments.all else [each for each in found if _is_hidden(each, package)]
        _print(found, hidden, valid)
    severities = {each.severity for each in found}
    return 1 if Severity.ERROR in severities or (arguments.strict and Severity.WARNING in severities) else 0


def _parse(policy: DropIns, system: machine.Machine) -> tuple[ParsedPolicy | None, list[Finding]]:
    """Return the parsed policy, or None for an invalid one, and the findings so far."""
    found = list(policy.findings)
    try:
        parsed = parse_and_check(policy.files, system.accounts())
    except OSError as error:  # /etc/passwd is read only for a policy that names users or groups.
        path = str(error.filename or "accounts")
        return None, [*found, Finding(Severity.ERROR, path, 0, "", reason_of(error))]
    if not isinstance(parsed, ParsedPolicy):
        return None, [*found, *parsed]
    return (None if any(each.severity is Severity.ERROR for each in found) else parsed), found


def _read_facts(system: machine.Machine, policies: Sequence[ParsedPolicy]) -> tuple[Facts, list[Finding]]:
    """Return what the machine has, and a finding if its list of modules is missing.

    Raises UsageError for a --kernel without a folder of modules.
    """
    from safe_modprobe.admin.health.machine_facts import read_facts

    folder = system.folder()
    if system.kernel is not None and not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder of modules; give the right --root and --kernel")
    facts = read_facts(system.root, folder, system.config(), names_in(each.policy for each in policies))
    if facts.modules is not None:
        return facts, []
    message = (
        "modules.dep or modules.builtin is missing, so names of modules and aliases were not checked;"
        " choose another kernel with --kernel"
    )
    return facts, [Finding(Severity.NOTE, folder, 0, "", message)]


def _demote_package_warning(finding: Finding, package: str) -> Finding:
    """Turn a warning on a file of the package into a note.

    The administrator does not edit those files, and they name modules and users that only some machines have.
    """
    if package and finding.severity is Severity.WARNING and finding.path.startswith(package):
        return finding._replace(severity=Severity.NOTE)
    return finding


def _is_hidden(finding: Finding, package: str) -> bool:
    return bool(package) and finding.severity is Severity.NOTE and finding.path.startswith(package)


def _print(found: Sequence[Finding], hidden: Sequence[Finding], valid: Sequence[ParsedPolicy]) -> None:
    """Print one line for each finding, errors first, then a summary."""
    order = list(Severity)
    for finding in sorted(found, key=lambda each: order.index(each.severity)):
        if finding not in hidden:
            print(printable(str(finding)))
    print(_summary(found, hidden, valid))


def _summary(found: Sequence[Finding], hidden: Sequence[Finding], valid: Sequence[ParsedPolicy]) -> str:
    count = {severity: sum(each.severity is severity for each in found) for severity in Severity}
    policies = [each.policy for each in valid]
    counts = ", ".join(count_noun(number, str(severity)) for severity, number in count.items())
    more = f" ({len(hidden)} on the package's own files; --all shows them)" if hidden else ""
    if not policies:
        return f"{counts}{more}; the policy is invalid"
    return f"{count_noun(sum(len(each.files) for each in policies), 'file')}, {rows_counted(*policies)}: {counts}{more}"
