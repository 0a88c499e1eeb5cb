"""The scan by two readers: ELF objects with one wrong field each, real compression, real crashes of libkmod."""

import gzip
import json
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.modules import scan as scan_module
from safe_modprobe.admin.modules.scan import Scanned, module_files, scan
from safe_modprobe.capability import SYS_MODULE
from safe_modprobe.errors import UsageError
from safe_modprobe.model import UNMARKED, Marker
from tests.tree.build import VERSION, Mod, build_tree
from tests.tree.elf import MODINFO, SHT_NOBITS, elf, section
from tests.unit.child import ctl

TEXT, INFO = (b".text", b"\x90" * 16), (b".modinfo", MODINFO)
GOOD = elf(TEXT, INFO)
HUGE, MOST = 1 << 63, (1 << 64) - 1


def modinfo(*pairs: bytes) -> bytes:
    return elf(TEXT, (b".modinfo", b"".join(pair + b"\0" for pair in pairs)))


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, check=True, capture_output=True).stdout


def sections_in_section_0(count: int) -> bytes:
    """Return an object with e_shnum 0 and the number in the first section header (gABI), which libkmod ignores."""
    made = bytearray(elf(TEXT, INFO, e_shnum=0))
    (table,) = struct.unpack_from("<Q", made, 40)
    struct.pack_into("<Q", made, table + 32, count)
    return bytes(made)


class Row(NamedTuple):
    data: bytes
    findings: tuple[str, ...] = ()
    written: str | None = "Y"


def unread(why: str, kmod: str = "Invalid argument") -> tuple[str, ...]:
    return f"libkmod cannot read it: modinfo: {kmod}", why


def both(why: str, kmod: str = "Invalid argument") -> tuple[str, ...]:
    return f"libkmod cannot read it: modinfo: {kmod}", f"pyelftools cannot read it: {why}"


CRASH = ("reading it crashes the worker process",)
NO_FILE = "No such file or directory"
OVERFLOW = "OverflowError: Python int too large to convert to C ssize_t"
BEYOND = ".modinfo runs {} bytes past the end of the file"

ROWS = {
    # Valid modules.
    "good": Row(GOOD),
    "xz": Row(lzma.compress(GOOD, check=lzma.CHECK_CRC32)),
    "zst": Row(zstd(GOOD)),
    "gz": Row(gzip.compress(GOOD)),
    "unmarked": Row(modinfo(b"license=GPL"), written=None),
    "unprivileged": Row(modinfo(b"privileged=N"), written="N"),
    "capability": Row(modinfo(b"privileged=CAP_NET_ADMIN"), written="CAP_NET_ADMIN"),
    "twice_the_same": Row(modinfo(b"privileged=Y", b"privileged=Y")),
    # Not an ELF object.
    "empty": Row(b"", both("ValueError: cannot mmap an empty file"), None),
    "text": Row(b"hello\n", both("ELFError: Magic number does not match", "Exec format error"), None),
    "script": Row(b"#!/bin/sh\nexit 0\n", both("ELFError: Magic number does not match", "Exec format error"), None),
    "magic": Row(b"\x7fELF", both("ELFError: Invalid EI_CLASS b''"), None),
    "cut_in_header": Row(GOOD[:40], both("ELFParseError: expected 8, found 0"), None),
    "header_only": Row(GOOD[:64], both("ValueError: seek out of range"), None),
    "cut_before_table": Row(GOOD[:-256], both("ELFParseError: expected 4, found 0"), None),
    "cut_in_table": Row(GOOD[:-30], both("ELFParseError: expected 8, found 2"), None),
    "class_0": Row(GOOD[:4] + b"\0" + GOOD[5:], both("ELFError: Invalid EI_CLASS b'\\x00'"), None),
    "class_9": Row(GOOD[:4] + b"\x09" + GOOD[5:], both("ELFError: Invalid EI_CLASS b'\\t'"), None),
    "data_0": Row(GOOD[:5] + b"\0" + GOOD[6:], both("ELFError: Invalid EI_DATA b'\\x00'"), None),
    "other_endian": Row(GOOD[:5] + b"\x02" + GOOD[6:], both(OVERFLOW), None),
    "other_class": Row(GOOD[:4] + b"\x01" + GOOD[5:], both("IndexError: list index out of range"), None),
    # Wrong fields about the table of sections.
    "table_far": Row(elf(TEXT, INFO, e_shoff=1 << 40), both("ValueError: seek out of range"), None),
    "table_huge": Row(elf(TEXT, INFO, e_shoff=HUGE), both(OVERFLOW), None),
    "table_at_the_end": Row(elf(TEXT, INFO, e_shoff=MOST), both(OVERFLOW), None),
    "many_sections": Row(elf(TEXT, INFO, e_shnum=0xFEFF), both("ELFParseError: expected 4, found 0"), None),
    "big_entries": Row(elf(TEXT, INFO, e_shentsize=0xFFFF), both("ValueError: seek out of range"), None),
    "no_entries": Row(elf(TEXT, INFO, e_shentsize=0), unread("no .modinfo section"), None),
    "tiny_entries": Row(elf(TEXT, INFO, e_shentsize=1), unread("no .modinfo section"), None),
    "names_are_text": Row(elf(TEXT, INFO, e_shstrndx=1), unread("no .modinfo section"), None),
    "names_far": Row(section(GOOD, 3, sh_offset=1 << 62), unread("no .modinfo section"), None),
    # Objects on which libkmod aborts the process.
    "no_sections": Row(elf(TEXT, INFO, e_shnum=0), CRASH, None),
    "no_table": Row(elf(TEXT, INFO, e_shoff=0, e_shnum=0), CRASH, None),
    "names_nowhere": Row(elf(TEXT, INFO, e_shstrndx=9), CRASH, None),
    "names_none": Row(elf(TEXT, INFO, e_shstrndx=0), CRASH, None),
    "names_extended": Row(elf(TEXT, INFO, e_shstrndx=0xFFFF), CRASH, None),
    "sections_without_end": Row(sections_in_section_0(1 << 40), CRASH, None),
    # Wrong fields about .modinfo.
    "none": Row(elf(TEXT), unread("no .modinfo section", NO_FILE), None),
    "nearly_the_name": Row(elf(TEXT, (b".modinfo.x", MODINFO)), unread("no .modinfo section", NO_FILE), None),
    "name_far": Row(section(GOOD, 2, sh_name=1 << 31), unread("no .modinfo section", NO_FILE), None),
    "two": Row(
        elf(INFO, TEXT, (b".modinfo", b"license=GPL\0privileged=N\0")),
        ("2 .modinfo sections: libkmod reads the first, pyelftools the last",
         "libkmod and pyelftools read different values of 'alias', 'privileged'"),
    ),
    "two_the_same": Row(elf(INFO, INFO), ("2 .modinfo sections: libkmod reads the first, pyelftools the last",)),
    "past_the_end": Row(section(GOOD, 2, sh_size=1 << 20), unread(BEYOND.format((1 << 20) - 323), NO_FILE), None),
    "size_huge": Row(section(GOOD, 2, sh_size=HUGE), unread(BEYOND.format(HUGE - 323), NO_FILE), None),
    "size_most": Row(section(GOOD, 2, sh_size=MOST), unread(BEYOND.format(MOST - 323), NO_FILE), None),
    "beyond": Row(section(GOOD, 2, sh_offset=1 << 20), unread(BEYOND.format(41), NO_FILE), None),
    "beyond_huge": Row(section(GOOD, 2, sh_offset=HUGE), unread(BEYOND.format(41), NO_FILE), None),
    "beyond_most": Row(section(GOOD, 2, sh_offset=MOST), unread(BEYOND.format(41), NO_FILE), None),
    "by_one": Row(section(GOOD, 2, sh_offset=len(GOOD) - 40), unread(BEYOND.format(1), NO_FILE), None),
    "nobits": Row(
        elf(TEXT, INFO, kinds={2: SHT_NOBITS}),
        (BEYOND.format(41), "libkmod and pyelftools read different values of 'license', 'alias', 'privileged'"),
    ),
    "no_nul": Row(elf(TEXT, (b".modinfo", MODINFO[:-1])), ("the last string of .modinfo has no NUL",)),
    "empty_modinfo": Row(elf(TEXT, (b".modinfo", b"")), (".modinfo is empty",), None),
    "only_nuls": Row(elf(TEXT, (b".modinfo", bytes(50))), (".modinfo is empty",), None),
    # Invalid markers.
    "no_value": Row(modinfo(b"privileged"), ("its marker privileged= has no known value ('')",), None),
    "lower": Row(modinfo(b"privileged=y"), ("its marker privileged= has no known value ('y')",), None),
    "odd": Row(modinfo(b"privileged=\xff\n<b>"), ("its marker privileged= has no known value ('\\udcff\\n<b>')",), None),
    "torn": Row(
        modinfo(b"privileged=N", b"privileged=Y"), ("its marker privileged= has several values ('N', 'Y')",), None
    ),
    # Broken compression.
    "xz_cut": Row(
        lzma.compress(GOOD)[:60],
        ("unreadable: the xz file is broken: Compressed data ended before the end-of-stream marker was reached",), None,
    ),
    "xz_not": Row(b"\xfd7zXZ\0 and no more", ("unreadable: the xz file is broken: Corrupt input data",), None),
    "gz_cut": Row(gzip.compress(GOOD)[:60], ("unreadable: the gzip file is cut short",), None),
    "zst_cut": Row(zstd(GOOD)[:60], ("unreadable: the zstd file is broken: it ends in the middle of a frame",), None),
    "xz_of_text": Row(lzma.compress(b"hello\n"), both("ELFError: Magic number does not match", "Exec format error"), None),
}  # fmt: skip


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scanned]:
    """Scan all rows at once, so that a crash of one could affect the others."""
    folder = tmp_path_factory.mktemp("modules")
    for name, row in ROWS.items():
        (folder / f"{name}.ko").write_bytes(row.data)
    os.mkfifo(folder / "a_pipe.ko")
    (folder / "a_folder.ko").mkdir()
    (folder / "nowhere.ko").symlink_to("gone")
    (folder / "modules.dep").write_text("kernel/missing.ko.xz: good.ko\nno line of its\n")
    found = {each.module: each for each in scan(str(folder), module_files(str(folder)))}
    assert len(found) == len(ROWS) + 3
    return found


@pytest.mark.parametrize("name", ROWS)
def test_findings_of_both_readers(scanned: dict[str, Scanned], name: str) -> None:
    row = ROWS[name]
    assert scanned[name].findings == row.findings
    if row.written is not None:
        assert (scanned[name].marker.written, scanned[name].path) == (row.written, f"{name}.ko")
    elif row.findings and row.findings != (".modinfo is empty",):
        assert scanned[name].marker.capability == SYS_MODULE  # doubt is privilege
    else:
        assert scanned[name].marker == UNMARKED


@pytest.mark.parametrize(
    ("name", "path", "finding"),
    [
        ("a_pipe", "a_pipe.ko", "unreadable: it is not a file"),
        ("nowhere", "nowhere.ko", "unreadable: No such file or directory"),
        ("missing", "kernel/missing.ko.xz", "unreadable: No such file or directory"),
    ],
)
def test_a_path_without_a_regular_file_is_unreadable(
    scanned: dict[str, Scanned], name: str, path: str, finding: str
) -> None:
    assert scanned[name] == Scanned(path, name, (), Marker(finding, SYS_MODULE), (finding,))


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, zstd], ids=["xz", "gz", "zst"])
def test_a_decompression_bomb_is_unreadable(
    tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "_MAX_BYTES", 1 << 20)  # the workers are forks of this process
    (tmp_path / "bomb.ko").write_bytes(pack(bytes(1 << 23)))
    (tmp_path / "good.ko").write_bytes(GOOD)
    found = {each.module: each.findings for each in scan(str(tmp_path), ["bomb.ko", "good.ko"])}
    assert found == {"bomb": ("unreadable: File too large",), "good": ()}


@pytest.mark.parametrize("crashers", [[0], [119], [0, 1, 2], [7, 60, 61, 118]], ids=str)
def test_a_crash_affects_no_other_module(tmp_path: Path, crashers: list[int]) -> None:
    for number in range(120):
        (tmp_path / f"m{number}.ko").write_bytes(ROWS["no_sections"].data if number in crashers else GOOD)
    found = list(scan(str(tmp_path), module_files(str(tmp_path))))
    assert len(found) == 120
    assert {each.module for each in found if each.findings} == {f"m{number}" for number in crashers}


def test_an_empty_folder_has_no_modules(tmp_path: Path) -> None:
    assert list(scan(str(tmp_path), module_files(str(tmp_path)))) == []


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        module_files(f"{tmp_path}/9.9")
    assert str(raised.value) == f"{tmp_path}/9.9: no such folder of modules; check --root and --kernel"


MODULES = (
    Mod("plain", ("pci:v1d2", "net-pf-99")),
    Mod("marked", ("fs-marked",), info=(b"privileged=CAP_SYS_ADMIN",), pack="xz"),
    Mod("base"),
    Mod("sch_up", ("net-sch-up", "sch_up"), depends=("base",)),
    Mod("hostile", ("net-pf-\x1b(B\N{RIGHT-TO-LEFT OVERRIDE}<b>",)),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("root")
    build_tree(made, MODULES)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["scan", *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_json_has_all_modules_and_classes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--root", str(root), "--json")
    found = json.loads(out)
    modules = {each["module"]: each for each in found["modules"]}
    assert (code, err, found["kernel"], found["folder"]) == (0, "", VERSION, f"{root}/lib/modules/{VERSION}")
    assert {name: each["class"] for name, each in modules.items()} == {
        "plain": "user", "marked": "userns", "base": "none", "sch_up": "userns", "hostile": "user",
    }  # fmt: skip
    assert modules["marked"]["needs"] == "CAP_SYS_ADMIN" and modules["marked"]["path"] == "kernel/marked.ko"
    assert [each["request"] for each in modules["sch_up"]["requests"]] == ["net-sch-up", "sch_up"]
    assert found["classes"]["userns"] == {"modules": 2, "marked": 1, "odd": 0}
    assert sum(each["modules"] for each in found["classes"].values()) == len(MODULES)


def test_text_has_a_summary_and_the_marked_modules(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--root", str(root))
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert lines[0] == f"5 modules of {VERSION}, each read by libkmod and by pyelftools"
    assert "root of a user namespace userns 2 1 0" in lines
    assert lines[-1] == "marked userns CAP_SYS_ADMIN fs-marked kernel/marked.ko"
    assert "hostile" not in out


def test_option_all_lists_every_module_with_escaped_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--root", str(root), "--all")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "sch_up userns net-sch-up (+1) kernel/sch_up.ko" in lines
    assert "hostile user net-pf-\\x1b(B\\xe2\\x80\\xae<b> kernel/hostile.ko" in lines
    assert not any(char in out for char in "\x1b\N{RIGHT-TO-LEFT OVERRIDE}")


def test_findings_give_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build_tree(tmp_path, MODULES[:1])
    (folder / "kernel/odd\x1b.ko").write_bytes(ROWS["torn"].data)
    code, out, _ = run(capsys, "--root", str(tmp_path))
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 1
    assert lines[-3:] == [
        "modules with findings: 1 of 2",
        "file finding",
        "kernel/odd\\x1b.ko its marker privileged= has several values ('N', 'Y')",
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--root", "/nowhere"], "--root: /nowhere: no such folder; give the root folder of a system"),
        (["--kernel", "9.9"], "/lib/modules/9.9: no such folder of modules; check --root and --kernel"),
    ],
)
def test_wrong_root_and_kernel(capsys: pytest.CaptureFixture[str], arguments: list[str], error: str) -> None:
    assert run(capsys, *arguments) == (1, "", f"safe-modprobectl: {error}\n")


def test_missing_pyelftools_is_one_sentence(root: Path) -> None:
    done = ctl("scan", "--root", root, before="sys.modules['elftools'] = None")
    message = "the Python module elftools is missing; install it (Debian package python3-pyelftools)"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"safe-modprobectl: {message}\n")
