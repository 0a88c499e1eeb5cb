"""What `make install` installs, made with a release's own Python, Cython and libkmod."""

import os
import shutil
import sys
from collections.abc import Sequence
from inspect import getsource
from pathlib import Path

from tests.vm.cache import TOP, Progress, cached, digest, run, say
from tests.vm.kernels import NATIVE, Kernel
from tests.vm.roots import root, suite_of

_NOT_DEBIANS = ("ansible", "arch", "rpm", "selinux")
_PACKAGING = sorted(f"packaging/{path.name}" for path in (TOP / "packaging").iterdir() if path.name not in _NOT_DEBIANS)
PARTS = ("safe_modprobe", "policy.d", *_PACKAGING, "docs/man", "setup.py", "pyproject.toml", "Makefile")
SOURCES = (*(part for part in PARTS if part != "docs/man"), "docs", "README.md", "LICENSE")
"""What `make deb` is made from."""

RPM_SOURCES = (*SOURCES, "packaging/rpm", "packaging/selinux")

_CHROOT = """mount --bind "$2" "$1/mnt"
for name in proc dev sys; do mount --rbind "/$name" "$1/$name"; done
top="$1"; shift 2; exec chroot "$top" env -i -C /mnt PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@\""""


def product(suite: str = NATIVE, progress: Progress = say) -> Path:
    """The folder that holds the installed files as `tree`."""

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
    """The Debian package, built by that release's own tools."""

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
    """The RPM packages, built by this machine's own rpmbuild: source, binary, and SELinux's."""

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
    """All that is built from, without what was built from it here."""
    for part in parts:
        (into / part).parent.mkdir(parents=True, exist_ok=True)
        if (TOP / part).is_dir():
            shutil.copytree(TOP / part, into / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(TOP / part, into / part)


def installed(name: str, linux: Kernel, progress: Progress = say) -> Path:
    """A root with the product and a kernel's modules in it, to chroot(2) into: also as the running kernel's."""
    parts = [root(name, progress) / "tree", product(suite_of(name), progress) / "tree"]

    def make(into: Path) -> None:
        for part in parts:
            run(["cp", "-a", f"{part}/.", into])
        shutil.copytree(linux.root / "lib/modules", into / "lib/modules")
        (into / "lib/modules" / os.uname().release).symlink_to(linux.version)

    return cached(f"installed-{name}", digest(*map(str, parts), linux.version, getsource(make)), make, progress)


def in_root(tree: Path, folder: Path, command: Sequence[str | Path]) -> list[str | Path]:
    """The command that runs this command in that root, in the folder, with /proc, /dev and /sys there."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", _CHROOT, "sh", tree, folder, *command]


def in_build_root(suite: str, folder: Path, command: Sequence[str], progress: Progress = say) -> str:
    """What the command prints, run in this folder with that release's compiler and Python. Raises SystemExit."""
    return run(in_root(build_root(suite, progress), folder, command))


def build_root(suite: str, progress: Progress = say) -> Path:
    """That release, with all that it takes to build."""
    return root("build" if suite == NATIVE else f"build-{suite}", progress) / "tree"
