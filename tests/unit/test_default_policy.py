"""The tests that come with the default policy, by the very command that an admin would run."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
POLICY = TOP / "policy.d"
FILES = sorted((POLICY / "tests.d").glob("*.toml"))
MAIN = "import sys; from safe_modprobe.ctl.main import main; sys.exit(main(sys.argv[1:]))"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, "test", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(TOP)})


def test_every_shipped_case_holds() -> None:
    done = run("--policy", POLICY, POLICY / "tests.d")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_cases_run_on_any_kernel(path: Path) -> None:
    """Each names its modules: what is built in or loaded here is none of its business."""
    cases = tomllib.loads(path.read_text())["case"]
    assert [case["name"] for case in cases if "modules" not in case] == []
    results = json.loads(run("--json", "--policy", POLICY, path).stdout)
    assert len(results) >= len(cases) and not any(result["nothing_to_decide"] for result in results)


def test_the_cases_would_notice(tmp_path: Path) -> None:
    """Under a policy that asks nothing of anybody, every refusal that the cases expect is missed."""
    (tmp_path / "00-open.toml").write_text('[settings]\nmode = "allowed"\n')
    results = json.loads(run("--json", "--policy", POLICY, "--policy", tmp_path, POLICY / "tests.d").stdout)
    refusals = [result for result in results if result["expected"] == "deny"]
    assert len(refusals) >= 5
    assert [result["name"] for result in refusals if result["passed"]] == []
