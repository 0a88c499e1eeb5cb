"""Run the examples of the README, the manual and --help that need no guest, in a root with real modules.

tests/vm/scenarios/examples.py runs the others.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm.cache import TOP
from tests.vm.guest import documents
from tests.vm.kernels import NATIVE, kernel
from tests.vm.product import in_root, installed

DOCUMENTS = (TOP / "README.md", *sorted((TOP / "docs/man").glob("*.scd")))
DESK = "/tmp/desk"

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the cached root, made of hard links. Examples replace files and so leave the cache unchanged.

    Most drivers are left out because several examples read every module.
    """
    tree, linux = tmp_path_factory.mktemp("root") / "tree", kernel(NATIVE)
    subprocess.run(["cp", "-al", installed("systemd", linux), tree], check=True)
    for folder in (tree / "lib/modules" / linux.version / "kernel/drivers").iterdir():
        if folder.name != "net":
            shutil.rmtree(folder)
    subprocess.run(["depmod", "-b", tree, linux.version], check=True)
    done = sh(tree, documents.PREPARE.format(desk=DESK))
    assert done.returncode == 0, done.stderr
    return tree


def sh(tree: Path, command: str) -> Done:
    """Run a shell command in that root, which is also bound to /mnt."""
    script = f"mkdir -p /mnt && mount --rbind / /mnt && mkdir -p {DESK} && cd {DESK} && {command}"
    return subprocess.run(in_root(tree, tree / "srv", ["sh", "-c", script]), capture_output=True, text=True)


@pytest.fixture(scope="module")
def lines(tree: Path) -> list[str]:
    """Return all command lines, in the order of the documents."""
    help_text = sh(tree, f"/usr/bin/python3 -IBS -c '{documents.HELP}'").stdout
    found = [line for path in DOCUMENTS for line in documents.commands(path.read_text())]
    return [*found, *documents.commands_of_help(help_text)]


def failures(tree: Path, lines: Sequence[str]) -> list[str]:
    """Run these examples and describe each that failed."""
    found = []
    for line in lines:
        done = sh(tree, documents.for_version(line, os.uname().release))
        found.append(documents.wrong(line, done.returncode, done.stdout, done.stderr))
    return [each for each in found if each]


def test_every_example_that_needs_no_guest_runs_without_error(tree: Path, lines: list[str]) -> None:
    commands = documents.once([line for line in lines if documents.place(line) == "desk"])
    assert len(commands) > 30, commands
    assert failures(tree, commands) == []


def test_every_policy_in_the_documents_is_valid(tree: Path) -> None:
    found = [each for path in DOCUMENTS for each in documents.policies(path.read_text())]
    assert len(found) > 5
    for text in found:
        (tree / "tmp/example.toml").write_text(text)
        command = "test" if "[[case]]" in text else "check"
        done = sh(tree, f"safe-modprobectl {command} /tmp/example.toml")
        assert done.stderr == "" and (command == "test" or done.returncode == 0), (text, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "line",
    ["safe-modprobectl explian x", "safe-modprobectl explain x --user nobody-of-that-name", "no-such-command", "make"],
)
def test_a_wrong_example_is_reported(tree: Path, line: str) -> None:
    assert len(failures(tree, [line])) == 1


def test_a_dry_run_into_a_full_disk_fails_without_a_traceback(tree: Path) -> None:
    done = sh(tree, "safe-modprobe -n net-pf-38 > /dev/full")
    assert (done.returncode, done.stderr) == (1, "")
