"""The bindings, on real trees."""

import contextlib
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from safe_modprobe import kmod
from safe_modprobe.kmod import BlacklistedError, Kmod, KmodError
from tests.tree.build import Mod, build_tree
from tests.unit.descriptors import nothing_left_open

MODULES = (
    Mod("plain", ("net-pf-99", "both-*")),
    Mod("other", ("both-x",), info=(b"privileged=Y",)),
    Mod("dep", ()),
    Mod("needs", ("needs-alias",), ("dep",)),
    Mod("soft", ("soft-alias",), softdep="pre: plain post: dep"),
    Mod("loop_a", softdep="pre: loop_b"),
    Mod("loop_b", softdep="pre: loop_a"),
    Mod("fs", ("fs-test",), filesystem=True),
    Mod("odd", info=(b"key=\xff\xfe", b"empty=", b"two=1", b"two=2")),
    Mod("installed"),
)
CONFIG = """
options needs number=1 text=a
install installed /bin/true
remove installed /bin/false
blacklist plain
alias my-alias needs
softdep dep pre: fs
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tree(tmp_path_factory.mktemp("tree"), MODULES)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "test.conf").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def kernel(folder: Path, config: Path) -> Kmod:
    return Kmod(str(folder), [str(config)])


LOOKUPS = [
    ("net-pf-99", ["plain"]), ("net_pf_99", ["plain"]), ("plain", ["plain"]), ("both-x", ["other", "plain"]), ("both-y", ["plain"]),
    ("my-alias", ["needs"]), ("built_in", ["built_in"]), ("fs-built-in", ["built_in"]), ("my_alias", ["needs"]), ("fs-test", ["fs"]), (b"fs-test", ["fs"]), ("installed", ["installed"]),
    ("nothing", []), ("net-pf-9", []), ("net-pf-*", []), ("*", []), ("../plain", []), ("/plain", []), ("./plain.ko", []),
    ("plain.ko", []), ("-r", []), ("\n", []), ("plain\n", []), (" plain", []), (b"\xff\xfe", []), ("", []), ("x" * 55, []),
    ("x" * 10_000_000, []), ("]", []), ("%s%n", []),
]  # fmt: skip


@pytest.mark.parametrize(("alias", "names"), LOOKUPS)
def test_lookup(kernel: Kmod, alias: str, names: list[str]) -> None:
    try:
        found = sorted(module.name for module in kernel.lookup(alias))
    except KmodError as error:
        assert error.errno in (2, 22, 36)
        found = []
    assert found == names


@pytest.mark.parametrize("alias", ["[", "a[b", "net-pf-[9"])
def test_what_is_no_alias(kernel: Kmod, alias: str) -> None:
    with pytest.raises(KmodError) as error:
        kernel.lookup(alias)
    assert error.value.errno == 22


@pytest.mark.parametrize("name", ["a\0b", b"\0"])
def test_no_nul(kernel: Kmod, name: str) -> None:
    for call in (kernel.lookup, kernel.module_from_name, kernel.module_from_path):
        with pytest.raises(ValueError, match="NUL"):
            call(name)
    with pytest.raises(ValueError, match="NUL"):
        kmod.finit_module(-1, name, 0)


def plan(kernel: Kmod, name: str) -> list[tuple[str, bool, str]]:
    module = kernel.lookup(name)[0]
    return [
        (each.module.name, each.install, each.options)
        for each in module.plan(kmod.KMOD_PROBE_APPLY_BLACKLIST_ALIAS_ONLY)
    ]


PLANS = [
    ("plain", [("plain", False, "")]),
    ("needs-alias", [("fs", False, ""), ("dep", False, ""), ("needs", False, "number=1 text=a")]),
    ("my-alias", [("fs", False, ""), ("dep", False, ""), ("needs", False, "number=1 text=a")]),
    ("soft", [("plain", False, ""), ("soft", False, ""), ("fs", False, ""), ("dep", False, "")]),
    ("installed", [("installed", True, "")]),
    ("loop_a", [("loop_b", False, ""), ("loop_a", False, "")]),
]


@pytest.mark.parametrize(("name", "steps"), PLANS)
def test_plan(kernel: Kmod, name: str, steps: list[tuple[str, bool, str]]) -> None:
    assert plan(kernel, name) == steps


def test_blacklist_counts_for_aliases_alone(kernel: Kmod) -> None:
    with pytest.raises(BlacklistedError):
        plan(kernel, "net-pf-99")
    assert plan(kernel, "plain") == [("plain", False, "")]


def test_a_module(kernel: Kmod, folder: Path) -> None:
    needs = kernel.lookup("needs")[0]
    assert (needs.name, needs.path, needs.options) == ("needs", f"{folder}/kernel/needs.ko", "number=1 text=a")
    assert [module.name for module in needs.dependencies] == ["dep"]
    assert (needs.initstate, needs.weakdeps, needs.holders, needs.install_command) == (None, [], [], None)
    soft = kernel.lookup("soft")[0]
    assert [[module.name for module in part] for part in soft.softdeps] == [["plain"], ["dep"]]
    installed = kernel.lookup("installed")[0]
    assert (installed.install_command, installed.remove_command) == ("/bin/true", "/bin/false")
    assert "register_filesystem" in kernel.lookup("fs")[0].dependency_symbols
    assert "register_filesystem" not in needs.dependency_symbols
    for attribute in ("refcount", "size"):
        with pytest.raises(KmodError):
            getattr(needs, attribute)


def test_info_keeps_odd_bytes_and_repeated_keys(kernel: Kmod) -> None:
    info = kernel.lookup("odd")[0].info
    assert [pair for pair in info if pair[0] in ("key", "empty", "two")] == [
        ("key", "\udcff\udcfe"), ("empty", ""), ("two", "1"), ("two", "2"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", [module.name for module in MODULES])
def test_two_readers_agree_on_modinfo(kernel: Kmod, folder: Path, name: str) -> None:
    path = folder / "kernel" / f"{name}.ko"
    with path.open("rb") as file:
        raw = ELFFile(file).get_section_by_name(".modinfo").data()
    pairs = [pair.partition(b"=") for pair in raw.split(b"\0") if pair]
    second = [(os.fsdecode(key), os.fsdecode(value)) for key, _, value in pairs]
    fd = os.open(path, os.O_RDONLY)
    try:
        assert kernel.module_from_path(f"/proc/self/fd/{fd}").info == second
    finally:
        os.close(fd)


def test_built_in(kernel: Kmod) -> None:
    module = kernel.lookup("built_in")[0]
    assert (module.initstate, module.path, module.plan()) == ("builtin", None, [])


def test_config(kernel: Kmod) -> None:
    config = kernel.config()
    assert config["blacklists"] == [("plain", "")]
    # What else stands there is the command line of the kernel that runs this test.
    assert ("needs", "number=1 text=a") in config["options"]
    assert config["install_commands"] == [("installed", "/bin/true")]
    assert config["aliases"] == [("my_alias", "needs")]


def test_log_says_nothing_unless_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    kernel = Kmod(str(build_tree(tmp_path, MODULES[:1])), [])
    Path(kernel.dirname, "modules.alias.bin").write_bytes(b"no index at all")
    kernel.log_priority = 7
    for said in ([], heard):
        if said is heard:
            kernel.set_log(lambda priority, file, line, function, message: heard.append(message))
        kernel.unload_resources()
        with pytest.raises(KmodError):
            kernel.load_resources()
    assert capfd.readouterr().err == ""
    assert [message for message in heard if "magic" in message], heard


def test_weak_dependencies_where_libkmod_has_them(folder: Path, tmp_path: Path) -> None:
    """Since kmod 33, which Debian 12 has not."""
    (tmp_path / "weak.conf").write_text("weakdep needs plain fs\n")
    (needs,) = Kmod(str(folder), [str(tmp_path)]).lookup("needs")
    said = subprocess.run(["kmod", "--version"], capture_output=True, text=True, check=True).stdout
    version = float(said.split()[2])
    assert [module.name for module in needs.weakdeps] == (["plain", "fs"] if version >= 33 else [])


@pytest.mark.parametrize("path", ["/nowhere", "/dev/null", "/etc"])
def test_a_file_that_is_no_module(kernel: Kmod, path: str) -> None:
    with pytest.raises(KmodError):
        _ = kernel.module_from_path(path).info


def test_finit_module_tells_the_kernels_word() -> None:
    with pytest.raises(OSError, match="Bad file descriptor|not implemented|not permitted"):
        kmod.finit_module(-1, "", 0)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_no_leak_over_100000_look_ups(kernel: Kmod) -> None:
    kernel.load_resources()

    def some(count: int) -> None:
        for _ in range(count):
            for module in kernel.lookup("needs-alias"):
                _ = module.name, module.path, module.dependencies
            kernel.lookup("nothing")

    some(5_000)
    before = resident()
    with nothing_left_open():
        some(50_000)  # two look-ups each
    assert resident() - before < 2 << 20


def test_no_leak_of_plans_info_and_contexts(folder: Path, config: Path) -> None:
    def some(count: int) -> None:
        for _ in range(count):
            module = Kmod(str(folder), [str(config)]).lookup("needs")[0]
            _ = module.plan(), module.info, module.softdeps

    some(200)
    before = resident()
    with nothing_left_open():
        some(2_000)
    assert resident() - before < 2 << 20


def test_what_may_block_runs_without_the_gil(tmp_path: Path) -> None:
    """A FIFO in place of a module blocks open(2) until somebody writes: this thread, which must still run."""
    fifo = tmp_path / "module.ko"
    os.mkfifo(fifo)
    ended: list[bool] = []

    def read() -> None:
        with pytest.raises(KmodError):
            _ = Kmod(str(tmp_path)).module_from_path(str(fifo)).info
        ended.append(True)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    time.sleep(0.2)
    # Blocks for ever if the other thread holds the GIL in open(2); newer libkmods close what is no file at once.
    with contextlib.suppress(BrokenPipeError), open(fifo, "wb") as file:
        file.write(b"no module")
    thread.join(10)
    assert ended == [True]
