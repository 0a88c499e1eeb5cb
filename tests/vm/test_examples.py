"""The examples that read a thousand modules, in a root like a guest's; scenarios/examples.py has the others."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.vm.cache import TOP
from tests.vm.guest import documents
from tests.vm.kernels import NATIVE, kernel
from tests.vm.product import in_root, installed

DOCUMENTS = (TOP / "README.md", *sorted((TOP / "docs/man").glob("*.scd")))


@pytest.fixture(scope="module")
def tree() -> Path:
    return installed("systemd", kernel(NATIVE))


def sh(tree: Path, folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    script = f"mount --rbind / /mnt/root; mount --move /mnt/root /mnt; cd /tmp; {command}"
    return subprocess.run(in_root(tree, folder, ["sh", "-c", script]), capture_output=True, text=True)


def test_examples_of_scan_and_surface(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    said = sh(tree, tmp_path, f"/usr/bin/python3 -IBS -c '{documents.HELP}'").stdout
    lines = [line for path in DOCUMENTS for line in documents.commands(path.read_text())]
    lines = [line for line in (*lines, *documents.commands_of_help(said)) if line.startswith(documents.AT_THE_DESK)]
    assert len(lines) >= 8, lines
    wrong = []
    for line in lines:
        if not documents.is_shown_elsewhere(line):
            done = sh(tree, tmp_path, documents.for_version(line, os.uname().release))
            wrong.append(documents.wrong(line, done.returncode, done.stdout, done.stderr))
    assert [each for each in wrong if each] == []
