"""`test`: run the policy's test cases. A case gives a request, its caller and the expected verdict.

The same function that the helper calls decides each [[case]] of the FILEs. A folder stands for every *.toml file in it.
Without FILE, the command runs the files of /usr/lib/safe-modprobe/tests.d and /etc/safe-modprobe/tests.d. A file in the
second folder replaces the file of that name in the first, and a link to /dev/null masks it. The command loads and
changes nothing, and ignores a trial.

Keep a case for each module that your machine needs and for each module that it must refuse. Then you notice when a
policy update changes a verdict. safe-modprobe.toml(5) lists all keys. The exit status is 0 if every case passes, and 1
otherwise.
"""

import argparse
from typing import Any

from safe_modprobe.admin.commands import machine
from safe_modprobe.admin.commands.output import count_noun, print_json, printable
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json, add_machine
from safe_modprobe.admin.policy.case_files import FOLDERS, draft_policy, read_case_files, read_installed_case_files
from safe_modprobe.admin.policy.cases import Case, Outcome, judge, parse_cases
from safe_modprobe.errors import SafeModprobeError, UsageError, reason_of
from safe_modprobe.model import Plan, Policy

_EXAMPLES = """
  safe-modprobectl test                             all installed tests
  safe-modprobectl test -v ./site-tests.toml        one file, with the result of every case
  safe-modprobectl test --policy policy.d policy.d/tests.d
                                                    a policy that is not installed, in a CI pipeline
  safe-modprobectl test --junit results.xml         results for a CI system
  safe-modprobectl test --root /mnt --kernel 6.1.0-49-amd64
                                                    an image, with the policy and modules in it
"""


def add_parser(commands: Commands) -> None:
    """Add `test`."""
    parser = add_command(commands, "test", "run the policy's tests", __doc__, _EXAMPLES)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a file of tests or a folder of such files; default: the installed tests",
    )
    parser.add_argument(
        "--policy",
        action="append",
        metavar="DIR",
        help="test the policy in this folder instead of the installed one (repeatable; the last DIR takes precedence)",
    )
    parser.add_argument("--junit", metavar="FILE", help="also write the results to FILE as JUnit XML")
    parser.add_argument("-v", "--verbose", action="store_true", help="list every case, not only the failed ones")
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 if every case passes. Return 1 if a case fails, or if no case had anything to decide."""
    system = machine.from_arguments(arguments)
    accounts = system.accounts()
    folders = list(map(system.path, FOLDERS))
    files = read_case_files(arguments.files) if arguments.files else read_installed_case_files(folders)
    cases = [case for path, content in files for case in parse_cases(path, content, accounts)]
    if not cases:
        places = ", ".join(arguments.files or folders)
        raise UsageError(f"{places}: no [[case]] found, so nothing was tested; see safe-modprobe.toml(5)")
    policy = _policy(arguments, system)
    outcomes = [judge(policy, case, case.plan or _plan(case, system)) for case in cases]
    if arguments.junit is not None:
        _write_junit(arguments.junit, outcomes)
    if arguments.json:
        print_json([_as_json(outcome) for outcome in outcomes])
    else:
        _print(outcomes, arguments.verbose)
    return 1 if any(each.problem for each in outcomes) or all(each.vacuous for each in outcomes) else 0


def _policy(arguments: argparse.Namespace, system: machine.Machine) -> Policy:
    if not arguments.policy:
        return system.policy()
    return draft_policy(arguments.policy, system.accounts())


def _plan(case: Case, system: machine.Machine) -> Plan:
    """Return the case's plan for the selected kernel. Raises SafeModprobeError if that kernel has no modules."""
    try:
        return system.plan(case.request)
    except (OSError, UsageError) as error:
        message = f"{case.place}: {case.name}: no plan for this kernel ({reason_of(error)})"
        raise SafeModprobeError(f"{message}; give 'modules', or --root and --kernel") from None


def _print(outcomes: list[Outcome], verbose: bool) -> None:
    for each in outcomes:
        if each.problem:
            print(printable(f"{each.case.place}: {each.case.name}: {each.problem}"))
        elif verbose:
            verdict = each.verdict
            text = f"{verdict.action} ({verdict.reason} [{verdict.origin}])"
            print(printable(f"{each.case.place}: {each.case.name}: ok, {text}"))
    failed = sum(1 for each in outcomes if each.problem)
    vacuous = sum(1 for each in outcomes if each.vacuous)
    print(f"{count_noun(len(outcomes), 'case')}, {failed or 'none'} failed")
    if vacuous:
        print(
            f"{count_noun(vacuous, 'case')} had nothing to decide on this kernel; give 'modules' to test on any kernel"
        )


def _as_json(outcome: Outcome) -> dict[str, Any]:
    case, verdict = outcome.case, outcome.verdict
    return {
        "file": case.path,
        "line": case.line,
        "name": case.name,
        "request": case.request.alias,
        "passed": not outcome.problem,
        "problem": outcome.problem or None,
        "expected": str(case.action),
        "expected_origin": case.origin or None,
        "verdict": str(verdict.action),
        "reason": verdict.reason,
        "origin": str(verdict.origin),
        "nothing_to_decide": outcome.vacuous,
    }


def _write_junit(path: str, outcomes: list[Outcome]) -> None:
    """Write a test suite for each file of cases. Raises OSError."""
    import junitparser  # type: ignore[import-untyped]

    cases: dict[str, list[Any]] = {}
    for each in outcomes:
        file = printable(each.case.path)
        case = junitparser.TestCase(printable(each.case.name), f"{file}:{each.case.line}")
        if each.problem:
            case.result = [junitparser.Failure(printable(each.problem))]
        cases.setdefault(file, []).append(case)
    xml = junitparser.JUnitXml("safe-modprobectl test")
    for file, file_cases in cases.items():
        suite = junitparser.TestSuite(file)
        suite.add_testcases(file_cases)  # junitparser counts the whole suite anew at each call, so call it once.
        xml.add_testsuite(suite)
    try:
        with open(path, "wb") as output:
            xml.write(output)
    except OSError as error:  # An error of write(2) lacks the file's name.
        raise OSError(error.errno, error.strerror, path) from None
