"""The tests that come with the default policy and its examples, by the very command that an admin would run."""

import re
import shutil
import tomllib
from functools import cache
from pathlib import Path

import junitparser
import pytest

from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.policy.cases import Case, judge, parse_cases
from safe_modprobe.callers import find
from safe_modprobe.callers.kernel_args import parse
from safe_modprobe.capability import SYS_MODULE
from safe_modprobe.model import CallSite, Mark, Origin, Policy, Source
from safe_modprobe.policy.match import alias_glob
from safe_modprobe.policy.schema import build
from tests.unit.child import ctl
from tests.unit.make import NoAccounts, callers_under, cap
from tests.vm import conftest

TOP = Path(__file__).resolve().parents[3]
POLICY = TOP / "policy.d"
TESTS = sorted((POLICY / "tests.d").glob("*.toml"))


@cache
def shipped() -> Policy:
    files = [(str(path), path.read_bytes()) for path in sorted(POLICY.glob("*.toml"))]
    return build(files, NoAccounts())


@cache
def shipped_cases() -> tuple[Case, ...]:
    return tuple(case for path in TESTS for case in parse_cases(path.name, path.read_bytes(), NoAccounts()))


def fails(policy: Policy, case: Case) -> bool:
    assert case.plan is not None
    return bool(judge(policy, case, case.plan).problem)


def test_every_shipped_case_holds(tmp_path: Path) -> None:
    junit = tmp_path / "results.xml"
    done = ctl("test", "--policy", POLICY, "--junit", junit, POLICY / "tests.d")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    suites = junitparser.JUnitXml.fromfile(str(junit))
    assert [(Path(suite.name), suite.failures) for suite in suites] == [(path, 0) for path in TESTS]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_shipped_cases_run_on_any_kernel(path: Path) -> None:
    """Each names its modules: what is built in or loaded here is none of its business."""
    rows = tomllib.loads(path.read_text())["case"]
    assert [row["name"] for row in rows if "modules" not in row] == []
    found = parse_cases(path.name, path.read_bytes(), NoAccounts())
    asked = {(case.request, case.callers, case.plan) for case in found}
    assert len(found) >= len(rows) and len(asked) == len(found)


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_no_case_fails_for_what_an_admin_says_of_a_user_of_the_machine(action: str) -> None:
    """`safe-modprobectl test` would complain for ever of a rule like those that explain and suggest propose."""
    rule = f'[[rule]]\nmodules = ["*"]\nusers = {list(range(1000, 1100))}\naction = "{action}"\n'.encode()
    files = [(str(path), path.read_bytes()) for path in sorted(POLICY.glob("*.toml"))]
    policy = build([("10-site.toml", rule), *files], NoAccounts())
    assert [case.name for case in shipped_cases() if fails(policy, case)] == []


def test_the_cases_would_notice_a_policy_that_asks_nothing() -> None:
    """Every refusal that they expect is missed then."""
    open_to_all = build([("00-open.toml", b'[settings]\nmode = "allowed"\n')], NoAccounts())
    refusals = [case for case in shipped_cases() if case.action == "deny"]
    assert len(refusals) > len(shipped_cases()) / 2
    assert [case.name for case in refusals if not fails(open_to_all, case)] == []


def without(policy: Policy, row: Mark | CallSite) -> Policy:
    return policy._replace(
        marks=tuple(each for each in policy.marks if each is not row),
        call_sites=tuple(each for each in policy.call_sites if each is not row),
    )


def with_all_closed_below(policy: Policy) -> Policy:
    """What a later file might say: every module is privileged, and whoever runs the network may have it."""
    last = Origin("99-test.toml", 1)
    mark, site = Mark(last, aliases=("*",), capability=SYS_MODULE), CallSite(last, ("*",), cap("CAP_NET_ADMIN"))
    return policy._replace(marks=(*policy.marks, mark), call_sites=(*policy.call_sites, site))


ROWS = [*shipped().marks, *shipped().call_sites]


def relevant(row: Mark | CallSite, case: Case) -> bool:
    assert case.plan is not None
    (target,) = case.plan.targets
    modules = row.modules if isinstance(row, Mark) else ()
    return any(alias_glob(pattern, case.request.alias) for pattern in row.aliases or "*") and any(
        alias_glob(pattern, step.module) for pattern in modules or "*" for step in target.steps
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.origin))
def test_no_row_can_go_unnoticed(row: Mark | CallSite) -> None:
    """Each row is there for at least one case, which fails without it: at once, or above a later file that closes all.

    The latter are those of what is open to users and of no class, and the tty's, whose capability always suffices.
    """
    chosen = [case for case in shipped_cases() if relevant(row, case)]
    noticed = any(fails(without(shipped(), row), case) for case in chosen)
    closed = with_all_closed_below(shipped())
    assert noticed or any(fails(without(closed, row), case) and not fails(closed, case) for case in chosen)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.origin))
def test_every_pattern_is_in_a_case(row: Mark | CallSite) -> None:
    aliases = {case.request.alias for case in shipped_cases()}
    modules = {step.module for case in shipped_cases() for step in (case.plan.targets[0].steps if case.plan else ())}
    named = [(pattern, modules) for pattern in (row.modules if isinstance(row, Mark) else ())]
    patterns = [*named, *((pattern, aliases) for pattern in row.aliases)]
    assert [text for text, names in patterns if not any(alias_glob(text, name) for name in names)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.origin))
def test_every_row_cites(row: Mark | CallSite) -> None:
    """A CVE, a list, or a file of the kernel's: in its reason, or in the comment at its head."""
    lines = (POLICY / row.origin.file).read_text().splitlines()
    said = f"{lines[row.origin.line - 1]} {row.reason}"
    assert re.search(
        r"CVE-\d{4}-\d+|\b[a-z0-9]+/[a-z0-9_/]+|\b\w+\.c\b|\(([KSUDRCZNMBO] ?){2,}|FS_USERNS_MOUNT", said
    ), said


# The examples.


EXAMPLES = {
    "05-grsecurity.toml": "grsecurity.toml",
    "05-server-strict.toml": "open-to-users.toml",
    "20-brokers.toml": "brokers.toml",
    "30-desktop.toml": "bluetooth.toml",
    "30-rootless-containers.toml": "containers.toml",
}
"""Each, and its tests; those go in the place of the default policy's of that name, where it has one."""


@pytest.mark.parametrize(("name", "tests"), EXAMPLES.items())
def test_an_admin_who_copies_an_example_and_its_tests_breaks_nothing(
    tmp_path: Path, name: str, tests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that the default policy promises besides still holds."""
    shipped, etc = tmp_path / "usr/lib/safe-modprobe", tmp_path / "etc/safe-modprobe"
    shutil.copytree(POLICY, shipped / "policy.d", ignore=lambda folder, names: ["tests.d", "examples"])
    shutil.copytree(POLICY / "tests.d", shipped / "tests.d")
    for source, folder in ((name, "policy.d"), (f"tests.d/{tests}", "tests.d")):
        (etc / folder).mkdir(parents=True)
        shutil.copy(POLICY / "examples" / source, etc / folder)
    code, said = main(["test", "--root", str(tmp_path), "--kernel", "none"]), capsys.readouterr()
    assert (code, said.err) == (0, ""), said.out
    text = (POLICY / "examples" / name).read_text()
    assert (
        f"# Copy to /etc/safe-modprobe/policy.d/, and its tests, tests.d/{tests}, to /etc/safe-modprobe/tests.d/.\n"
        in text
    )


@pytest.mark.parametrize("tests", [tests for tests in EXAMPLES.values() if tests != "grsecurity.toml"])
def test_what_an_example_promises_is_not_so_without_it(tests: str) -> None:
    """And the other way round. (grsecurity's is about who asks, see below.)"""
    assert ctl("test", "--policy", POLICY, POLICY / "examples/tests.d" / tests).returncode == 1


def test_no_example_is_without_tests() -> None:
    assert sorted(EXAMPLES) == sorted(path.name for path in (POLICY / "examples").glob("*.toml"))
    assert sorted(EXAMPLES.values()) == sorted(path.name for path in (POLICY / "examples/tests.d").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "source", "uid"),
    [
        ([], Source.KERNEL_ARGS, None),
        (["grsec_modharden_normal1000_"], Source.KERNEL_ARGS, 1000),
        (["grsec_modharden_normal0_"], Source.KERNEL_ARGS, 0),
        (["grsec_modharden_normal_"], Source.KERNEL_ARGS, None),
        (["grsec_modharden_fs"], Source.PROC, None),
        (["tomorrow"], Source.KERNEL_ARGS, None),
    ],
)
def test_whom_grsecuritys_example_believes(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], source: Source, uid: int | None
) -> None:
    """Silence is root; a mount is looked up elsewhere, here in /proc, where nobody waits."""
    monkeypatch.setattr(find.proc, "started_by_kernel", lambda: True)
    path = POLICY / "examples/05-grsecurity.toml"
    policy = build([(path.name, path.read_bytes())], NoAccounts())
    (found,) = callers_under(policy, parse(["--", "fs-xfs", *arguments]).request)
    assert (found.source, found.uid, bool(found.capabilities)) == (source, uid, arguments == [])


# The documents.

SCENARIOS = TOP / "tests/vm/scenarios"


def last_column(heading: str, text: str) -> list[str]:
    """What stands in the last column of the table below a heading, which has names between semicolons."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [name for row in rows[2:] for name in row[-1].split("; ")]


def test_every_use_that_the_document_promises_has_a_test_by_that_name() -> None:
    named = last_column("What breaks elsewhere, and works here", (TOP / "docs/default-policy.md").read_text())
    programs, rootless = (
        {name for name, _ in conftest.tests_of(SCENARIOS / f"{file}.py")} for file in ("programs", "rootless")
    )
    assert [name for name in named if name not in programs | rootless] == []
    assert programs - set(named) == set()


def test_the_modules_to_load_at_boot_are_those_that_were_tested() -> None:
    listed = (TOP / "docs/rootless.md").read_text().split("```")[1].splitlines()
    tested = (SCENARIOS / "rootless.py").read_text().partition("AT_BOOT = (")[2].partition("\n)")[0]
    names = [line for line in listed if line and not line.startswith("#")]
    assert len(names) > 10 and names == re.findall(r"\w+", tested)
