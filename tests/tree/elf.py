"""Build small ELF objects, valid or wrong in one field. Only struct is used, so that every byte can be wrong."""

import struct

MODINFO = b"license=GPL\0alias=net-pf-99\0privileged=Y\0"
_HEADER, _SECTION = 64, 64
OFFSETS = {"e_shoff": (40, "<Q"), "e_shentsize": (58, "<H"), "e_shnum": (60, "<H"), "e_shstrndx": (62, "<H")}
"""Fields of the ELF header: offset in bytes, and format for struct."""

SHT_PROGBITS, SHT_STRTAB, SHT_NOBITS = 1, 3, 8


def elf(*sections: tuple[bytes, bytes], kinds: dict[int, int] | None = None, **header: int) -> bytes:
    """Return a 64-bit relocatable object with these (name, content) sections.

    `kinds` sets section types other than PROGBITS, by index from 1. `header` overrides fields of OFFSETS.
    """
    names = b"\0" + b"".join(name + b"\0" for name, _ in sections) + b".shstrtab\0"
    data, rows, name_at = b"", [bytes(_SECTION)], 1
    for index, (name, content) in enumerate((*sections, (b".shstrtab", names)), 1):
        kind = (kinds or {}).get(index, SHT_STRTAB if name == b".shstrtab" else SHT_PROGBITS)
        rows.append(struct.pack("<IIQQQQIIQQ", name_at, kind, 2, 0, _HEADER + len(data), len(content), 0, 0, 1, 0))
        data += content
        name_at += len(name) + 1
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    table = _HEADER + len(data)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, len(rows), len(rows) - 1)
    made = bytearray(head + data + b"".join(rows))
    for field, value in header.items():
        place, how = OFFSETS[field]
        struct.pack_into(how, made, place, value)
    return bytes(made)


def section(made: bytes, index: int, **fields: int) -> bytes:
    """Return the object with other sh_offset, sh_size or sh_name in the header of one section."""
    places = {"sh_name": (0, "<I"), "sh_offset": (24, "<Q"), "sh_size": (32, "<Q")}
    changed = bytearray(made)
    (table,) = struct.unpack_from("<Q", made, 40)
    for field, value in fields.items():
        place, how = places[field]
        struct.pack_into(how, changed, table + index * _SECTION + place, value)
    return bytes(changed)
