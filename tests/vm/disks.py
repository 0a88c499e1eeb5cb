"""Make what a guest boots from: a disk image, and an initramfs if the kernel has the disk's drivers as modules."""

import shutil
import struct
from inspect import getsource
from pathlib import Path

from tests.vm.cache import Progress, cached, digest, run, say
from tests.vm.kernels import Kernel
from tests.vm.roots import root

_UNPACK = Path(__file__).parent / "guest/unpack"
_DRIVERS = ("nvme", "ext4")
"""Drivers of the root disk: built into Debian's cloud kernels, modules in the full kernel."""
_CHECKSUMS = ("crc32c_generic", "crc32c_intel")
"""Modules that the kernel requests when ext4 loads."""
_FREE = 512 << 20
"""Free space for the guest, in bytes. The image file is sparse."""
_SIGNATURE, _START = 0x5AFE0001, 1 << 20
"""The disk's signature, from which its partition's PARTUUID follows, and the partition's offset in bytes."""
ROOT = f"PARTUUID={_SIGNATURE:08x}-01"
"""The value of root=. Device names are unreliable: kernels probe disks in parallel and number them in any order."""


def disk(name: str, linux: Kernel, progress: Progress = say) -> Path:
    """Return a disk image of this root with that kernel's modules and /unpack, the kernel's init.

    /unpack adds the second disk's files. A disk is faster than an initramfs: under emulation, reading the files in use
    takes a quarter of the time of unpacking all.
    """
    tree = root(name, progress) / "tree"

    def make(into: Path) -> None:
        whole = into / "tree"
        run(["cp", "-al", tree, whole])
        run(["cp", "-al", linux.root / "lib/modules", whole / "usr/lib"])
        shutil.copy(_UNPACK, whole)
        size = int(run(["du", "-s", "-B1", whole]).split()[0])
        image = into / "disk.img"
        blocks = (size * 5 // 4 + _FREE) // _BLOCK
        with image.open("wb") as file:
            file.write(_partition_table(blocks * _BLOCK))
            file.truncate(_START + blocks * _BLOCK)
        where = ["-b", str(_BLOCK), "-E", f"offset={_START}", "-d", whole, image, str(blocks)]
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", *where])
        shutil.rmtree(whole)

    key = digest(str(tree), str(linux.root), getsource(disk), getsource(_partition_table), _UNPACK)
    return cached(f"disk-{name}-{linux.name}", key, make, progress) / "disk.img"


_BLOCK, _SECTOR = 4096, 512


def _partition_table(size: int) -> bytes:
    """Return a master boot record with one Linux partition of `size` bytes."""
    entry = struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", _START // _SECTOR, size // _SECTOR)
    return struct.pack("<440xI2x16s48x2s", _SIGNATURE, entry, b"\x55\xaa")


def initrd(name: str, linux: Kernel, progress: Progress = say) -> Path | None:
    """Return an initramfs with the drivers of the root disk, or None if the kernel has them built in."""
    folder = linux.root / "lib/modules" / linux.version
    files = _files_to_insert(folder)
    if files.keys().isdisjoint(_DRIVERS):
        return None

    def make(into: Path) -> None:
        tree = into / "tree"
        for needed in ("bin", "dev", "root"):
            (tree / needed).mkdir(parents=True)
        shutil.copy(root(name, progress) / "tree/usr/bin/busybox", tree / "bin")
        for applet in ("sh", "insmod", "mount", "sleep", "switch_root", "umount"):
            (tree / "bin" / applet).symlink_to("busybox")
        modules = dict.fromkeys(path for name in (*_CHECKSUMS, *_DRIVERS) for path in files[name])
        for module in modules:
            shutil.copy(folder / module, tree)
        inserts = [f"insmod /{Path(module).name}" for module in modules]
        (tree / "init").write_text("\n".join(["#!/bin/sh -e", *inserts, _SWITCH]))
        (tree / "init").chmod(0o755)
        archive(tree, into / "initrd.cpio")

    key = digest(str(linux.root), getsource(make), _SWITCH)
    return cached(f"initrd-{linux.name}", key, make, progress) / "initrd.cpio"


_SWITCH = """\
mount -t devtmpfs dev /dev
until mount -t ext4 /dev/nvme?n1p1 /root; do sleep 0.1; done 2>/dev/null
umount /dev
exec switch_root /root /unpack
"""


def _files_to_insert(folder: Path) -> dict[str, list[str]]:
    """Map each module to the files to insert for it, in order: dependencies, then its own (modules.dep, depmod(8))."""
    lines = [line.partition(":") for line in (folder / "modules.dep").read_text().splitlines()]
    return {
        Path(path).name.partition(".")[0].replace("-", "_"): [*reversed(rest.split()), path] for path, _, rest in lines
    }


def archive(tree: Path, to: Path) -> None:
    """Write a folder as a newc archive, all files owned by root."""
    run(["sh", "-c", 'cd "$1" && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0 > "$2"', "sh", tree, to])
