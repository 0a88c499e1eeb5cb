"""Test the bindings with the Python, Cython and libkmod of other releases, and with Cython 3 on this release."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.cache import TOP, cached, digest
from tests.vm.product import copy_sources, in_build_root, product

BINDINGS = [
    "tests/unit/test_kmod.py",
    "tests/unit/test_kmod_hard.py",
    "tests/unit/modules/test_image.py",
    "tests/unit/modules/test_plan.py",
]
EXTENSIONS = ("setup.py", "pyproject.toml", "safe_modprobe/*.pyx", "safe_modprobe/*.pxd")
"""The sources of the extensions, which are the key of their cached build."""

PRINT_VERSIONS = "import sys, Cython; print(sys.version_info[:2], Cython.__version__.split('.')[0])"

ROWS = [
    ("trixie", "(3, 13) 3", "kmod version 34"),
    ("sid", "(3, 14) 3", "kmod version 34"),
]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a copy of the sources and the tests."""
    copy_sources(tmp_path / "sources")
    subprocess.run(["cp", "-a", TOP / "tests", tmp_path / "sources"], check=True)
    return tmp_path / "sources"


@pytest.mark.parametrize(("suite", "versions", "kmod"), ROWS)
def test_the_bindings_work_on_another_release(suite: str, versions: str, kmod: str, sources: Path) -> None:
    """`make install` built them there, for the guests of that release."""
    assert in_build_root(suite, sources, ["python3", "-c", PRINT_VERSIONS]).strip() == versions
    assert in_build_root(suite, sources, ["kmod", "--version"]).startswith(kmod)
    for extension in (product(suite) / "tree/usr/lib/safe-modprobe/safe_modprobe").glob("*.so"):
        shutil.copy(extension, sources / "safe_modprobe")
    output = in_build_root(
        suite, sources, ["python3", "-m", "pytest", "-p", "no:cacheprovider", "--noconftest", *BINDINGS]
    )
    last = output.strip().splitlines()[-1]
    assert " passed" in last and "failed" not in last and "skipped" not in last, last


def test_the_bindings_build_with_cython_3_on_this_python(sources: Path) -> None:
    """All other builds here use this machine's Cython 0.29."""
    python = [sys.executable]  # The virtual environment has Cython 3.
    done = subprocess.run([*python, "-c", PRINT_VERSIONS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(3, 11) 3"

    def make(into: Path) -> None:
        build = ["env", "CFLAGS=-O0", *python, "setup.py", "-q", "build_ext", "--build-lib", into]
        subprocess.run(build, cwd=sources, check=True)

    built = cached("product-cython-3", digest(*(path for part in EXTENSIONS for path in sorted(TOP.glob(part)))), make)
    for extension in (built / "safe_modprobe").glob("*.so"):
        shutil.copy(extension, sources / "safe_modprobe")
    test = [*python, "-m", "pytest", "-p", "no:cacheprovider", "--noconftest", BINDINGS[0]]
    done = subprocess.run(test, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
