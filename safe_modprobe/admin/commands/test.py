"""`test`: a policy's own tests: what is asked for, by whom, and what the policy has to say to it.

Each [[case]] of the FILEs (a folder stands for every *.toml in it) is put to the very decision that the helper makes.
Without FILE, those of /usr/lib/safe-modprobe/tests.d and /etc/safe-modprobe/tests.d: a name in the latter replaces the
same name in the former, and a link to /dev/null masks it. Nothing is loaded or changed, and a trial does not count.

Keep a case for whatever your machine must get and must not get, and an update of the policy cannot surprise you;
safe-modprobe.toml(5) has all keys. Exit status: 0 when every case came out as expected, 1 otherwise.
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
  safe-modprobectl test                             all tests of this machine
  safe-modprobectl test -v ./site-tests.toml        one file, and every case of it by name
  safe-modprobectl test --policy policy.d policy.d/tests.d
                                                    a policy that is not installed, in a pipeline
  safe-modprobectl test --junit results.xml         for a CI system
  safe-modprobectl test --root /mnt --kernel 6.1.0-49-amd64
                                                    an image, with its own policy and modules
"""


def add_parser(commands: Commands) -> None:
    """Add `test`."""
    parser = add_command(commands, "test", "the policy's own tests", __doc__, _EXAMPLES)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="a file of tests, or a folder of them; default: those installed"
    )
    parser.add_argument(
        "--policy",
        action="append",
        metavar="DIR",
        help="test the policy of this folder (again for more, the last counts most), not the installed one",
    )
    parser.add_argument("--junit", metavar="FILE", help="write the results to FILE as JUnit's XML, too")
    parser.add_argument("-v", "--verbose", action="store_true", help="every case, not only those that failed")
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when every case came out as expected; 1 when one did not, and where there was none to fail."""
    on = machine.from_arguments(arguments)
    accounts = on.accounts()
    folders = list(map(on.path, FOLDERS))
    files = read_case_files(arguments.files) if arguments.files else read_installed_case_files(folders)
    wanted = [case for path, content in files for case in parse_cases(path, content, accounts)]
    if not wanted:
        looked = ", ".join(arguments.files or folders)
        raise UsageError(f"{looked}: no [[case]] is there, so nothing was tested; see safe-modprobe.toml(5)")
    policy = _policy(arguments, on)
    outcomes = [judge(policy, case, case.plan or _planned(case, on)) for case in wanted]
    if arguments.junit is not None:
        _write_junit(arguments.junit, outcomes)
    if arguments.json:
        print_json([_as_json(outcome) for outcome in outcomes])
    else:
        _print(outcomes, arguments.verbose)
    return 1 if any(each.problem for each in outcomes) or all(each.vacuous for each in outcomes) else 0


def _policy(arguments: argparse.Namespace, on: machine.Machine) -> Policy:
    if not arguments.policy:
        return on.policy()
    return draft_policy(arguments.policy, on.accounts())


def _planned(case: Case, on: machine.Machine) -> Plan:
    """What the kernel at hand would need."""
    try:
        return on.plan(case.request)
    except (OSError, UsageError) as error:
        what = f"{case.place}: {case.name}: no plan for this kernel ({reason_of(error)})"
        raise SafeModprobeError(f"{what}; give 'modules', or --root and --kernel") from None


def _print(outcomes: list[Outcome], verbose: bool) -> None:
    for each in outcomes:
        if each.problem:
            print(printable(f"{each.case.place}: {each.case.name}: {each.problem}"))
        elif verbose:
            verdict = each.verdict
            text = f"{verdict.action} ({verdict.reason} [{verdict.origin}])"
            print(printable(f"{each.case.place}: {each.case.name}: ok, {text}"))
    failed = sum(1 for each in outcomes if each.problem)
    idle = sum(1 for each in outcomes if each.vacuous)
    print(f"{count_noun(len(outcomes), 'case')}, {failed or 'none'} failed")
    if idle:
        print(
            f"{count_noun(idle, 'case')} with nothing to decide on this kernel; 'modules' makes it independent of that"
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
    """A suite for each file. Raises OSError."""
    import junitparser  # type: ignore[import-untyped]

    cases: dict[str, list[Any]] = {}
    for each in outcomes:
        file = printable(each.case.path)
        case = junitparser.TestCase(printable(each.case.name), f"{file}:{each.case.line}")
        if each.problem:
            case.result = [junitparser.Failure(printable(each.problem))]
        cases.setdefault(file, []).append(case)
    xml = junitparser.JUnitXml("safe-modprobectl test")
    for file, of_file in cases.items():
        suite = junitparser.TestSuite(file)
        suite.add_testcases(of_file)  # at once: it counts the whole suite whenever something is added
        xml.add_testsuite(suite)
    try:
        with open(path, "wb") as output:
            xml.write(output)
    except OSError as error:  # of write(2) it does not say where
        raise OSError(error.errno, error.strerror, path) from None
