"""Debian's kernels: the cloud flavour of a suite, with its modules indexed, and modules of our own in it."""

import gzip
import re
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.vm.cache import APT_GET, CACHE, TOP, Progress, cached, digest, run, say

SOURCES = Path(__file__).parent / "modules"
HEADER = TOP / "packaging/kernel/privileged_module.h"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
NATIVE = "bookworm"
_WHOLE = "-amd64"
"""bookworm-amd64 is the whole kernel, which physical machines have; without it, the cloud flavour."""
PATCHED = "-patched"
"""bookworm-patched is a small kernel of bookworm's sources, with the series in packaging/kernel."""

_NOT_NEEDED = """drivers/gpu drivers/media drivers/net/ethernet drivers/net/wireless drivers/infiniband/hw drivers/iio
    drivers/staging drivers/hwmon drivers/usb drivers/scsi drivers/mtd drivers/input drivers/platform drivers/leds
    drivers/mfd drivers/i2c drivers/power drivers/rtc drivers/comedi drivers/misc drivers/edac drivers/regulator
    drivers/pinctrl sound/pci sound/soc sound/usb sound/firewire""".split()
"""Folders of hardware drivers that no guest has: a third of the size to unpack under emulation."""


class Kernel(NamedTuple):
    """A kernel image and the root that holds its lib/modules/VERSION; the name is a machine's `kernel`."""

    name: str
    version: str
    image: Path
    root: Path


def kernel(name: str, progress: Progress = say) -> Kernel:
    """The newest kernel of a suite, by name; with the test modules where their headers are at hand (bookworm)."""
    if name.endswith(PATCHED):
        from tests.kernel.build import patched  # which needs this module

        return patched(name.removesuffix(PATCHED), progress)
    suite = name.removesuffix(_WHOLE)
    options = suite_options(suite, progress)
    package = _newest(tuple(options), "amd64" if suite != name else "cloud-amd64")
    key = digest(package, Path(__file__), *((SOURCES, HEADER) if name == NATIVE else ()))
    folder = cached(f"kernel-{name}", key, lambda into: _make(into, name, package, options), progress)
    return Kernel(name, *_found(folder))


def suite_options(suite: str, progress: Progress) -> list[str]:
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
    run([APT_GET, *_private(into), "update"])


def mirror() -> str:
    """The machine's own Debian mirror, from its apt configuration."""
    lines = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]).splitlines()
    for line in lines:
        uri, _, release = line.partition(" ")
        if "-" not in release and "security" not in uri:
            return uri
    raise SystemExit("apt has no Debian archive in its sources; add one and run 'apt-get update'")


@cache
def _newest(options: tuple[str, ...], flavour: str) -> str:
    """apt takes most of a second to say it, and every boot asks."""
    text = run(["apt-cache", *options, "depends", f"linux-image-{flavour}"])
    found = re.search(rf"Depends: (linux-image-\S+-{flavour})", text)
    if found is None:
        raise SystemExit(f"apt knows no linux-image-{flavour}; run 'apt-get update'")
    return found[1]


def _make(into: Path, name: str, package: str, options: list[str]) -> None:
    wanted = [package]
    depends = run(["apt-cache", *options, "depends", package])
    # Newer releases keep the modules, or the image, in packages of their own.
    wanted += sorted(set(re.findall(r"Depends: (linux-(?:modules|binary|image)-\S+)", depends)) - {package})
    run([APT_GET, *options, "download", *wanted], cwd=into)
    for deb in into.glob("*.deb"):
        run(["dpkg", "-x", deb, into / "root"])
        deb.unlink()
    version = package.removeprefix("linux-image-")
    _merged(into / "root")
    if name.endswith(_WHOLE):
        for folder in _NOT_NEEDED:
            shutil.rmtree(into / "root/lib/modules" / version / "kernel" / folder, ignore_errors=True)
    if name == NATIVE:
        _test_modules(into / "root/lib/modules" / version, version)
    run(["depmod", "-b", into / "root", version])
    (into / _UNPACKED).write_bytes(_unpacked(_image(into / "root", version)))
    if name == NATIVE:
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
    shutil.copy(HEADER, work)
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
    root = folder / "root"
    version = next((root / "lib/modules").iterdir()).name
    return version, folder / _UNPACKED, root


def _image(root: Path, version: str) -> Path:
    """The image is in /boot, or since 7.0 beside its modules."""
    image = root / "lib/modules" / version / "vmlinuz"
    return image if image.exists() else root / "boot" / f"vmlinuz-{version}"


_UNPACKED = "vmlinux"
_SECTOR = 512
_MOVED, _SIZED, _PAYLOAD = 0x1F1, 4, 0x248
"""In a bzImage: where the number of sectors before the protected mode's code is, how many bytes at the payload's end
are its size, and where its offset and length are (the kernel's Documentation/arch/x86/boot.rst)."""
_TOOLS = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz"}
"""Who unpacks it, by its first bytes."""


def _unpacked(image: Path) -> bytes:
    """The kernel itself, which QEMU starts as a Xen PVH guest; unpacking it emulated takes up to three seconds a boot.

    Raises SystemExit with one sentence for a format that none of our tools unpacks.
    """
    whole = image.read_bytes()
    offset, length = struct.unpack_from("<II", whole, _PAYLOAD)
    payload = whole[(whole[_MOVED] + 1) * _SECTOR + offset :][: length - _SIZED]
    tool = _TOOLS.get(payload[:4])
    if tool is None:
        raise SystemExit(
            f"{image}: the kernel in it begins with {payload[:4]!r}, which is none of {', '.join(_TOOLS.values())};"
            " give tests/vm/kernels.py's _TOOLS who unpacks it"
        )
    return subprocess.run([tool, "-dcq"], input=payload, stdout=subprocess.PIPE, check=True).stdout
