"""Read a module's .modinfo with pyelftools, as a second reader to compare with libkmod.

The helper must not import this: pyelftools' SECURITY.md keeps it off a security boundary. Of two .modinfo sections it
returns the last, and libkmod the first. It silently cuts a section that runs past the end of the file. This module
reports both.
"""

import mmap
import os
from struct import error as StructError  # noqa: N812 - it is an exception class
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from safe_modprobe.errors import UntrustedInputError, reason_of
from safe_modprobe.light_types import NamedTuple

_SECTION = b".modinfo\0"
_MAX_SECTIONS = 0xFFFF
"""The ELF header's e_shnum has 16 bits. With -ffunction-sections a module can have thousands."""

_ESCAPES = (
    ELFError,
    ConstructError,
    StructError,
    OSError,
    EOFError,
    ArithmeticError,  # OverflowError for a seek beyond 2**63
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""All exceptions that pyelftools was seen to raise for broken files."""


class Modinfo(NamedTuple):
    """The (key, value) pairs of .modinfo in the file's order, and a sentence for each oddity of the section."""

    pairs: tuple[tuple[str, str], ...] = ()
    findings: tuple[str, ...] = ()


def read_modinfo(fd: int) -> Modinfo:
    """Return the .modinfo of the ELF object open at `fd`.

    Raises UntrustedInputError for every error of pyelftools.
    """
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as stream:
            return _read(stream)
    except _ESCAPES as error:
        raise UntrustedInputError(": ".join(filter(None, (type(error).__name__, reason_of(error))))) from None


def _read(stream: mmap.mmap) -> Modinfo:
    elf = ELFFile(stream)
    if elf.num_sections() > _MAX_SECTIONS:
        raise ELFError(f"{elf.num_sections()} sections, and a module has at most {_MAX_SECTIONS}")
    # Parse only the headers. ELFFile.iter_sections() makes an object of each section, which takes twice the time.
    headers = [_header(elf, stream, index) for index in range(elf.num_sections())]
    names = headers[elf.get_shstrndx()]["sh_offset"]
    found = [each for each in headers if _at(stream, names + each["sh_name"], len(_SECTION)) == _SECTION]
    if not found:
        return Modinfo((), ("no .modinfo section",))
    findings = []
    if len(found) > 1:
        findings.append(f"{len(found)} .modinfo sections: libkmod reads the first, pyelftools the last")
    last = found[-1]
    raw = b"" if last["sh_type"] == "SHT_NOBITS" else _at(stream, last["sh_offset"], last["sh_size"])
    missing = last["sh_size"] - len(raw)
    if missing:
        findings.append(f".modinfo runs {missing} bytes past the end of the file")
    elif not raw.strip(b"\0"):
        findings.append(".modinfo is empty")
    elif not raw.endswith(b"\0"):
        findings.append("the last string of .modinfo has no NUL")
    return Modinfo(tuple(_pair(each) for each in raw.split(b"\0") if each), tuple(findings))


def _header(elf: ELFFile, stream: mmap.mmap, index: int) -> dict[str, Any]:
    offset = elf["e_shoff"] + index * elf["e_shentsize"]
    parsed: dict[str, Any] = struct_parse(elf.structs.Elf_Shdr, stream, stream_pos=offset)
    return parsed


def _at(stream: mmap.mmap, offset: int, size: int) -> bytes:
    """Return the bytes at this offset, fewer than `size` at the end of the file."""
    return stream[offset : offset + size]


def _pair(raw: bytes) -> tuple[str, str]:
    key, _, value = os.fsdecode(raw).partition("=")
    return key, value
