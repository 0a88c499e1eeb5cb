"""Fetch Debian's kernel sources: a suite's linux-source package, with Debian's patches.

This command fetches them and prints their folder:

    python3 -m tests.vm.sources SUITE
"""

import re
import shutil
import sys
from inspect import getsource
from pathlib import Path

from tests.vm.cache import APT_GET, Progress, cached, digest, run, say
from tests.vm.kernels import suite_options


def source(suite: str, progress: Progress = say) -> Path:
    """Return the folder with the full source tree of a suite's newest kernel (1.4 GB)."""
    name, version = package(suite, progress)

    def make(into: Path) -> None:
        unpack(into, suite, name, progress)

    return cached(f"source-{suite}", digest(name, version, getsource(unpack)), make, progress) / name


def package(suite: str, progress: Progress = say) -> tuple[str, str]:
    """Return (name, version) of the suite's newest package of kernel sources. Raises SystemExit if apt has none."""
    options = suite_options(suite, progress)
    depends = re.search(r"Depends: (linux-source-\S+)", run(["apt-cache", *options, "depends", "linux-source"]))
    policy = depends and re.search(r"Candidate: (\S+)", run(["apt-cache", *options, "policy", depends[1]]))
    if not depends or not policy:
        raise SystemExit("apt knows no linux-source; run 'apt-get update'")
    return depends[1], policy[1]


def unpack(into: Path, suite: str, package: str, progress: Progress, only: list[str] | None = None) -> None:
    """Fetch the package, and unpack its tree, or these files of it, to a folder of its name."""
    run([APT_GET, *suite_options(suite, progress), "download", package], cwd=into)
    (deb,) = into.glob("*.deb")
    run(["dpkg-deb", "-x", deb, into / "deb"])
    run(["tar", "-x", "-f", into / f"deb/usr/src/{package}.tar.xz", "-C", into, *(only or [])])
    shutil.rmtree(into / "deb")
    deb.unlink()


if __name__ == "__main__":
    print(source(sys.argv[1]))
