"""What stands on the path of every module request: the list of its imports, and no others.

Each costs time while somebody waits in the kernel, and each is code that runs as root for an attacker's request.
Who adds one adds it here, and says in the review what it costs (make bench).
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
# Once after a boot or an edit of the policy: the parser, and what keeps what it parsed.
PARSER = """
    safe_modprobe.policy.accounts safe_modprobe.policy.cache_write safe_modprobe.policy.files
    safe_modprobe.policy.lines safe_modprobe.policy.schema
"""
TOMLI = "tomli tomli._parser tomli._re tomli._types"
# What tomli brings, and what we have because it is there then.
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
"""Inside a function, for one rare branch; the rows below have none of them."""

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

# Rows as JSON, each run twice: with the policy to be parsed, and with what was kept of it. A policy of the real size, in a
# /run of this process's own, that has lain there long enough to be trusted not to change within a tick.
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
    """The installed one's text, with this tree in the place of the installed folder."""
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


def imports_of(text: str) -> set[str]:
    """What Python says that it imported (-X importtime), `import time: self | cumulative | name`."""
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", text, re.MULTILINE))


def imported(*command: str | Path) -> set[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return imports_of(done.stderr)


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
    """(exit code, imports, whether the parsed policy is kept now), two for each of ROWS."""
    helper = [PYTHON, "-IBS", "-X", "importtime", launcher, "-n", "-q", "-d", tree, "-S", VERSION, "--"]
    command = ["unshare", "-m", PYTHON, "-c", DRIVER, rules, *helper]
    text = json.dumps([alias for alias, _ in ROWS])
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    bare = imported(PYTHON, "-IBS", "-X", "importtime", "-c", "pass")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [(code, imports_of(stderr) - bare, kept) for code, stderr, kept in lines]


@pytest.mark.parametrize("row", range(len(ROWS)), ids=NAMES)
def test_no_import_that_is_not_on_the_list(runs: list[tuple[int, set[str], bool]], row: int) -> None:
    first, later = runs[2 * row : 2 * row + 2]
    assert (first[0], later[0]) == (ROWS[row][1], ROWS[row][1])
    assert first[1] - ALLOWED == set()
    assert first[2], "the parsed policy was not kept"
    assert later[1] - ALLOWED_LATER == set()
    assert first[1] & set(HEAVY) == set()
    assert {*OURS.split(), *PARSER.split(), *TOMLI.split()} <= first[1], "the list names what is no longer there"
    assert set(OURS.split()) <= later[1], "the list names what is no longer there"


def test_the_list_holds_nothing_heavy() -> None:
    assert ALLOWED.isdisjoint(HEAVY) and ALLOWED_LATER.isdisjoint({*RARE, *PARSER.split(), *TOMLI.split()})


def test_what_tomli_brings_is_tomlis(launcher: Path) -> None:
    """The list's excuse has to stay true: these come with tomli by itself, so that we have them for nothing."""
    purelib = re.search(r'sys\.path \+= \[".*", "(.*)"\]', launcher.read_text())
    assert purelib is not None
    code = f"import sys; sys.path.append({purelib[1]!r}); import tomli"
    found = imported(PYTHON, "-IBS", "-X", "importtime", "-c", code)
    assert set(WITH_TOMLI.split()) - found <= {"collections.abc"}


def test_the_interpreters_own_start_is_untouched(launcher: Path) -> None:
    """-I and -S: no site-packages, no user's folder, no PYTHON* variable can put code on this path."""
    assert launcher.read_text().startswith(f"#!{PYTHON} -IBS\n")
    assert "site" not in imported(PYTHON, "-IBS", "-X", "importtime", "-c", "pass")
