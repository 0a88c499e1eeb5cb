"""Build module trees for tests: ELF objects from the compiler, indexed by depmod."""

import gzip
import lzma
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

VERSION = "1.2.3-test"


class Mod(NamedTuple):
    """A module: its .modinfo, the symbols that it exports and needs, and its compression."""

    name: str
    aliases: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    softdep: str = ""
    info: tuple[bytes, ...] = ()
    filesystem: bool = False
    pack: str = ""  # xz | zst | gz


def build_tree(root: Path, modules: Sequence[Mod]) -> Path:
    """Build root/lib/modules/1.2.3-test, and return its path."""
    folder = root / "lib/modules" / VERSION
    (folder / "kernel").mkdir(parents=True)
    for module in modules:
        _compile(module, folder / "kernel" / f"{module.name}.ko")
    # libkmod requires every index. The kernel's build writes these three.
    (folder / "modules.order").write_text("")
    (folder / "modules.builtin").write_text("kernel/built_in.ko\n")
    (folder / "modules.builtin.modinfo").write_bytes(b"built_in.license=GPL\0built_in.alias=fs-built-in\0")
    subprocess.run(["depmod", "-b", root, VERSION], check=True, capture_output=True)
    # Compress after depmod, because it may not read gzip. The name stays: libkmod detects the format by content.
    for module in modules:
        if module.pack:
            pack(folder / "kernel" / f"{module.name}.ko", module.pack)
    return folder


def pack(path: Path, how: str) -> None:
    """Compress a file in place: xz, zst or gz."""
    data = path.read_bytes()
    if how == "zst":
        data = subprocess.run(["zstd", "-q", "-c"], input=data, check=True, capture_output=True).stdout
    else:
        data = lzma.compress(data, check=lzma.CHECK_CRC32) if how == "xz" else gzip.compress(data)
    path.write_bytes(data)


def _compile(module: Mod, to: Path) -> None:
    pairs = [b"license=GPL", f"name={module.name}".encode(), *module.info]
    pairs += [f"alias={alias}".encode() for alias in module.aliases]
    pairs += [f"depends={','.join(module.depends)}".encode()]
    pairs += [f"softdep={module.softdep}".encode()] if module.softdep else []
    raw = b"".join(pair + b"\0" for pair in pairs)
    needed = [f"symbol_of_{name}" for name in module.depends] + ["register_filesystem"] * module.filesystem
    lines = [
        f'static const char info[] __attribute__((section(".modinfo"), used)) = {{{",".join(map(str, raw))}}};',
        f"int symbol_of_{module.name};",
        # depmod reads the exported symbols from this section.
        f'static const char export[] __attribute__((section("__ksymtab_strings"), used)) = "symbol_of_{module.name}";',
        f'__asm__(".globl __ksymtab_symbol_of_{module.name}\\n__ksymtab_symbol_of_{module.name} = 0");',
        *[f"extern int {name}; void *need_{index} = &{name};" for index, name in enumerate(needed)],
    ]
    source = "\n".join(lines)
    command = ["cc", "-x", "c", "-c", "-fno-pic", "-mcmodel=large", "-o", str(to), "-"]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
