"""Fetch the newest Debian kernel of a suite, unpack it, add the test modules and index its modules."""

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
_FULL = "-amd64"
"""Suffix for Debian's full kernel, for physical machines. Without it, a name means the cloud flavour."""
PATCHED = "-patched"
"""Suffix for a small kernel, built from the suite's sources with the patch series in packaging/kernel."""

_UNUSED_DRIVERS = """drivers/gpu drivers/media drivers/net/ethernet drivers/net/wireless drivers/infiniband/hw
    drivers/iio drivers/staging drivers/hwmon drivers/usb drivers/scsi drivers/mtd drivers/input drivers/platform
    drivers/leds drivers/mfd drivers/i2c drivers/power drivers/rtc drivers/comedi drivers/misc drivers/edac
    drivers/regulator drivers/pinctrl sound/pci sound/soc sound/usb sound/firewire""".split()
"""Folders of drivers for hardware that no guest has. They make a third of the modules' size."""


class Kernel(NamedTuple):
    """A kernel image, and the root that holds its lib/modules/VERSION. `name` is the `kernel` of machine.toml."""

    name: str
    version: str
    image: Path
    root: Path


def kernel(name: str, progress: Progress = say) -> Kernel:
    """Return the newest kernel of a suite. Only bookworm's has the test modules: the host has no other headers.

    `name` is a suite, perhaps with the suffix `-amd64` or `-patched`. Raises SystemExit if apt does not know it.
    """
    if name.endswith(PATCHED):
        from tests.kernel.build import patched  # that module imports this one

        return patched(name.removesuffix(PATCHED), progress)
    suite = name.removesuffix(_FULL)
    options = suite_options(suite, progress)
    package = _newest_package(tuple(options), "amd64" if suite != name else "cloud-amd64")
    key = digest(package, Path(__file__), *((SOURCES, HEADER) if name == NATIVE else ()))
    folder = cached(f"kernel-{name}", key, lambda into: _fetch_kernel(into, name, package, options), progress)
    return Kernel(name, *_version_image_root(folder))


def suite_options(suite: str, progress: Progress) -> list[str]:
    """Return apt's options for a suite: none for the host's own, else a private folder with the host's mirror."""
    if suite == NATIVE:
        return []
    folder = cached(f"apt-{suite}", digest(suite, Path(__file__)), lambda into: _fetch_lists(into, suite), progress)
    return _private_options(folder)


def _private_options(folder: Path) -> list[str]:
    return [
        "-o", f"Dir::Etc::sourcelist={folder}/sources.list",
        "-o", "Dir::Etc::sourceparts=-",
        "-o", f"Dir::State={folder}/state",
        "-o", f"Dir::Cache={folder}/cache",
        "-o", "Acquire::Check-Valid-Until=false",
        "-o", "Acquire::Languages=none",
        "-o", "APT::Sandbox::User=root",
    ]  # fmt: skip


def _fetch_lists(into: Path, suite: str) -> None:
    (into / "state/lists/partial").mkdir(parents=True)
    (into / "cache/archives/partial").mkdir(parents=True)
    (into / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    run([APT_GET, *_private_options(into), "update"])


def mirror() -> str:
    """Return the URI of the host's Debian mirror, from its apt configuration. Raises SystemExit if there is none."""
    lines = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]).splitlines()
    for line in lines:
        uri, _, release = line.partition(" ")
        if "-" not in release and "security" not in uri:
            return uri
    raise SystemExit("apt has no Debian archive in its sources; add one and run 'apt-get update'")


@cache
def _newest_package(options: tuple[str, ...], flavour: str) -> str:
    """Return the package name of the newest kernel. The cache saves most of a second of apt at every boot."""
    text = run(["apt-cache", *options, "depends", f"linux-image-{flavour}"])
    found = re.search(rf"Depends: (linux-image-\S+-{flavour})", text)
    if found is None:
        raise SystemExit(f"apt knows no linux-image-{flavour}; run 'apt-get update'")
    return found[1]


def _fetch_kernel(into: Path, name: str, package: str, options: list[str]) -> None:
    wanted = [package]
    depends = run(["apt-cache", *options, "depends", package])
    # Newer releases have separate packages for the modules or the image.
    wanted += sorted(set(re.findall(r"Depends: (linux-(?:modules|binary|image)-\S+)", depends)) - {package})
    run([APT_GET, *options, "download", *wanted], cwd=into)
    for deb in into.glob("*.deb"):
        run(["dpkg", "-x", deb, into / "root"])
        deb.unlink()
    version = package.removeprefix("linux-image-")
    _move_modules(into / "root")
    if name.endswith(_FULL):
        for folder in _UNUSED_DRIVERS:
            shutil.rmtree(into / "root/lib/modules" / version / "kernel" / folder, ignore_errors=True)
    if name == NATIVE:
        _install_test_modules(into / "root/lib/modules" / version, version)
    run(["depmod", "-b", into / "root", version])
    (into / _UNPACKED).write_bytes(unpack_image(_image_path(into / "root", version)))
    if name == NATIVE:
        _gzip_modules(into / "root/lib/modules" / version)


def _move_modules(root: Path) -> None:
    """Move usr/lib/modules to lib/modules, where older releases put it."""
    if not (root / "lib/modules").exists():
        (root / "lib").mkdir(exist_ok=True)
        (root / "usr/lib/modules").rename(root / "lib/modules")


def _install_test_modules(folder: Path, version: str) -> None:
    """Build test modules against the kernel's headers and install them. Those named *_xz or *_zst are compressed."""
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
    """Compress smp_*_gz.ko after depmod has read them, and keep their names: Debian's depmod cannot read gzip."""
    for module in (folder / "updates").glob("*_gz.ko"):
        module.write_bytes(gzip.compress(module.read_bytes(), mtime=0))


def _version_image_root(folder: Path) -> tuple[str, Path, Path]:
    root = folder / "root"
    version = next((root / "lib/modules").iterdir()).name
    return version, folder / _UNPACKED, root


def _image_path(root: Path, version: str) -> Path:
    """Return the path of the image: in /boot, or since Linux 7.0 beside its modules."""
    image = root / "lib/modules" / version / "vmlinuz"
    return image if image.exists() else root / "boot" / f"vmlinuz-{version}"


_UNPACKED = "vmlinux"
_SECTOR = 512
_SETUP_SECTORS, _SIZE_LENGTH, _PAYLOAD = 0x1F1, 4, 0x248
"""Fields of a bzImage (the kernel's Documentation/arch/x86/boot.rst), in bytes.

The first is the offset of setup_sects, the number of sectors before the protected-mode code. The second is the length
of the unpacked size at the payload's end. The third is the offset of payload_offset and payload_length.
"""
_TOOLS = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz"}
"""The program that unpacks a payload, by its first four bytes."""


def unpack_image(image: Path) -> bytes:
    """Return the ELF kernel of a bzImage. QEMU starts it as a Xen PVH guest.

    Unpacking in the guest would take up to three seconds a boot. Raises SystemExit for an unknown compression format.
    """
    whole = image.read_bytes()
    offset, length = struct.unpack_from("<II", whole, _PAYLOAD)
    payload = whole[(whole[_SETUP_SECTORS] + 1) * _SECTOR + offset :][: length - _SIZE_LENGTH]
    tool = _TOOLS.get(payload[:4])
    if tool is None:
        raise SystemExit(
            f"{image}: the kernel in it begins with {payload[:4]!r}, which is none of {', '.join(_TOOLS.values())};"
            " add a tool that unpacks it to _TOOLS in tests/vm/kernels.py"
        )
    return subprocess.run([tool, "-dcq"], input=payload, stdout=subprocess.PIPE, check=True).stdout
