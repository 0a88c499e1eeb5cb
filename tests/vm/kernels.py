"""Debian's kernels: the cloud flavour of a suite, with its modules indexed, and modules of our own in it."""

import gzip
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from tests.vm.cache import CACHE, Progress, cached, digest, run, say

SOURCES = Path(__file__).parent / "modules"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
NATIVE = "bookworm"


class Kernel(NamedTuple):
    """A kernel image and the root that holds its lib/modules/VERSION."""

    version: str
    image: Path
    root: Path


def kernel(suite: str, progress: Progress = say) -> Kernel:
    """The newest cloud kernel of a suite; with the test modules where their headers are at hand (bookworm)."""
    options = _apt(suite, progress)
    package = _newest(options)
    key = digest(package, Path(__file__), SOURCES if suite == NATIVE else "")
    folder = cached(f"kernel-{suite}", key, lambda into: _make(into, suite, package, options), progress)
    return Kernel(*_found(folder))


def _apt(suite: str, progress: Progress) -> list[str]:
    """apt's options for a suite: the machine's own for its own, a private folder with the same mirror otherwise."""
    if suite == NATIVE:
        return []
    folder = cached(f"apt-{suite}", digest(suite, Path(__file__)), lambda into: _lists(into, suite), progress)
    return _private(folder)


def _private(folder: Path) -> list[str]:
    return [
        "-o", f"Dir::Etc::sourcelist={folder}/sources.list",
        "-o", "Dir::Etc::sourceparts=-",
        "-o", f"Dir::State={folder}/state",
        "-o", f"Dir::Cache={folder}/cache",
        "-o", "Acquire::Check-Valid-Until=false",
        "-o", "Acquire::Languages=none",
        "-o", "APT::Sandbox::User=root",
    ]  # fmt: skip


def _lists(into: Path, suite: str) -> None:
    (into / "state/lists/partial").mkdir(parents=True)
    (into / "cache/archives/partial").mkdir(parents=True)
    (into / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    run(["apt-get", *_private(into), "update"])


def mirror() -> str:
    """The machine's own Debian mirror, from its apt configuration."""
    lines = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]).splitlines()
    for line in lines:
        uri, _, release = line.partition(" ")
        if "-" not in release and "security" not in uri:
            return uri
    raise SystemExit("apt has no Debian archive in its sources; add one and run 'apt-get update'")


def _newest(options: list[str]) -> str:
    text = run(["apt-cache", *options, "depends", "linux-image-cloud-amd64"])
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", text)
    if found is None:
        raise SystemExit("apt knows no linux-image-cloud-amd64; run 'apt-get update'")
    return found[1]


def _make(into: Path, suite: str, package: str, options: list[str]) -> None:
    wanted = [package]
    depends = run(["apt-cache", *options, "depends", package])
    # Newer releases keep the modules, or the image, in packages of their own.
    wanted += sorted(set(re.findall(r"Depends: (linux-(?:modules|binary|image)-\S+)", depends)) - {package})
    run(["apt-get", *options, "download", *wanted], cwd=into)
    for deb in into.glob("*.deb"):
        run(["dpkg", "-x", deb, into / "root"])
        deb.unlink()
    version = package.removeprefix("linux-image-")
    _merged(into / "root")
    if suite == NATIVE:
        _test_modules(into / "root/lib/modules" / version, version)
    run(["depmod", "-b", into / "root", version])
    if suite == NATIVE:
        _gzip_modules(into / "root/lib/modules" / version)


def _merged(root: Path) -> None:
    """lib/modules, wherever the release puts it."""
    if not (root / "lib/modules").exists():
        (root / "lib").mkdir(exist_ok=True)
        (root / "usr/lib/modules").rename(root / "lib/modules")


def _test_modules(folder: Path, version: str) -> None:
    """Our own modules, built against the kernel's real headers; some installed compressed."""
    work = CACHE / "modules.part"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(SOURCES, work)
    run(["make", "-C", f"/usr/src/linux-headers-{version}", f"M={work}", "modules"])
    into = folder / "updates"
    into.mkdir()
    for module in work.glob("*.ko"):
        shutil.copy(module, into)
    for pack, ending in (("xz --check=crc32", "xz"), ("zstd --rm", "zst")):
        for module in into.glob(f"*_{ending}.ko"):
            run([*pack.split(), "-q", "-f", module])
    shutil.rmtree(work)


def _gzip_modules(folder: Path) -> None:
    """Debian's depmod reads no gzip, so these are compressed once it has seen them, under their old names."""
    for module in (folder / "updates").glob("*_gz.ko"):
        module.write_bytes(gzip.compress(module.read_bytes(), mtime=0))


def _found(folder: Path) -> tuple[str, Path, Path]:
    """The image is in /boot, or since 7.0 beside its modules."""
    root = folder / "root"
    version = next((root / "lib/modules").iterdir()).name
    image = root / "lib/modules" / version / "vmlinuz"
    return version, image if image.exists() else root / "boot" / f"vmlinuz-{version}", root
