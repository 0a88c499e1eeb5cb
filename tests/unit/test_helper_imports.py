"""What stands on the path of every module request: the list of its imports, and no others.

Each costs time while somebody waits in the kernel, and each is code that runs as root for an attacker's request.
Who adds one adds it here, and says in the review what it costs (make bench).
"""

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
    safe_modprobe.act safe_modprobe.act.behalf safe_modprobe.act.load safe_modprobe.act.record
    safe_modprobe.capability safe_modprobe.decide safe_modprobe.errors safe_modprobe.frozen safe_modprobe.helper
    safe_modprobe.kernel_args
    safe_modprobe.kmod safe_modprobe.last_resort safe_modprobe.model
    safe_modprobe.policy safe_modprobe.policy.builtin safe_modprobe.policy.dropins safe_modprobe.policy.lines
    safe_modprobe.policy.match safe_modprobe.policy.schema safe_modprobe.policy.text
    safe_modprobe.read safe_modprobe.read.accounts safe_modprobe.read.behalf safe_modprobe.read.callers
    safe_modprobe.read.image safe_modprobe.read.modules safe_modprobe.read.policy_files safe_modprobe.read.ring
    safe_modprobe.read.tasks safe_modprobe.read.trace safe_modprobe.read.waiting safe_modprobe.report
"""
TOMLI = "tomli tomli._parser tomli._re tomli._types"
# What tomli brings, and what we have because it is there then.
WITH_TOMLI = """
    __future__ collections copyreg datetime enum functools itertools keyword math operator re re._casefix re._compiler
    re._constants re._parser reprlib string types typing warnings contextlib collections.abc
    _collections _datetime _functools _operator _sre _string _typing
"""
NEEDED = "_collections_abc _stat _struct errno fcntl gc genericpath os posixpath stat struct"
ALLOWED = frozenset(f"{OURS} {TOMLI} {WITH_TOMLI} {NEEDED}".split())

RARE = {
    "fnmatch",
    "lzma",
    "_lzma",
    "_compression",
    "zlib",
    "safe_modprobe.zstd",
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

# A policy of the real size, where the helper looks for it: in a /run of this process's own.
MOUNT = 'mount -t tmpfs none /run && mkdir -p /run/safe-modprobe && cp -r "$1" /run/safe-modprobe/policy.d && shift && exec "$@"'


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


def imported(*command: str | Path, code: int = 0) -> set[str]:
    """What Python says that it imported (-X importtime), `import time: self | cumulative | name`."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE))


ROWS = [
    (["test-alias"], 0),
    (["soft-alias"], 0),
    (["marked-alias"], 0),
    (["marked-alias", "grsec_modharden_normal1000_"], 1),
    (["net-pf-38"], 1),
    (["[", "grsec_modharden_fs"], 1),
    (["\n\udcff" * 20], 1),
]


@pytest.mark.parametrize(("alias", "code"), ROWS)
def test_no_import_that_is_not_on_the_list(
    launcher: Path, tree: Path, rules: Path, alias: list[str], code: int
) -> None:
    python = [PYTHON, "-IBS", "-X", "importtime"]
    bare = imported(*python, "-c", "pass")
    run = ["-n", "-q", "-d", tree, "-S", VERSION, "--", *alias]
    found = imported("unshare", "-m", "sh", "-c", MOUNT, "sh", rules, *python, launcher, *run, code=code) - bare
    assert found - ALLOWED == set()
    assert found & set(HEAVY) == set()
    assert {*OURS.split(), *TOMLI.split()} <= found, "the list names what is no longer there"


def test_the_list_holds_nothing_heavy() -> None:
    assert ALLOWED.isdisjoint(HEAVY) and ALLOWED.isdisjoint(RARE)


def test_what_tomli_brings_is_tomlis(launcher: Path) -> None:
    """The list's excuse has to stay true: these come with tomli by itself, so that we have them for nothing."""
    purelib = re.search(r'sys\.path \+= \[".*", "(.*)"\]', launcher.read_text())
    assert purelib is not None
    code = f"import sys; sys.path.append({purelib[1]!r}); import tomli"
    found = imported(PYTHON, "-IBS", "-X", "importtime", "-c", code)
    assert set(WITH_TOMLI.split()) - found <= {"contextlib", "collections.abc"}


def test_the_interpreters_own_start_is_untouched(launcher: Path) -> None:
    """-I and -S: no site-packages, no user's folder, no PYTHON* variable can put code on this path."""
    assert launcher.read_text().startswith(f"#!{PYTHON} -IBS\n")
    assert "site" not in imported(PYTHON, "-IBS", "-X", "importtime", "-c", "pass")
