"""Turn a module's file into the descriptor that the kernel loads, decompressed if the kernel cannot do that.

The helper loads what it inspected: it opens a file once, and seals a decompressed copy before reading it.
"""

import fcntl
import os

from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.runtime import read

_MAGIC = {b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}
_KERNEL_KNOWS = "/sys/module/compression"
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_CHUNK = 1 << 20


def compression(fd: int) -> str | None:
    """Return `xz`, `zstd` or `gzip` (the kernel's names) by the file's first bytes, None for any other content."""
    start = os.pread(fd, 6, 0)
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def kernel_decompresses() -> str | None:
    """Return the one compression that this kernel's finit_module(2) accepts (MODULE_INIT_COMPRESSED_FILE), if any."""
    try:
        return read(_KERNEL_KNOWS).decode("ascii", "replace").strip()
    except OSError:
        return None


def sealed_copy(fd: int, kind: str) -> int:
    """Decompress the module into sealed memory, which cannot change any more, and return its descriptor.

    Raises OSError, and UntrustedInputError if the content does not have the format `kind`.
    """
    writable = os.memfd_create("module", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _DECOMPRESS[kind](fd, writable)
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, _SEALS)
        # finit_module(2) refuses a file that is open for writing (ETXTBSY).
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _xz(source: int, target: int) -> None:
    import lzma  # needed only if the kernel cannot decompress

    try:
        _write(target, lzma.decompress(_read_all(source)))
    except (lzma.LZMAError, EOFError) as error:
        raise UntrustedInputError(f"the xz file is broken: {error}") from None


def _gzip(source: int, target: int) -> None:
    import zlib  # needed only if the kernel cannot decompress; Debian's libkmod cannot read gzip either

    data = _read_all(source)
    try:
        while data:
            member = zlib.decompressobj(wbits=31)
            _write(target, member.decompress(data) + member.flush())
            if not member.eof:
                raise UntrustedInputError("the gzip file is cut short")
            data = member.unused_data
    except zlib.error as error:
        raise UntrustedInputError(f"the gzip file is broken: {error}") from None


def _zstd(source: int, target: int) -> None:
    from safe_modprobe.zstd import decompress  # needed only if the kernel cannot decompress

    os.lseek(source, 0, os.SEEK_SET)
    try:
        decompress(source, target)
    except ValueError as error:
        raise UntrustedInputError(f"the zstd file is broken: {error}") from None


_DECOMPRESS = {"xz": _xz, "zstd": _zstd, "gzip": _gzip}


def _read_all(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    chunks = []
    while chunk := os.read(fd, _CHUNK):
        chunks.append(chunk)
    return b"".join(chunks)
