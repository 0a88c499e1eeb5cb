"""The examples of the README, the manual and --help that need no kernel, in a root with the product and real modules.

tests/vm/scenarios/examples.py has those that do.
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
    """Links to the cached root's files: whatever an example writes is a new file in its place.

    Without the drivers that no example names: several read every module that there is.
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
    """A shell's command in that root, which is below /mnt, too."""
    script = f"mkdir -p /mnt && mount --rbind / /mnt && mkdir -p {DESK} && cd {DESK} && {command}"
    return subprocess.run(in_root(tree, tree / "srv", ["sh", "-c", script]), capture_output=True, text=True)


@pytest.fixture(scope="module")
def lines(tree: Path) -> list[str]:
    """All command lines, in the order of the documents."""
    said = sh(tree, f"/usr/bin/python3 -IBS -c '{documents.HELP}'").stdout
    found = [line for path in DOCUMENTS for line in documents.commands(path.read_text())]
    return [*found, *documents.commands_of_help(said)]


def failures(tree: Path, lines: Sequence[str]) -> list[str]:
    """What did not go as an example should."""
    found = []
    for line in lines:
        done = sh(tree, documents.for_version(line, os.uname().release))
        found.append(documents.wrong(line, done.returncode, done.stdout, done.stderr))
    return [each for each in found if each]


def test_commands(tree: Path, lines: list[str]) -> None:
    here = documents.once([line for line in lines if documents.place(line) == "desk"])
    assert len(here) > 30, here
    assert failures(tree, here) == []


def test_policies(tree: Path) -> None:
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
def test_an_example_that_went_wrong_would_be_noticed(tree: Path, line: str) -> None:
    assert len(failures(tree, [line])) == 1


def test_a_dry_run_into_a_full_disk_is_no_traceback(tree: Path) -> None:
    done = sh(tree, "safe-modprobe -n net-pf-38 > /dev/full")
    assert (done.returncode, done.stderr) == (1, "")
