"""The copy of the last resort that `enable` makes: it must hold everything that the last resort needs."""

import os
import subprocess
from pathlib import Path

import pytest

from safe_modprobe.admin.switch import switch
from safe_modprobe.runtime import make_run_folder

TOP = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(switch, "LAST_RESORT_FOLDER", str(tmp_path / "last-resort"))
    monkeypatch.setattr(switch, "make_run_folder", lambda *folder: make_run_folder(*folder) if folder else None)
    switch.copy_last_resort()
    return tmp_path / "last-resort"


def test_the_copy_holds_everything_that_the_last_resort_imports(copy: Path) -> None:
    code = f"""
import sys
sys.path.append({str(copy)!r})
import safe_modprobe.last_resort
print(*(name for name in sys.modules if name.startswith("safe_modprobe")))
"""
    done = subprocess.run([PYTHON, "-IBS", "-c", code], capture_output=True, text=True, check=True)
    names = {name.replace("/", ".").removesuffix("__init__").rstrip(".") for name in switch.LAST_RESORT_FILES}
    assert set(done.stdout.split()) == {f"safe_modprobe.{name}".rstrip(".") for name in names}


def test_only_root_may_write_the_copy_whatever_the_umask(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root executes it."""
    monkeypatch.setattr(switch, "LAST_RESORT_FOLDER", str(copy / "another"))
    before = os.umask(0)
    try:
        switch.copy_last_resort()
    finally:
        os.umask(before)
    there = [copy / "another", *(copy / "another").rglob("*")]
    assert len(there) > len(switch.LAST_RESORT_FILES)
    assert [path for path in there if path.stat().st_mode & 0o022] == []


def test_copying_twice_gives_an_exact_copy(copy: Path) -> None:
    switch.copy_last_resort()
    for name in switch.LAST_RESORT_FILES:
        assert (copy / f"safe_modprobe/{name}.py").read_bytes() == (TOP / f"safe_modprobe/{name}.py").read_bytes()
    assert not list(copy.rglob("*.new"))


PARTIAL_INSTALLS = [
    ("only the entry", []),
    ("only the package's __init__", ["__init__.py"]),
    ("a last resort without its imports", ["__init__.py", "last_resort.py"]),
    (
        "a helper without its imports",
        ["__init__.py", "helper.py", "callers/__init__.py", "log/__init__.py", "modules/__init__.py"],
    ),
]


@pytest.mark.parametrize("kept", [kept for _, kept in PARTIAL_INSTALLS], ids=[name for name, _ in PARTIAL_INSTALLS])
@pytest.mark.parametrize("broken", [False, True], ids=["missing", "truncated"])
def test_the_entry_reaches_the_last_resort_in_a_partial_install(
    copy: Path, tmp_path: Path, kept: list[str], broken: bool
) -> None:
    """The packaged entry, with its folders moved to temporary ones."""
    library = tmp_path / "lib"
    for path in (TOP / "safe_modprobe").rglob("*.py"):
        name = str(path.relative_to(TOP / "safe_modprobe"))
        into = library / "safe_modprobe" / name
        if name in kept or broken:
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_text(path.read_text() if name in kept else "x = (")
    text = (TOP / "packaging/safe-modprobe.in").read_text().replace("/run/safe-modprobe/last-resort", str(copy))
    entry = tmp_path / "safe-modprobe"
    entry.write_text(
        text.replace("@PYTHON@", PYTHON).replace("@LIBDIR@", str(library)).replace("@PURELIB@", "/nowhere")
    )
    result = subprocess.run([PYTHON, "-IBS", entry, "-n", "--", "x"], capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("safe-modprobe failed (") and "nothing was loaded" in result.stderr, result.stderr
