"""Test the manual: it is generated, has no lint warnings, and covers every command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from safe_modprobe.admin.commands.main import parser

TOP = Path(__file__).resolve().parents[2]
PAGES = ("safe-modprobe.8", "safe-modprobectl.8", "safe-modprobe.toml.5")
COMMANDS = sorted(next(action.choices for action in parser()._actions if action.choices))


def make(into: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOP / "docs/man/generate.py", into]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("man")
    done = make(into)
    assert (done.returncode, done.stderr) == (0, "")
    return into


def shown(page: Path) -> str:
    """Return the text that man(1) shows, on one line. Fail if man warns."""
    command = ["man", "--warnings", "-E", "UTF-8", "-l", str(page)]
    env = {**os.environ, "MANWIDTH": "200", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, ""), page
    return re.sub(r"\s+", " ", done.stdout)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_lint_warnings(manual: Path, page: str) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", manual / page], capture_output=True, text=True)
    assert done.stdout == ""
    assert shown(manual / page)


def test_the_linter_finds_an_unknown_macro(tmp_path: Path) -> None:
    (tmp_path / "bad.8").write_text(".TH bad 8\n.SH NAME\n.FOO\n")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", tmp_path / "bad.8"], capture_output=True, text=True)
    assert "unknown macro" in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_no_placeholder_is_left_and_all_sections_exist(manual: Path, page: str) -> None:
    text = shown(manual / page)
    assert re.findall(r"@[A-Z]+.*?@", text) == []
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"):
        assert f" {section} " in text, section


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_exit_status_documented(manual: Path, command: str) -> None:
    source = (manual / "safe-modprobectl.8.scd").read_text()
    status = source.partition("# EXIT STATUS\n")[2].partition("\n# ")[0]
    assert f"*{command}*" in status


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_option_json(command: str) -> None:
    (commands,) = [action.choices for action in parser()._actions if action.choices]
    assert "--json" in commands[command].format_help()


def test_the_same_sources_make_the_same_pages(manual: Path, tmp_path: Path) -> None:
    assert make(tmp_path).returncode == 0
    assert [(tmp_path / page).read_bytes() for page in PAGES] == [(manual / page).read_bytes() for page in PAGES]
