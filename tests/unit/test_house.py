"""The house's own rules, asked of the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "safe_modprobe"

FLOORS = {
    "capability": 0, "errors": 0, "frozen": 0, "message_ids": 0, "model": 0,
    "counts": 1, "kernel_args": 1, "decide": 1, "report": 1, "policy": 1,
    "health": 1, "history": 1, "metrics": 1, "remedy": 1, "suggest": 1, "surface": 1,
    "read": 2, "kmod": 2, "zstd": 2,
    "act": 3,
    "last_resort": 4, "helper": 4, "boot": 4, "ctl": 4,
}  # fmt: skip
"""A module or folder of the package -> its floor. A new one has to be given one."""

SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(dotted: str) -> str:
    """The first name below the package."""
    return dotted.split(".")[1] if "." in dotted else dotted


def imports(path: Path) -> set[str]:
    """Every module that a source names in an import, wherever it stands in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: an import that starts with a dot hides its floor"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def wrong_imports(name: str, names: set[str]) -> list[str]:
    own = FLOORS[name]
    rooms = {room(each) for each in names if each.split(".")[0] == "safe_modprobe"} - {name, "__version__"}
    return sorted(each for each in rooms if FLOORS[each] > own)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TOP)))
def test_floors_import_downwards_only(path: Path) -> None:
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name != "__init__":
        assert wrong_imports(name, imports(path)) == []


@pytest.mark.parametrize(
    ("name", "names", "wrong"),
    [
        ("model", {"safe_modprobe.decide"}, ["decide"]),
        ("decide", {"safe_modprobe.read.tasks.read_caller", "os"}, ["read"]),
        ("read", {"safe_modprobe.act.load"}, ["act"]),
        ("act", {"safe_modprobe.helper", "safe_modprobe.ctl.main"}, ["ctl", "helper"]),
        ("act", {"safe_modprobe.read.tasks", "safe_modprobe.model.Action"}, []),
    ],
)
def test_the_rule_can_fail(name: str, names: set[str], wrong: list[str]) -> None:
    assert wrong_imports(name, names) == wrong


PURE = [path for path in SOURCES if FLOORS.get(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), 9) <= 1]
IMPURE = {
    "os",
    "sys",
    "time",
    "socket",
    "subprocess",
    "io",
    "pathlib",
    "fcntl",
    "ctypes",
    "shutil",
    "tempfile",
    "random",
}


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(TOP)))
def test_the_lower_floors_look_at_nothing(path: Path) -> None:
    """No clock, no environment, no file."""
    assert {name.split(".")[0] for name in imports(path)} & IMPURE == set()
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls & {"open", "print", "input", "exec", "eval", "__import__"} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TOP)))
def test_no_assert_guards_anything(path: Path) -> None:
    """`python -O` would take it away."""
    assert [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)] == []


def test_one_blanket_except_and_its_own_helpers() -> None:
    """Whoever catches everything hides everything: the helper's last line of defence alone may."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)} if node.type else {"*"}
                if names & {"*", "Exception", "BaseException"}:
                    found.append(str(path.relative_to(PACKAGE)))
    # helper: main(), and _may(), which main() asks once all else has failed; last_resort: it records without counting
    # what it cannot count; enable: it puts back the helper, the trial's switch and the unit, and raises.
    assert found == ["ctl/enable.py"] * 2 + ["helper.py"] * 2 + ["last_resort.py"]


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--strict", "safe_modprobe", "packaging/kernel/survey"],
        ["ruff", "check", "--quiet", "--output-format=concise", "."],
        ["ruff", "format", "--quiet", "--check", "."],
    ],
    ids=["mypy", "ruff check", "ruff format"],
)
def test_tools_find_nothing(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
