"""The list of all imports that the helper may make for a request.

Each import costs time while the requester waits, and is code that runs as root for an attacker's request.
A change that adds an import adds it to this list and says what it costs (make bench).
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tree.build import VERSION, Mod, build_tree

TOP = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"

OURS = """
    safe_modprobe
    safe_modprobe.callers safe_modprobe.callers.find safe_modprobe.callers.kernel_args safe_modprobe.callers.nested
    safe_modprobe.callers.proc safe_modprobe.callers.ring safe_modprobe.callers.tasks safe_modprobe.callers.tracefs
    safe_modprobe.capability safe_modprobe.decide safe_modprobe.errors safe_modprobe.escape safe_modprobe.helper
    safe_modprobe.kmod safe_modprobe.last_resort safe_modprobe.light_types
    safe_modprobe.log safe_modprobe.log.counts safe_modprobe.log.counts_file safe_modprobe.log.message_ids
    safe_modprobe.log.rate_limited safe_modprobe.log.record safe_modprobe.log.report
    safe_modprobe.model
    safe_modprobe.modules safe_modprobe.modules.image safe_modprobe.modules.load safe_modprobe.modules.modprobe
    safe_modprobe.modules.plan
    safe_modprobe.policy safe_modprobe.policy.builtin safe_modprobe.policy.cache safe_modprobe.policy.dropins
    safe_modprobe.policy.match safe_modprobe.policy.packed safe_modprobe.policy.text
    safe_modprobe.rescue safe_modprobe.runtime
"""
# Needed once after a boot or an edit of the policy: the parser, and the code that caches its result.
PARSER = """
    safe_modprobe.policy.accounts safe_modprobe.policy.cache_write safe_modprobe.policy.files
    safe_modprobe.policy.lines safe_modprobe.policy.schema
"""
TOMLI = "tomli tomli._parser tomli._re tomli._types"
# Imports of tomli itself. The helper may use them too, since they cost nothing more.
WITH_TOMLI = """
    __future__ collections copyreg datetime enum functools itertools keyword math operator re re._casefix re._compiler
    re._constants re._parser reprlib string types typing warnings contextlib collections.abc
    _collections _datetime _functools _operator _sre _string _typing
"""
NEEDED = "_collections _collections_abc _stat _struct errno fcntl gc genericpath os posixpath stat struct"
ALLOWED = frozenset(f"{OURS} {PARSER} {TOMLI} {WITH_TOMLI} {NEEDED}".split())
ALLOWED_LATER = frozenset(f"{OURS} {NEEDED}".split())

RARE = {
    "fnmatch",
    "re",
    "lzma",
    "_lzma",
    "_compression",
    "zlib",
    "safe_modprobe.zstd",
    "safe_modprobe.callers.self_test",
    "bz2",
    "threading",
    "socket",
    "select",
}
"""Imported inside a function for a rare branch. The rows below reach none of these branches."""

HEAVY = [
    "argparse",
    "asyncio",
    "ctypes",
    "dataclasses",
    "elftools",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "socket",
    "subprocess",
]

MODULES = (
    Mod("base"),
    Mod("target", ("test-alias",), ("base",)),
    Mod("soft", ("soft-alias",), softdep="pre: target"),
    Mod("marked", ("marked-alias",), info=(b"privileged=Y",)),
)

# The rows come as JSON. Each runs twice: first the helper parses the policy, then it reads the cached one. The policy has
# its real size and lies in a private /run. It must be older than one clock tick to be cached.
DRIVER = """
import json, os, pathlib, shutil, subprocess, sys, time
policy, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
os.makedirs("/run/safe-modprobe", 0o700)
shutil.copytree(policy, "/run/safe-modprobe/policy.d")
time.sleep(0.1)
cache = pathlib.Path("/run/safe-modprobe/policy.cache")
for row in json.load(sys.stdin):
    cache.unlink(missing_ok=True)
    for _ in range(2):
        done = subprocess.run([*command, *row], capture_output=True)
        print(json.dumps([done.returncode, done.stderr.decode(errors="replace"), cache.exists()]))
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged entry, with this tree in the place of the installed folder."""
    text = (TOP / "packaging/safe-modprobe.in").read_text()
    purelib = subprocess.run(
        [PYTHON, "-c", "import os, tomli; print(os.path.dirname(os.path.dirname(tomli.__file__)))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    path = tmp_path_factory.mktemp("sbin") / "safe-modprobe"
    path.write_text(text.replace("@PYTHON@", PYTHON).replace("@LIBDIR@", str(TOP)).replace("@PURELIB@", purelib))
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    build_tree(root, MODULES)
    return root


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "policy.d"
    shutil.copytree(TOP / "policy.d", folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)
    return folder


def parse_import_times(text: str) -> set[str]:
    """Parse Python's list of imports (-X importtime): `import time: self | cumulative | name` lines."""
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", text, re.MULTILINE))


def imports_of(*command: str | Path) -> set[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return parse_import_times(done.stderr)


ROWS = [
    (["test-alias"], 0),
    (["soft-alias"], 0),
    (["marked-alias"], 0),
    (["marked-alias", "grsec_modharden_normal1000_"], 1),
    (["net-pf-38"], 1),
    (["[", "grsec_modharden_fs"], 1),
    (["\n\udcff" * 20], 1),
]
NAMES = [ascii(" ".join(alias)) for alias, _ in ROWS]


@pytest.fixture(scope="module")
def runs(launcher: Path, tree: Path, rules: Path) -> list[tuple[int, set[str], bool]]:
    """(exit code, imports, whether the parsed policy is cached afterwards), two for each of ROWS."""
    helper = [PYTHON, "-IBS", "-X", "importtime", launcher, "-n", "-q", "-d", tree, "-S", VERSION, "--"]
    command = ["unshare", "-m", PYTHON, "-c", DRIVER, rules, *helper]
    text = json.dumps([alias for alias, _ in ROWS])
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    bare = imports_of(PYTHON, "-IBS", "-X", "importtime", "-c", "pass")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [(code, parse_import_times(stderr) - bare, kept) for code, stderr, kept in lines]


@pytest.mark.parametrize("row", range(len(ROWS)), ids=NAMES)
def test_the_helper_imports_only_what_the_list_allows(runs: list[tuple[int, set[str], bool]], row: int) -> None:
    first, later = runs[2 * row : 2 * row + 2]
    assert (first[0], later[0]) == (ROWS[row][1], ROWS[row][1])
    assert first[1] - ALLOWED == set()
    assert first[2], "the helper did not cache the parsed policy"
    assert later[1] - ALLOWED_LATER == set()
    assert first[1] & set(HEAVY) == set()
    assert {*OURS.split(), *PARSER.split(), *TOMLI.split()} <= first[1], "the list names what is no longer there"
    assert set(OURS.split()) <= later[1], "the list names what is no longer there"


def test_the_list_allows_no_heavy_import() -> None:
    assert ALLOWED.isdisjoint(HEAVY) and ALLOWED_LATER.isdisjoint({*RARE, *PARSER.split(), *TOMLI.split()})


def test_tomli_imports_what_the_list_allows_because_of_it(launcher: Path) -> None:
    """The list allows these only because tomli imports them anyway."""
    purelib = re.search(r'sys\.path \+= \[".*", "(.*)"\]', launcher.read_text())
    assert purelib is not None
    code = f"import sys; sys.path.append({purelib[1]!r}); import tomli"
    found = imports_of(PYTHON, "-IBS", "-X", "importtime", "-c", code)
    assert set(WITH_TOMLI.split()) - found <= {"collections.abc"}


def test_no_site_package_or_environment_variable_can_add_code(launcher: Path) -> None:
    """-I and -S exclude site-packages, the user's folder and PYTHON* variables."""
    assert launcher.read_text().startswith(f"#!{PYTHON} -IBS\n")
    assert "site" not in imports_of(PYTHON, "-IBS", "-X", "importtime", "-c", "pass")
