"""Indexes by depmod and the kernel's build: real ones, and odd ones written in the test."""

from pathlib import Path

import pytest

from safe_modprobe.admin.modules.indexes import module_name, read_indexes
from safe_modprobe.errors import UsageError
from tests.tree.build import Mod, build_tree


def test_the_indexes_of_a_real_tree(tmp_path: Path) -> None:
    folder = build_tree(tmp_path, [Mod("a", ("net-pf-9", "pci:v1*")), Mod("d"), Mod("e")])
    found = read_indexes(str(folder), [])
    assert found.modules == {"a": ["net-pf-9", "pci:v1*"], "d": [], "e": []}
    assert found.built_in == {"built_in": ["fs-built-in"]}


def test_aliases_of_modprobe_d_are_included(tmp_path: Path) -> None:
    folder = build_tree(tmp_path, [Mod("a", ("net-pf-9",))])
    config = tmp_path / "modprobe.d"
    config.mkdir()
    (config / "x.conf").write_text("alias net-pf-8 a\nalias fs-z gone\n")
    assert read_indexes(str(folder), [str(config)]).modules == {
        "a": ["net-pf-9", "net_pf_8"],  # libkmod normalises aliases of modprobe.d
        "gone": ["fs_z"],
    }


ODD = [
    ("", "", None, {}, None),
    ("kernel/a-b.ko.xz: kernel/c.ko\n", "", b"", {"a_b": []}, {}),
    ("no colon\n\n:\n", "# comment\n\nalias\nalias x\nsymbol:a b\n", b"\0\0nodot=1\0", {"": []}, {}),
    ("", "alias a b c m\nalias \xff m\n", b"m.alias=x=y\0m.alias=\0a-b.license=GPL\0", {"m": ["a b c", "\xff"]}, {"m": ["x=y", ""], "a_b": []}),
    ("", "alias <script>alert(1)</script> m\r\n", b"a.b.alias=x", {"m\r": ["<script>alert(1)</script>"]}, {"a.b": ["x"]}),
]  # fmt: skip


@pytest.mark.parametrize(("dep", "alias", "built_in", "modules", "found"), ODD, ids=range(len(ODD)))
def test_odd_index_files(
    tmp_path: Path, dep: str, alias: str, built_in: bytes | None, modules: object, found: object
) -> None:
    (tmp_path / "modules.dep").write_text(dep)
    (tmp_path / "modules.alias").write_text(alias, newline="\n")
    if built_in is not None:
        (tmp_path / "modules.builtin.modinfo").write_bytes(built_in)
    assert tuple(read_indexes(str(tmp_path), [])) == (modules, found)


@pytest.mark.parametrize("gone", ["modules.dep", "modules.alias"])
def test_a_missing_index_is_an_error(tmp_path: Path, gone: str) -> None:
    for name in {"modules.dep", "modules.alias"} - {gone}:
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError) as raised:
        read_indexes(str(tmp_path), [])
    assert str(raised.value) == (
        f"{tmp_path}/{gone}: no such file; check --root and --kernel, or run depmod to index the modules"
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/net/af-alg.ko", "af_alg"), ("x.ko.xz", "x"), ("x.ko.zst", "x"), ("a/b/c-d.ko.gz", "c_d"), ("x", "x"),
        ("", ""), ("a.ko/b.ko", "b"), (".ko", ""), ("a.b-c.ko", "a"), ("v1.2.ko.xz", "v1"),
    ],
)  # fmt: skip
def test_module_name(path: str, name: str) -> None:
    assert module_name(path) == name
