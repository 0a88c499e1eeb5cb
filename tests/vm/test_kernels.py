"""What the guests' kernels are unpacked from: the formats that Debian packs them in, and a word for any other."""

import struct
import subprocess
from pathlib import Path

import pytest

from tests.vm.kernels import _unpacked

KERNEL = b"\x7fELF" + bytes(5000) + b"the kernel"
SECTORS = 3

TOOLS = {"lz4": ("lz4", "-lcq"), "zstd": ("zstd", "-cq"), "xz": ("xz", "-cq", "--check=crc32")}


def image(payload: bytes, into: Path) -> Path:
    """A bzImage around it: what comes before the protected mode's code, and in that the payload and its size."""
    head = bytearray((SECTORS + 1) * 512)
    head[0x1F1] = SECTORS
    struct.pack_into("<II", head, 0x248, 100, len(payload) + 4)
    path = into / "vmlinuz"
    path.write_bytes(bytes(head) + bytes(100) + payload + struct.pack("<I", len(KERNEL)) + b"more")
    return path


@pytest.mark.parametrize("tool", TOOLS)
def test_a_kernel_is_unpacked(tmp_path: Path, tool: str) -> None:
    packed = subprocess.run(TOOLS[tool], input=KERNEL, stdout=subprocess.PIPE, check=True).stdout
    assert _unpacked(image(packed, tmp_path)) == KERNEL


OTHERS = {
    "gzip": (b"\x1f\x8b\x08\0" + bytes(99), r"b'\x1f\x8b\x08\x00'"),
    "nothing": (b"", "b''"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_format_that_nobody_knows_is_named(tmp_path: Path, what: str) -> None:
    payload, begins = OTHERS[what]
    path = image(payload, tmp_path)
    with pytest.raises(SystemExit) as error:
        _unpacked(path)
    assert str(error.value) == (
        f"{path}: the kernel in it begins with {begins}, which is none of lz4, zstd, xz; give tests/vm/kernels.py's"
        " _TOOLS who unpacks it"
    )
