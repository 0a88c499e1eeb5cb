"""Fetch Debian's kernel sources, apply the series of packaging/kernel, and build a small kernel with test modules.

As a program it builds the kernels of the given suites. Each step's result is cached, with a digest of its inputs as the
key.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from inspect import getsource
from pathlib import Path

from tests.vm.cache import CACHE, TOP, Progress, cached, digest, run, say
from tests.vm.kernels import HEADER, PATCHED, SOURCES, Kernel
from tests.vm.sources import package, unpack

HERE = Path(__file__).parent
PATCHES = TOP / "packaging/kernel/patches"
FRAGMENT = TOP / "packaging/kernel/test.config"
SUITES = tuple(path.suffix[1:] for path in sorted(PATCHES.glob("series.*")))
_BETWEEN_WORDS = 20
"""Seconds between two progress messages of a build."""

_NOT_NEEDED = """Documentation block certs crypto drivers fs init io_uring ipc kernel lib mm net rust samples security
    sound usr virt""".split()
"""Folders that building our test modules does not need. They are three quarters of the tree."""


def series(suite: str) -> list[Path]:
    """Return the suite's patches in order."""
    return [PATCHES / line for line in (PATCHES / f"series.{suite}").read_text().split()]


def touched(suite: str) -> list[str]:
    """Return the files that the suite's patches change, without those that they create."""
    text = "".join(patch.read_text() for patch in series(suite))
    changed, created = (
        set(re.findall(rf"^--- {before}\n\+\+\+ b/(\S+)$", text, re.MULTILINE)) for before in (r"a/\S+", "/dev/null")
    )
    return sorted(changed - created)


def originals(suite: str, progress: Progress = say) -> Path:
    """Return a folder with the original files that the series changes, and with checkpatch and its data."""
    name, version = package(suite, progress)
    wanted = [*touched(suite), "scripts/checkpatch.pl", "scripts/spelling.txt", "scripts/const_structs.checkpatch"]

    def make(into: Path) -> None:
        unpack(into, suite, name, progress, [f"{name}/{path}" for path in wanted])

    return cached(f"originals-{suite}", digest(name, version, *wanted), make, progress) / name


def apply(suite: str, tree: Path) -> None:
    """Apply the suite's series to a tree without fuzz. Raises SystemExit when a patch does not apply."""
    for patch in series(suite):
        run(["patch", "-d", tree, "-p1", "--fuzz=0", "--no-backup-if-mismatch", "-s", "-i", patch])


def patched(suite: str, progress: Progress = say) -> Kernel:
    """Return the suite's kernel with the series and all test modules. Build it unless it is cached."""
    tree = _tree(suite, progress)

    def make(into: Path) -> None:
        root = into / "root"
        run(["cp", "-a", tree / "root", root])
        (version,) = os.listdir(root / "lib/modules")
        _test_modules(tree / "tree", root / "lib/modules" / version / "updates")
        run(["depmod", "-b", root, version])

    key = digest(tree.name, SOURCES, HEADER, HERE / "modules", getsource(make), getsource(_test_modules))
    root = cached(f"kernel-{suite}{PATCHED}", key, make, progress) / "root"
    (version,) = os.listdir(root / "lib/modules")
    return Kernel(f"{suite}{PATCHED}", version, root / "boot/vmlinuz", root)


def _tree(suite: str, progress: Progress) -> Path:
    """Return a folder with the kernel and its modules in `root`, and what modules are built with in `tree`."""
    name, version = package(suite, progress)

    def make(into: Path) -> None:
        progress(f"fetching and unpacking {name} …")
        unpack(into, suite, name, progress)
        (into / name).rename(into / "tree")
        apply(suite, into / "tree")
        _compile(into / "tree", into / "root", progress)

    how = "".join(map(getsource, (make, unpack, _compile, _make, _prune)))
    return cached(f"linux-{suite}{PATCHED}", digest(name, version, *series(suite), FRAGMENT, how), make, progress)


def _compile(tree: Path, root: Path, progress: Progress) -> None:
    run(["make", "-C", tree, "tinyconfig"])
    with (tree / ".config").open("a") as config:
        config.write(FRAGMENT.read_text())
    run(["make", "-C", tree, "olddefconfig"])
    _make(tree, ["bzImage", "modules"], progress)
    run(["make", "-C", tree, "modules_install", f"INSTALL_MOD_PATH={root}", "INSTALL_MOD_STRIP=1"])
    (root / "boot").mkdir()
    shutil.copy(tree / "arch/x86/boot/bzImage", root / "boot/vmlinuz")
    for link in (root / "lib/modules").glob("*/[bs]*"):  # build and source, which lead out of the guest
        if link.is_symlink():
            link.unlink()
    _prune(tree)


def _make(tree: Path, goals: list[str], progress: Progress) -> None:
    """make, with a word now and then. Raises SystemExit."""
    log = CACHE / "log/kernel.log"
    started = output = time.monotonic()
    count = 0
    command = ["make", "-C", tree, f"-j{len(os.sched_getaffinity(0))}", *goals]
    with log.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            count += " CC " in line
            if time.monotonic() - output > _BETWEEN_WORDS:
                output = time.monotonic()
                progress(f"compiling {' and '.join(goals)}: {count} files, {output - started:.0f} s")
    if process.returncode:
        raise SystemExit(f"make ended with {process.returncode}; {log.relative_to(TOP)} says why")


def _prune(tree: Path) -> None:
    for folder in (*(tree / name for name in _NOT_NEEDED), *(tree / "arch").iterdir()):
        if folder.is_dir() and folder.name != "x86":
            shutil.rmtree(folder)
    for name in ("vmlinux", "vmlinux.o", "vmlinux.a", "System.map"):
        (tree / name).unlink(missing_ok=True)


def _test_modules(tree: Path, into: Path) -> None:
    """Build the modules of tests/vm and tests/kernel against this tree, and copy them."""
    work = CACHE / "patched-modules.part"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(SOURCES, work)
    shutil.copytree(HERE / "modules", work, dirs_exist_ok=True)
    shutil.copy(HEADER, work)
    run(["make", "-C", tree, f"M={work}", "modules"])
    into.mkdir()
    for module in work.glob("*.ko"):
        shutil.copy(module, into)
    shutil.rmtree(work)


def main() -> None:
    for suite in sys.argv[1:] or ["bookworm"]:
        if suite not in SUITES:
            raise SystemExit(f"SUITE={suite}: no such series; choose one of {', '.join(SUITES)}")
        linux = patched(suite)
        print(f"Linux {linux.version} with the series: {linux.image}")


if __name__ == "__main__":
    main()
