"""Build what is tested: the installed files and the packages, with a release's own Python, Cython and libkmod."""

import os
import shutil
import sys
from collections.abc import Sequence
from inspect import getsource
from pathlib import Path

from tests.vm.cache import TOP, Progress, cached, digest, run, say
from tests.vm.kernels import NATIVE, Kernel
from tests.vm.roots import root, suite_of

_NOT_FOR_DEBIAN = ("ansible", "arch", "rpm", "selinux")
_PACKAGING = sorted(
    f"packaging/{path.name}" for path in (TOP / "packaging").iterdir() if path.name not in _NOT_FOR_DEBIAN
)
PARTS = ("safe_modprobe", "policy.d", *_PACKAGING, "docs/man", "setup.py", "pyproject.toml", "Makefile")
SOURCES = (*(part for part in PARTS if part != "docs/man"), "docs", "README.md", "LICENSE")
"""The inputs of `make deb`."""

RPM_SOURCES = (*SOURCES, "packaging/rpm", "packaging/selinux")
"""The inputs of `make rpm`."""

_CHROOT = """mount --bind "$2" "$1/mnt"
for name in proc dev sys; do mount --rbind "/$name" "$1/$name"; done
top="$1"; shift 2; exec chroot "$top" env -i -C /mnt PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@\""""


def product(suite: str = NATIVE, progress: Progress = say) -> Path:
    """Return a folder whose `tree` has the files that `make install` installs on this release."""

    def make(into: Path) -> None:
        if suite == NATIVE:
            run(["make", "-C", TOP, "install", f"DESTDIR={into}/tree", "PYTHON=/usr/bin/python3"])
        else:
            sources = into / "sources"
            copy_sources(sources)
            in_build_root(suite, sources, ["make", "install", "DESTDIR=/mnt/tree"], progress)
            (sources / "tree").rename(into / "tree")
            shutil.rmtree(sources)

    name = "product" if suite == NATIVE else f"product-{suite}"
    return cached(name, digest(suite, *(TOP / part for part in PARTS)), make, progress)


def deb(suite: str = NATIVE, progress: Progress = say) -> Path:
    """Return the path of the Debian package, built by that release's own tools."""

    def make(into: Path) -> None:
        sources = into / "sources"
        copy_sources(sources, SOURCES)
        in_build_root(suite, sources, ["make", "deb"], progress)
        for package in (sources / "build/deb").glob("safe-modprobe_*"):
            package.rename(into / package.name)
        shutil.rmtree(sources)

    folder = cached(f"deb-{suite}", digest(suite, *(TOP / part for part in SOURCES)), make, progress)
    return next(folder.glob("*.deb"))


def rpms(progress: Progress = say) -> tuple[Path, ...]:
    """Return the paths of the RPM packages (source, binary and SELinux), built by the host's own rpmbuild."""

    def make(into: Path) -> None:
        sources = into / "sources"
        copy_sources(sources, RPM_SOURCES)
        run(["make", "-C", sources, "rpm", f"VENV={sys.executable}"])
        for package in (sources / "build/rpm").glob("*.rpm"):
            package.rename(into / package.name)
        shutil.rmtree(sources)

    folder = cached("rpm", digest(*(TOP / part for part in RPM_SOURCES)), make, progress)
    return tuple(sorted(folder.glob("*.rpm")))


def copy_sources(into: Path, parts: Sequence[str] = PARTS) -> None:
    """Copy the sources without the host's build products (`*.so` and `__pycache__`)."""
    for part in parts:
        (into / part).parent.mkdir(parents=True, exist_ok=True)
        if (TOP / part).is_dir():
            shutil.copytree(TOP / part, into / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(TOP / part, into / part)


def installed(name: str, linux: Kernel, progress: Progress = say) -> Path:
    """Return a root for chroot(2) with the product and a kernel's modules, linked as the running kernel's as well."""
    parts = [root(name, progress) / "tree", product(suite_of(name), progress) / "tree"]

    def make(into: Path) -> None:
        for part in parts:
            run(["cp", "-a", f"{part}/.", into])
        shutil.copytree(linux.root / "lib/modules", into / "lib/modules")
        (into / "lib/modules" / os.uname().release).symlink_to(linux.version)

    return cached(f"installed-{name}", digest(*map(str, parts), linux.version, getsource(make)), make, progress)


def in_root(tree: Path, folder: Path, command: Sequence[str | Path]) -> list[str | Path]:
    """Return the command line that runs `command` in the root `tree`, with `folder` as /mnt and working directory.

    The root sees the host's /proc, /dev and /sys.
    """
    return ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", _CHROOT, "sh", tree, folder, *command]


def in_build_root(suite: str, folder: Path, command: Sequence[str], progress: Progress = say) -> str:
    """Run the command in this folder with that release's compiler and Python. Return its output.

    Raises SystemExit when the command fails.
    """
    return run(in_root(build_root(suite, progress), folder, command))


def build_root(suite: str, progress: Progress = say) -> Path:
    """Return a root of that release with all build dependencies."""
    return root("build" if suite == NATIVE else f"build-{suite}", progress) / "tree"
