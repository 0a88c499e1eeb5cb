"""The installed programs, if the code that they start is missing or damaged."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).resolve().parents[3] / "packaging"
REMEDY = "; reinstall the package\n"
DAMAGED = [
    ("no files", {}, "ModuleNotFoundError: No module named 'safe_modprobe'"),
    ("half a file", {"__init__": "("}, "SyntaxError: '(' was never closed (__init__.py, line 1)"),
    ("half of the files", {"__init__": ""}, None),
    ("a file of another version", {"__init__": "raise RuntimeError('what\\nnow')"}, "RuntimeError: what now"),
]
PROGRAMS = [
    ("boot.in", "safe-modprobe: files of the package are missing or damaged ({})" + REMEDY),
    ("safe-modprobectl.in", "safe-modprobectl: files of the package are missing or damaged ({})" + REMEDY),
    ("safe-modprobe.in", "safe-modprobe: files of the package and their copy are missing ({})" + REMEDY),
]


def start(tmp_path: Path, name: str, files: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "lib/safe_modprobe").mkdir(parents=True)
    for module, text in files.items():
        (tmp_path / f"lib/safe_modprobe/{module}.py").write_text(text)
    if not files:
        (tmp_path / "lib/safe_modprobe").rmdir()
    text = (PACKAGING / name).read_text()
    for place, own in (("@LIBDIR@", "lib"), ("@PURELIB@", "pure"), ("/run/safe-modprobe/last-resort", "aside")):
        text = text.replace(place, str(tmp_path / own))
    (tmp_path / "program").write_text(text)
    command = [sys.executable, "-IBS", tmp_path / "program", *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "says"), PROGRAMS, ids=[row[0] for row in PROGRAMS])
@pytest.mark.parametrize(("files", "why"), [row[1:] for row in DAMAGED], ids=[row[0] for row in DAMAGED])
def test_damaged_code_is_reported_in_one_sentence(
    tmp_path: Path, name: str, says: str, files: dict[str, str], why: str | None
) -> None:
    done = start(tmp_path, name, files, "status" if name != "safe-modprobe.in" else "net-pf-38")
    assert (done.returncode, done.stdout) == (1, "")
    before, after = says.split("{}")
    assert done.stderr.startswith(before) and done.stderr.endswith(after) and done.stderr.count("\n") == 1, done.stderr
    if why is not None and name != "safe-modprobe.in":
        assert done.stderr == says.format(why)
    assert "safe-modprobe failed (" not in done.stderr, "the watch would take this for an answer of the last resort"


def test_the_copied_last_resort_answers(tmp_path: Path) -> None:
    (tmp_path / "aside/safe_modprobe").mkdir(parents=True)
    text = "def last_resort(argv, error):\n    print(argv[1:], error)\n    return 7\n"
    (tmp_path / "aside/safe_modprobe/last_resort.py").write_text(text)
    done = start(tmp_path, "safe-modprobe.in", {"__init__": "raise RuntimeError('spoilt')"}, "net-pf-38")
    assert (done.returncode, done.stdout, done.stderr) == (7, "['net-pf-38'] spoilt\n", "")
