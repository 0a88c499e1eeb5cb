"""The structure of the package: which room may import which, which files are pure, how large the trusted base is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "safe_modprobe"

FLOORS = {
    "capability": 0, "errors": 0, "escape": 0, "light_types": 0, "model": 0,
    "kmod": 1, "runtime": 1, "zstd": 1,
    "rescue": 2,
    "callers": 3, "modules": 3, "policy": 3,
    "decide": 4,
    "log": 5,
    "helper": 6, "last_resort": 6,
    "admin": 7,
}  # fmt: skip
"""A module or room of the package -> its floor. A room must not import from a higher floor. A new room needs a row."""

SOURCES = sorted(PACKAGE.rglob("*.py"))


ADMIN_FLOORS = {"policy": 0, "modules": 1, "health": 2, "records": 3, "switch": 3, "commands": 4}
"""A room of admin/ -> its floor within admin/."""

PURE = """
    callers/kernel_args callers/ring capability decide errors escape light_types
    log/counts log/message_ids log/report model
    policy/builtin policy/dropins policy/lines policy/match policy/packed policy/schema policy/text
    admin/health/assess admin/health/caller_checks admin/health/facts admin/health/helper_checks
    admin/health/policy_checks admin/health/problem admin/health/sources
    admin/modules/surface
    admin/policy/cases admin/policy/digest admin/policy/edit admin/policy/edits admin/policy/findings
    admin/policy/globs admin/policy/json_schema admin/policy/lint admin/policy/names admin/policy/reach
    admin/policy/sentence admin/policy/shadow
    admin/records/history admin/records/metrics admin/records/remedy admin/records/suggest
""".split()
"""Files that use no clock, environment, file or kernel interface."""

MOST_TRUSTED_LINES = 5900
"""The limit for the lines of source that the helper can import. A commit that raises it must say what for."""


def name_of(path: Path) -> str:
    """Return `callers/find` for safe_modprobe/callers/find.py."""
    return str(path.relative_to(PACKAGE).with_suffix(""))


def floor_of(dotted: str) -> tuple[int, int]:
    """Return the floor of `callers.find`, and its floor within admin/. Raises KeyError for a room without a floor."""
    room, _, rest = dotted.partition(".")
    return FLOORS[room], ADMIN_FLOORS[rest.split(".")[0]] if room == "admin" and rest else 0


def imports(path: Path) -> set[str]:
    """Return every module that a source imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides the floor; name the whole module"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def wrong_imports(name: str, names: set[str]) -> list[str]:
    """Return a module's imports from a higher floor, or from another room of the same floor."""
    own = floor_of(name)
    wrong = []
    for each in sorted(names):
        package, _, dotted = each.partition(".")
        if package != "safe_modprobe" or dotted == "__version__":
            continue
        other = floor_of(dotted)
        same_room = (
            dotted.split(".")[: 1 + (own[0] == FLOORS["admin"])] == name.split(".")[: 1 + (own[0] == FLOORS["admin"])]
        )
        if other > own or (other == own and not same_room and own[0] == FLOORS["callers"]):
            wrong.append(dotted)
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_rooms_import_downwards_only(path: Path) -> None:
    name = name_of(path).replace("/", ".").removesuffix(".__init__")
    if name != "__init__":
        assert wrong_imports(name, imports(path)) == []


@pytest.mark.parametrize(
    ("name", "names", "wrong"),
    [
        ("model", {"safe_modprobe.decide"}, ["decide"]),
        ("decide", {"safe_modprobe.log.report.headline", "os"}, ["log.report.headline"]),
        ("decide", {"safe_modprobe.policy.match.first_rule", "safe_modprobe.callers.kernel_args.UNNAMED_CALLER"}, []),
        ("callers.find", {"safe_modprobe.decide.decide"}, ["decide.decide"]),
        ("callers.find", {"safe_modprobe.policy.match.first_rule"}, ["policy.match.first_rule"]),
        ("callers.find", {"safe_modprobe.callers.proc", "safe_modprobe.runtime.read"}, []),
        ("policy.cache", {"safe_modprobe.modules.plan.read_plan"}, ["modules.plan.read_plan"]),
        ("modules.load", {"safe_modprobe.helper", "safe_modprobe.kmod.Kmod"}, ["helper"]),
        ("helper", {"safe_modprobe.admin.policy.digest.digest"}, ["admin.policy.digest.digest"]),
        ("last_resort", {"safe_modprobe.admin"}, ["admin"]),
        ("admin.policy.edit", {"safe_modprobe.admin.commands.main.main"}, ["admin.commands.main.main"]),
        ("admin.commands.enable", {"safe_modprobe.admin.switch.switch", "safe_modprobe.helper.main"}, []),
    ],
)
def test_the_import_rule_can_fail(name: str, names: set[str], wrong: list[str]) -> None:
    assert wrong_imports(name, names) == wrong


def test_nothing_outside_admin_imports_admin() -> None:
    """The code that the kernel runs as root does not depend on the administrator's tool, nor do the extensions."""
    outside = [path for path in SOURCES if not name_of(path).startswith("admin/")]
    found = {name_of(path) for path in outside if any(each.startswith("safe_modprobe.admin") for each in imports(path))}
    found |= {path.name for path in PACKAGE.glob("*.p[yx][xdi]*") if "safe_modprobe.admin" in path.read_text()}
    assert found == set()


def importable_from(name: str) -> set[str]:
    """Return every source of the package that this one can import, itself included, as `callers/find`."""
    seen: set[str] = set()
    pending = [name]
    while pending:
        each = pending.pop()
        path = PACKAGE / f"{each}.py"
        if each in seen or not path.exists():
            continue
        seen.add(each)
        for imported in imports(path):
            parts = imported.split(".")[1:] if imported.startswith("safe_modprobe.") else []
            for end in range(1, len(parts) + 1):
                pending += ["/".join(parts[:end]), "/".join((*parts[:end], "__init__"))]
    return seen


def test_the_trusted_base_stays_within_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of these lines runs as root for a request that may come from an attacker."""
    trusted = {f"{name}.py" for name in importable_from("helper") | {"__init__"}} | {
        "kmod.pyx",
        "libkmod.pxd",
        "zstd.pyx",
    }
    lines = {name: len((PACKAGE / name).read_text().splitlines()) for name in sorted(trusted)}
    total = sum(lines.values())
    with capsys.disabled():
        print(f"\ntrusted base: {total} lines in {len(lines)} files (at most {MOST_TRUSTED_LINES})")
    assert not any(name.startswith("admin/") for name in lines)
    assert {"helper.py", "decide.py", "callers/find.py", "modules/load.py", "policy/schema.py"} <= set(lines)
    assert total <= MOST_TRUSTED_LINES, lines


IMPURE = {
    "ctypes", "fcntl", "io", "os", "pathlib", "random", "shutil", "socket", "subprocess", "sys", "tempfile", "time",
}  # fmt: skip


@pytest.mark.parametrize("name", PURE)
def test_pure_files_use_no_clock_environment_or_file(name: str) -> None:
    """They also import only pure files of the package."""
    path = PACKAGE / f"{name}.py"
    imported = imports(path)
    assert {each.split(".")[0] for each in imported} & IMPURE == set()
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls & {"open", "print", "input", "exec", "eval", "__import__"} == set()
    assert {each for each in importable_from(name) if not each.endswith("__init__")} <= set(PURE)


def test_the_purity_rule_can_fail() -> None:
    assert not importable_from("callers/find") <= set(PURE)
    assert IMPURE & imports(PACKAGE / "callers/proc.py")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_package_uses_no_assert(path: Path) -> None:
    """`python -O` would remove it."""
    assert [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)] == []


def test_only_known_places_catch_every_exception() -> None:
    """Catching every exception hides errors, so only a last line of defence may do it."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)} if node.type else {"*"}
                if names & {"*", "Exception", "BaseException"}:
                    found.append(str(path.relative_to(PACKAGE)))
    # In helper, main() and _may(), which main() calls after any other failure, catch everything. last_resort records
    # a failure even if counting fails. enable restores the helper, the trial's switch and the unit, and raises again.
    assert found == ["admin/commands/enable.py"] * 2 + ["helper.py"] * 2 + ["last_resort.py"]


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--strict", "safe_modprobe", "packaging/kernel/survey"],
        ["ruff", "check", "--quiet", "--output-format=concise", "."],
        ["ruff", "format", "--quiet", "--check", "."],
    ],
    ids=["mypy", "ruff check", "ruff format"],
)
def test_mypy_and_ruff_find_no_problem(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
