"""The test cases of the default policy and its examples, run by `safe-modprobectl test` as an administrator would."""

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
    """Each case names its modules, so that the modules of the running kernel do not matter."""
    rows = tomllib.loads(path.read_text())["case"]
    assert [row["name"] for row in rows if "modules" not in row] == []
    found = parse_cases(path.name, path.read_bytes(), NoAccounts())
    distinct = {(case.request, case.callers, case.plan) for case in found}
    assert len(found) >= len(rows) and len(distinct) == len(found)


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_no_shipped_case_fails_because_of_a_rule_for_a_local_user(action: str) -> None:
    """Otherwise `safe-modprobectl test` would fail after each rule that `explain` or `suggest` proposed."""
    rule = f'[[rule]]\nmodules = ["*"]\nusers = {list(range(1000, 1100))}\naction = "{action}"\n'.encode()
    files = [(str(path), path.read_bytes()) for path in sorted(POLICY.glob("*.toml"))]
    policy = build([("10-site.toml", rule), *files], NoAccounts())
    assert [case.name for case in shipped_cases() if fails(policy, case)] == []


def test_the_shipped_cases_fail_under_a_policy_that_allows_everything() -> None:
    """Each case that expects a refusal fails then."""
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
    """Add the rows of a strict later file: every module is privileged, and CAP_NET_ADMIN suffices."""
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
def test_removing_a_row_fails_a_case(row: Mark | CallSite) -> None:
    """For each row a case fails without it, either at once or above a later file that marks every module.

    The latter holds for rows that open modules to users, and for the tty's row, whose capability always suffices.
    """
    chosen = [case for case in shipped_cases() if relevant(row, case)]
    noticed = any(fails(without(shipped(), row), case) for case in chosen)
    closed = with_all_closed_below(shipped())
    assert noticed or any(fails(without(closed, row), case) and not fails(closed, case) for case in chosen)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.origin))
def test_every_pattern_matches_a_case(row: Mark | CallSite) -> None:
    aliases = {case.request.alias for case in shipped_cases()}
    modules = {step.module for case in shipped_cases() for step in (case.plan.targets[0].steps if case.plan else ())}
    named = [(pattern, modules) for pattern in (row.modules if isinstance(row, Mark) else ())]
    patterns = [*named, *((pattern, aliases) for pattern in row.aliases)]
    assert [text for text, names in patterns if not any(alias_glob(text, name) for name in names)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.origin))
def test_every_row_cites_its_source(row: Mark | CallSite) -> None:
    """A row cites a CVE, a list or a kernel file, in its reason or in the comment on its first line."""
    lines = (POLICY / row.origin.file).read_text().splitlines()
    text = f"{lines[row.origin.line - 1]} {row.reason}"
    assert re.search(
        r"CVE-\d{4}-\d+|\b[a-z0-9]+/[a-z0-9_/]+|\b\w+\.c\b|\(([KSUDRCZNMBO] ?){2,}|FS_USERNS_MOUNT", text
    ), text


# The examples.


EXAMPLES = {
    "05-grsecurity.toml": "grsecurity.toml",
    "05-server-strict.toml": "open-to-users.toml",
    "20-brokers.toml": "brokers.toml",
    "30-desktop.toml": "bluetooth.toml",
    "30-rootless-containers.toml": "containers.toml",
}
"""Example -> its test file, which replaces the default policy's test file of the same name."""


@pytest.mark.parametrize(("name", "tests"), EXAMPLES.items())
def test_an_admin_who_copies_an_example_and_its_tests_breaks_nothing(
    tmp_path: Path, name: str, tests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The remaining tests of the default policy still pass."""
    shipped, etc = tmp_path / "usr/lib/safe-modprobe", tmp_path / "etc/safe-modprobe"
    shutil.copytree(POLICY, shipped / "policy.d", ignore=lambda folder, names: ["tests.d", "examples"])
    shutil.copytree(POLICY / "tests.d", shipped / "tests.d")
    for source, folder in ((name, "policy.d"), (f"tests.d/{tests}", "tests.d")):
        (etc / folder).mkdir(parents=True)
        shutil.copy(POLICY / "examples" / source, etc / folder)
    code, output = main(["test", "--root", str(tmp_path), "--kernel", "none"]), capsys.readouterr()
    assert (code, output.err) == (0, ""), output.out
    text = (POLICY / "examples" / name).read_text()
    assert (
        f"# Copy to /etc/safe-modprobe/policy.d/, and its tests, tests.d/{tests}, to /etc/safe-modprobe/tests.d/.\n"
        in text
    )


@pytest.mark.parametrize("tests", [tests for tests in EXAMPLES.values() if tests != "grsecurity.toml"])
def test_the_tests_of_an_example_fail_without_it(tests: str) -> None:
    """The example of grsecurity is left out: it is about callers, see below."""
    assert ctl("test", "--policy", POLICY, POLICY / "examples/tests.d" / tests).returncode == 1


def test_every_example_has_tests() -> None:
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
def test_how_the_example_for_grsecurity_finds_the_caller(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], source: Source, uid: int | None
) -> None:
    """Without arguments the caller is root. For a mount another source is used, here /proc without a waiting task."""
    monkeypatch.setattr(find.proc, "started_by_kernel", lambda: True)
    path = POLICY / "examples/05-grsecurity.toml"
    policy = build([(path.name, path.read_bytes())], NoAccounts())
    (found,) = callers_under(policy, parse(["--", "fs-xfs", *arguments]).request)
    assert (found.source, found.uid, bool(found.capabilities)) == (source, uid, arguments == [])


# The documents.

SCENARIOS = TOP / "tests/vm/scenarios"


def last_column(heading: str, text: str) -> list[str]:
    """Return the names in the last column of the table below a heading, where semicolons separate them."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [name for row in rows[2:] for name in row[-1].split("; ")]


def test_every_use_in_the_document_names_an_existing_test() -> None:
    named = last_column("What breaks elsewhere, and works here", (TOP / "docs/default-policy.md").read_text())
    programs, rootless = (
        {name for name, _ in conftest.tests_of(SCENARIOS / f"{file}.py")} for file in ("programs", "rootless")
    )
    assert [name for name in named if name not in programs | rootless] == []
    assert programs - set(named) == set()


def test_the_documented_modules_to_load_at_boot_are_tested() -> None:
    listed = (TOP / "docs/rootless.md").read_text().split("```")[1].splitlines()
    tested = (SCENARIOS / "rootless.py").read_text().partition("AT_BOOT = (")[2].partition("\n)")[0]
    names = [line for line in listed if line and not line.startswith("#")]
    assert len(names) > 10 and names == re.findall(r"\w+", tested)
