"""The last resort by itself: what switching on puts aside has to be all that it needs."""

import os
import subprocess
from pathlib import Path

import pytest

from safe_modprobe.admin.switch import switch
from safe_modprobe.runtime import make_run_folder

TOP = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"


@pytest.fixture
def aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(switch, "LAST_RESORT_FOLDER", str(tmp_path / "last-resort"))
    monkeypatch.setattr(switch, "make_run_folder", lambda *folder: make_run_folder(*folder) if folder else None)
    switch.copy_last_resort()
    return tmp_path / "last-resort"


def test_it_imports_nothing_that_was_not_put_aside(aside: Path) -> None:
    code = f"""
import sys
sys.path.append({str(aside)!r})
import safe_modprobe.last_resort
print(*(name for name in sys.modules if name.startswith("safe_modprobe")))
"""
    done = subprocess.run([PYTHON, "-IBS", "-c", code], capture_output=True, text=True, check=True)
    names = {name.replace("/", ".").removesuffix("__init__").rstrip(".") for name in switch.LAST_RESORT_FILES}
    assert set(done.stdout.split()) == {f"safe_modprobe.{name}".rstrip(".") for name in names}


def test_nobody_else_may_change_it_whatever_the_umask(aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is code of root's."""
    monkeypatch.setattr(switch, "LAST_RESORT_FOLDER", str(aside / "another"))
    before = os.umask(0)
    try:
        switch.copy_last_resort()
    finally:
        os.umask(before)
    there = [aside / "another", *(aside / "another").rglob("*")]
    assert len(there) > len(switch.LAST_RESORT_FILES)
    assert [path for path in there if path.stat().st_mode & 0o022] == []


def test_it_is_a_copy_and_another_time_as_well(aside: Path) -> None:
    switch.copy_last_resort()
    for name in switch.LAST_RESORT_FILES:
        assert (aside / f"safe_modprobe/{name}.py").read_bytes() == (TOP / f"safe_modprobe/{name}.py").read_bytes()
    assert not list(aside.rglob("*.new"))


HALVES = [
    ("nothing but the entry", []),
    ("a package without its parts", ["__init__.py"]),
    ("a last resort without its parts", ["__init__.py", "last_resort.py"]),
    (
        "a helper without the rest",
        ["__init__.py", "helper.py", "callers/__init__.py", "log/__init__.py", "modules/__init__.py"],
    ),
]


@pytest.mark.parametrize("kept", [kept for _, kept in HALVES], ids=[name for name, _ in HALVES])
@pytest.mark.parametrize("broken", [False, True], ids=["gone", "cut short"])
def test_half_of_the_package_is_gone(aside: Path, tmp_path: Path, kept: list[str], broken: bool) -> None:
    """The entry's own text, with the folders in other places."""
    library = tmp_path / "lib"
    for path in (TOP / "safe_modprobe").rglob("*.py"):
        name = str(path.relative_to(TOP / "safe_modprobe"))
        into = library / "safe_modprobe" / name
        if name in kept or broken:
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_text(path.read_text() if name in kept else "x = (")
    text = (TOP / "packaging/safe-modprobe.in").read_text().replace("/run/safe-modprobe/last-resort", str(aside))
    entry = tmp_path / "safe-modprobe"
    entry.write_text(
        text.replace("@PYTHON@", PYTHON).replace("@LIBDIR@", str(library)).replace("@PURELIB@", "/nowhere")
    )
    done = subprocess.run([PYTHON, "-IBS", entry, "-n", "--", "x"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("safe-modprobe failed (") and "nothing was loaded" in done.stderr, done.stderr
