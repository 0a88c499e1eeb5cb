"""Compare the tables of docs/call-sites with a survey of the kernel sources, with and without the series."""

import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from survey import show
from survey.model import Survey, Use
from survey.series import patched
from survey.tree import survey
from tests.vm.cache import TOP
from tests.vm.sources import source

PATCHES = TOP / "packaging/kernel/patches"
SUITES = {"bookworm": "6.1", "trixie": "6.12", "sid": "7.2"}


@cache
def surveyed(suite: str) -> Survey:
    tree = source(suite)
    return survey(tree, patched(tree, PATCHES / f"series.{suite}"))


def counted(command: str, tree: Path) -> int:
    return int(subprocess.run(["sh", "-c", command], cwd=tree, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("suite", SUITES)
def test_every_mention_is_found_and_classified(suite: str) -> None:
    found = surveyed(suite)
    words = counted(r"LC_ALL=C grep -rIohE '\w*request_module\w*' . | wc -l", source(suite))
    assert len(found.mentions) == words > 500
    assert [mention for mention in found.mentions if mention.use is Use.UNKNOWN] == []
    assert len(found.calls) == sum(mention.use is Use.CALL for mention in found.mentions)


@pytest.mark.parametrize("suite", SUITES)
def test_line_counts_equal_those_of_the_commands_of_2017(suite: str) -> None:
    grep = r"git grep --no-index request_module'\b'"
    found = surveyed(suite).grep
    assert found.lines == counted(f"{grep} | wc -l", source(suite))
    assert found.constant == counted(f"{grep} | grep -v % | grep '\"' | wc -l", source(suite))
    assert found.formatted == counted(f"{grep} | grep % | wc -l", source(suite))


@pytest.mark.parametrize("suite", SUITES)
def test_a_survey_of_the_patched_tree_finds_the_same_calls(suite: str, tmp_path: Path) -> None:
    """So no call hides behind a macro of the series, and no call is wrongly counted as covered."""
    tree = source(suite)
    after = patched(tree, PATCHES / f"series.{suite}")
    shutil.copytree(tree / "include", tmp_path / "include", symlinks=True)
    for file, data in {"Makefile": (tree / "Makefile").read_bytes(), **after}.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(data)
    alone = survey(tmp_path)
    assert [mention for mention in alone.mentions if mention.use is Use.UNKNOWN] == []
    expected, actual = (
        Counter((call.file, call.function, call.name, call.capability) for call in found.calls if call.file in after)
        for found in (surveyed(suite), alone)
    )
    assert expected == actual and sum(call.capability is not None for call in alone.calls) > 70


def without_lines(table: str) -> list[str]:
    """Return the rows without line numbers and counts, which each stable release changes."""
    rows = table.partition("\n## Calls\n")[2]
    return sorted(re.sub(r"^(\| [^ |:]+):\d+ ", r"\1 ", row) for row in rows.splitlines())


@pytest.mark.parametrize(("suite", "version"), SUITES.items())
def test_the_table_equals_the_survey(suite: str, version: str) -> None:
    """Compare bytes for the release that the table was made from, rows for later ones. `make call-sites` updates it."""
    written = (TOP / f"docs/call-sites/{version}.md").read_text()
    found = surveyed(suite)
    table = "\n".join(show.markdown(found)) + "\n"
    assert found.version.startswith(f"{version}.")
    assert without_lines(written) == without_lines(table)
    if written.startswith(f"# request_module() in Linux {found.version}\n"):
        assert written == table
