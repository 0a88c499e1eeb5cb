"""The bindings of libkmod on real module trees."""

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
def test_an_invalid_alias_is_an_error(kernel: Kmod, alias: str) -> None:
    with pytest.raises(KmodError) as error:
        kernel.lookup(alias)
    assert error.value.errno == 22


@pytest.mark.parametrize("name", ["a\0b", b"\0"])
def test_a_name_with_a_nul_is_an_error(kernel: Kmod, name: str) -> None:
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


def test_a_blacklist_affects_aliases_and_not_names(kernel: Kmod) -> None:
    with pytest.raises(BlacklistedError):
        plan(kernel, "net-pf-99")
    assert plan(kernel, "plain") == [("plain", False, "")]


def test_the_properties_of_a_module(kernel: Kmod, folder: Path) -> None:
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
def test_libkmod_and_pyelftools_agree_on_modinfo(kernel: Kmod, folder: Path, name: str) -> None:
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


def test_a_built_in_module_needs_no_action(kernel: Kmod) -> None:
    module = kernel.lookup("built_in")[0]
    assert (module.initstate, module.path, module.plan()) == ("builtin", None, [])


def test_config(kernel: Kmod) -> None:
    config = kernel.config()
    assert config["blacklists"] == [("plain", "")]
    # The running kernel's command line may add further options.
    assert ("needs", "number=1 text=a") in config["options"]
    assert config["install_commands"] == [("installed", "/bin/true")]
    assert config["aliases"] == [("my_alias", "needs")]


def test_libkmod_logs_to_the_callback_and_never_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    messages: list[str] = []
    kernel = Kmod(str(build_tree(tmp_path, MODULES[:1])), [])
    Path(kernel.dirname, "modules.alias.bin").write_bytes(b"no index at all")
    kernel.log_priority = 7
    for with_callback in (False, True):
        if with_callback:
            kernel.set_log(lambda priority, file, line, function, message: messages.append(message))
        kernel.unload_resources()
        with pytest.raises(KmodError):
            kernel.load_resources()
    assert capfd.readouterr().err == ""
    assert [message for message in messages if "magic" in message], messages


def test_weak_dependencies_where_libkmod_has_them(folder: Path, tmp_path: Path) -> None:
    """libkmod has them since version 33; Debian 12 has an older one."""
    (tmp_path / "weak.conf").write_text("weakdep needs plain fs\n")
    (needs,) = Kmod(str(folder), [str(tmp_path)]).lookup("needs")
    output = subprocess.run(["kmod", "--version"], capture_output=True, text=True, check=True).stdout
    version = float(output.split()[2])
    assert [module.name for module in needs.weakdeps] == (["plain", "fs"] if version >= 33 else [])


@pytest.mark.parametrize("path", ["/nowhere", "/dev/null", "/etc"])
def test_a_file_that_is_not_a_module_is_an_error(kernel: Kmod, path: str) -> None:
    with pytest.raises(KmodError):
        _ = kernel.module_from_path(path).info


def test_finit_module_raises_the_kernels_error() -> None:
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


def test_blocking_calls_run_without_the_gil(tmp_path: Path) -> None:
    """Opening a FIFO as a module blocks until this thread opens it for writing, so this thread must still run."""
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
    # This blocks for ever if the other thread holds the GIL in open(2). Newer versions of libkmod close a FIFO at once.
    with contextlib.suppress(BrokenPipeError), open(fifo, "wb") as file:
        file.write(b"no module")
    thread.join(10)
    assert ended == [True]
