"""The last resort by itself: what switching on puts aside has to be all that it needs."""

import subprocess
from pathlib import Path

import pytest

from safe_modprobe.act import switch

TOP = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"


@pytest.fixture
def aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(switch, "ASIDE", str(tmp_path / "last-resort"))
    monkeypatch.setattr(switch, "make_run", lambda: None)
    switch.put_aside()
    return tmp_path / "last-resort"


def test_it_imports_nothing_that_was_not_put_aside(aside: Path) -> None:
    code = f"""
import sys
sys.path.append({str(aside)!r})
import safe_modprobe.last_resort
print(*(name for name in sys.modules if name.startswith("safe_modprobe")))
"""
    done = subprocess.run([PYTHON, "-IBS", "-c", code], capture_output=True, text=True, check=True)
    names = {name.replace("/", ".").removesuffix("__init__").rstrip(".") for name in switch.LAST_RESORT}
    assert set(done.stdout.split()) == {f"safe_modprobe.{name}".rstrip(".") for name in names}


def test_it_is_a_copy_and_another_time_as_well(aside: Path) -> None:
    switch.put_aside()
    for name in switch.LAST_RESORT:
        assert (aside / f"safe_modprobe/{name}.py").read_bytes() == (TOP / f"safe_modprobe/{name}.py").read_bytes()
    assert not list(aside.rglob("*.new"))


HALVES = [
    ("nothing but the entry", []),
    ("a package without its parts", ["__init__.py"]),
    ("a last resort without its parts", ["__init__.py", "last_resort.py"]),
    ("a helper without the rest", ["__init__.py", "helper.py", "act/__init__.py", "read/__init__.py"]),
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


WATCH = TOP / "packaging/watch"
ANSWERS = [
    ("exit 1", "", "/sbin/modprobe", 1, True),
    ("exit 0", "", "/sbin/modprobe", 1, True),
    ("echo nonsense", "/sbin/other", "/sbin/other", 1, True),
    ("kill -9 $$", "", "/sbin/modprobe", 1, True),
    ("echo 'safe-modprobe failed (why); nothing was loaded' >&2; exit 1", "", "HELPER", 1, False),
    ("echo \"allowed 'safe-modprobe-self-test' to uid 0\"; exit 1", "", "HELPER", 0, False),
]


@pytest.mark.parametrize(("helper", "before", "then", "code", "down"), ANSWERS, ids=range(len(ANSWERS)))
def test_the_watch(tmp_path: Path, helper: str, before: str, then: str, code: int, down: bool) -> None:
    """The script as it is, but for the paths of this machine; then, with a helper that answers again, once more."""
    own, sysctl, run = tmp_path / "helper", tmp_path / "sysctl", tmp_path / "run"
    text = WATCH.read_text().replace("/proc/sys/kernel/modprobe", str(sysctl)).replace("/run/safe-modprobe", str(run))
    text = text.replace("/usr/libexec/safe-modprobe/boot", f"touch {tmp_path}/boot")
    text = text.replace("/usr/sbin/safe-modprobe\n", f"{own}\n")
    text = text.replace("logger -t safe-modprobe -p", "true")

    watch = tmp_path / "watch"
    watch.write_text(text)
    run.mkdir()
    if before:
        (run / "modprobe.before").write_text(before)

    def look(answer: str) -> int:
        own.write_text(f"#!/bin/sh\n{answer}\n")
        own.chmod(0o755)
        return subprocess.run(["sh", watch], capture_output=True, text=True).returncode

    sysctl.write_text("/sbin/modprobe\n")
    assert look(helper) == 0 and sysctl.read_text() == "/sbin/modprobe\n", "it is not switched on"
    sysctl.write_text(f"{own}\n")
    assert look(helper) == code
    assert sysctl.read_text().replace(str(own), "HELPER") == f"{then}\n"
    assert (run / "stood-down").exists() == down
    assert look("echo \"allowed 'safe-modprobe-self-test' to uid 0\"; exit 1") == 0
    assert sysctl.read_text() == f"{own}\n" and not (run / "stood-down").exists()
    assert (tmp_path / "boot").exists()
