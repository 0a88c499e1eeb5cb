"""unpack_image() knows the compression formats of Debian's kernels and names any other in its error."""

import struct
import subprocess
from pathlib import Path

import pytest

from tests.vm.kernels import unpack_image

KERNEL = b"\x7fELF" + bytes(5000) + b"the kernel"
SECTORS = 3

TOOLS = {"lz4": ("lz4", "-lcq"), "zstd": ("zstd", "-cq"), "xz": ("xz", "-cq", "--check=crc32")}


def image(payload: bytes, into: Path) -> Path:
    """Write a bzImage with this payload: setup sectors, then 100 bytes, the payload and its unpacked size."""
    head = bytearray((SECTORS + 1) * 512)
    head[0x1F1] = SECTORS
    struct.pack_into("<II", head, 0x248, 100, len(payload) + 4)
    path = into / "vmlinuz"
    path.write_bytes(bytes(head) + bytes(100) + payload + struct.pack("<I", len(KERNEL)) + b"more")
    return path


@pytest.mark.parametrize("tool", TOOLS)
def test_a_compressed_kernel_is_unpacked(tmp_path: Path, tool: str) -> None:
    packed = subprocess.run(TOOLS[tool], input=KERNEL, stdout=subprocess.PIPE, check=True).stdout
    assert unpack_image(image(packed, tmp_path)) == KERNEL


UNKNOWN_FORMATS = {
    "gzip": (b"\x1f\x8b\x08\0" + bytes(99), r"b'\x1f\x8b\x08\x00'"),
    "nothing": (b"", "b''"),
}


@pytest.mark.parametrize("name", UNKNOWN_FORMATS)
def test_the_error_shows_the_first_bytes_of_an_unknown_format(tmp_path: Path, name: str) -> None:
    payload, begins = UNKNOWN_FORMATS[name]
    path = image(payload, tmp_path)
    with pytest.raises(SystemExit) as error:
        unpack_image(path)
    assert str(error.value) == (
        f"{path}: the kernel in it begins with {begins}, which is none of lz4, zstd, xz; add a tool that unpacks it"
        " to _TOOLS in tests/vm/kernels.py"
    )
