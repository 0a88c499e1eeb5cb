"""From a plain or compressed module file to the descriptor that the kernel gets, with real files and memfds."""

import fcntl
import gzip
import lzma
import os
import random
import subprocess
from pathlib import Path

import pytest

from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.modules import image
from safe_modprobe.modules.image import compression, kernel_decompresses, sealed_copy
from tests.unit.descriptors import nothing_left_open

MODULE = b"\x7fELF" + random.Random(1).randbytes(300_000) + bytes(200_000)
F_SEAL_ALL = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, check=True, capture_output=True).stdout


def xz(data: bytes, check: int = lzma.CHECK_CRC64) -> bytes:
    return lzma.compress(data, check=check, preset=0)  # the fastest preset, since each pytest process calls this


PACKED = {
    "xz": xz(MODULE, lzma.CHECK_CRC32),
    "zstd": zstd(MODULE, "--no-check"),
    "gzip": gzip.compress(MODULE, mtime=0),
}


def opened(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


KINDS = [
    (MODULE, None),
    *[(data, kind) for kind, data in PACKED.items()],
    (b"", None),
    (b"\x1f", None),
    (b"\x1f\x8c", None),
    (b"\xfd7zXZ", None),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x28\xb5\x2f\xfc", None),
    (b" \x1f\x8b", None),
    (b"BZh91AY", None),
]


@pytest.mark.parametrize(("data", "kind"), KINDS, ids=map(str, range(len(KINDS))))
def test_compression_is_recognised_by_the_first_bytes(tmp_path: Path, data: bytes, kind: str | None) -> None:
    fd = opened(tmp_path / "module.ko.xz", data)
    os.lseek(fd, 0, os.SEEK_END)
    assert compression(fd) == kind
    os.close(fd)


WHOLE = [
    *PACKED.items(),
    ("xz", xz(MODULE[:7]) + xz(MODULE[7:])),
    ("xz", xz(MODULE, lzma.CHECK_SHA256)),
    ("gzip", gzip.compress(MODULE[:7]) + gzip.compress(MODULE[7:])),
    ("zstd", zstd(MODULE[:7]) + zstd(MODULE[7:])),
    ("zstd", zstd(MODULE, "--check", "-12")),
]


@pytest.mark.parametrize(("kind", "data"), WHOLE, ids=map(str, range(len(WHOLE))))
def test_the_copy_is_the_whole_decompressed_module(tmp_path: Path, kind: str, data: bytes) -> None:
    fd = opened(tmp_path / "m", data)
    os.lseek(fd, 5, os.SEEK_SET)  # the offset that an earlier reader left must not matter
    with nothing_left_open():
        copy = sealed_copy(fd, kind)
        assert os.pread(copy, len(MODULE) + 1, 0) == MODULE
        os.close(copy)
    os.close(fd)


def test_the_copy_cannot_be_changed(tmp_path: Path) -> None:
    fd = opened(tmp_path / "m", PACKED["xz"])
    copy = sealed_copy(fd, "xz")
    assert fcntl.fcntl(copy, fcntl.F_GET_SEALS) == F_SEAL_ALL
    assert fcntl.fcntl(copy, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert not os.get_inheritable(copy)
    again = os.open(f"/proc/self/fd/{copy}", os.O_RDWR)
    for change in (
        lambda: os.pwrite(again, b"x", 0),
        lambda: os.ftruncate(again, 0),
        lambda: os.ftruncate(again, 1 << 20),
    ):
        with pytest.raises(PermissionError):
            change()
    assert os.pread(copy, 4, 0) == b"\x7fELF"
    for each in (again, copy, fd):
        os.close(each)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


BROKEN = [
    *[
        (kind, data[:size])
        for kind, data in PACKED.items()
        for size in (6, 20, len(data) // 2, len(data) - 5, len(data) - 1)
    ],
    *[(kind, PACKED[other]) for kind in PACKED for other in PACKED if kind != other],
    *[(kind, MODULE) for kind in PACKED],
    # A checksum detects one changed byte. xz uses CRC32 here, and zstd has a checksum only with --check.
    ("xz", flipped(PACKED["xz"], 150_000)),
    ("gzip", flipped(PACKED["gzip"], 150_000)),
    ("gzip", flipped(PACKED["gzip"], len(PACKED["gzip"]) - 6)),
    ("zstd", flipped(zstd(MODULE, "--check"), 150_000)),
    ("gzip", PACKED["gzip"] + b"trailing"),
    ("zstd", PACKED["zstd"] + b"trailing"),
]


@pytest.mark.parametrize(("kind", "data"), BROKEN, ids=map(str, range(len(BROKEN))))
def test_a_broken_file_is_an_error(tmp_path: Path, kind: str, data: bytes) -> None:
    fd = opened(tmp_path / "m", data)
    with nothing_left_open(), pytest.raises(UntrustedInputError, match=rf"^the {kind} file is (broken|cut)"):
        sealed_copy(fd, kind)
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "kind"),
    [(b"xz\n", "xz"), (b"gzip\n", "gzip"), (b"zstd\n", "zstd"), (b"", ""), (b"\xff\n", "�"), (None, None)],
)
def test_kernel_decompresses_reads_sysfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes | None, kind: str | None
) -> None:
    """/sys/module/compression exists only with CONFIG_MODULE_DECOMPRESS."""
    path = tmp_path / "compression"
    if text is not None:
        path.write_bytes(text)
    monkeypatch.setattr(image, "_KERNEL_KNOWS", str(path))
    assert kernel_decompresses() == kind
