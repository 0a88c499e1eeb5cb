"""The bindings with inputs that crash libkmod, and without any output on standard error."""

import contextlib
import copy
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from safe_modprobe import kmod
from safe_modprobe.kmod import BlacklistedError, Kmod, KmodError, Module
from tests.tree.build import Mod, build_tree
from tests.unit.child import ROOT, child

LONG = "a name or path of {} bytes is longer than libkmod's 4095"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [Mod(f"mod{i}", tuple(f"alias-{j}" for j in range(20))) for i in range(5)]
    return build_tree(tmp_path_factory.mktemp("tree"), (*rows, Mod("needs", ("needs-it",), ("mod0", "mod1"))))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "test.conf").write_text("blacklist needs\nalias mine mod1\n")
    return tmp_path


NAMES = ["x" * 4096, "[" + "x" * 4095, "[" * 20_000, "x" * 4000 + "[" + "y" * 20_000 + "]", "\xe9" * 2048]


@pytest.mark.parametrize("call", ["lookup", "module_from_name", "module_from_path", "modprobe", "rmmod", "set_mod_dir"])
def test_a_too_long_name_is_an_error_and_no_stack_overflow(folder: Path, call: str) -> None:
    code = f"""
kernel = Kmod(sys.argv[1], [])
for name in {NAMES!r}:
    try:
        kernel.{call}(name)
    except KmodError as error:
        print(error.errno, error.strerror)
"""
    expected = "".join(f"36 {LONG.format(len(name.encode()))}\n" for name in NAMES)
    assert child(code, folder) == (0, expected, "")


@pytest.mark.parametrize("config", [None, ["x" * 4096]])
def test_a_too_long_path_for_the_constructor_is_an_error(config: list[str] | None) -> None:
    with pytest.raises(KmodError, match=LONG.format(4096)):
        Kmod("/nowhere" if config else "x" * 4096, config)


@pytest.mark.parametrize("name", ["x" * 4095, "x" * 4094 + "[", "[" + "x" * 4093 + "]", "[" + "x" * 4094])
def test_an_alias_of_the_longest_length_is_looked_up(folder: Path, name: str) -> None:
    code = """
try:
    print(Kmod(sys.argv[1], []).lookup(sys.argv[2]))
except KmodError as error:
    print(error.errno)
"""
    assert child(code, folder, name) in [(0, "[]\n", ""), (0, "22\n", "")]


@pytest.mark.parametrize("length", [256, 4074, 4085, 4095])
def test_a_module_name_too_long_for_a_file_is_an_error(folder: Path, length: int) -> None:
    """libkmod 30's kmod_module_get_initstate() writes past the end of its buffer for 4074 bytes or more."""
    code = """
try:
    print(Kmod(sys.argv[1], []).module_from_name("x" * int(sys.argv[2])).initstate)
except KmodError as error:
    print(error.errno, error.strerror)
"""
    assert child(code, folder, length) == (0, f"36 a module's name of {length} bytes is longer than a file's 255\n", "")


def test_a_found_module_name_too_long_for_a_file_is_an_error(folder: Path, tmp_path: Path) -> None:
    name = "x" * 4090
    (tmp_path / "long.conf").write_text(f"install {name} /bin/true\nalias short {'y' * 300}\n")
    kernel = Kmod(str(folder), [str(tmp_path)])
    for alias in (name, "short"):
        with pytest.raises(KmodError) as error:
            kernel.lookup(alias)
        assert error.value.errno == 36


@pytest.mark.parametrize("where", ["mod_dir", "config"])
def test_a_path_with_a_nul_is_an_error(where: str) -> None:
    with pytest.raises(ValueError, match="NUL"):
        Kmod("a\0b" if where == "mod_dir" else None, ["a\0b"] if where == "config" else [])


@pytest.mark.parametrize("config", ["/etc/modprobe.d", b"/etc/modprobe.d"])
def test_a_single_path_as_config_is_an_error(config: Any) -> None:
    with pytest.raises(TypeError, match="config is a list of paths"):
        Kmod("/nowhere", config)


@pytest.mark.parametrize(
    "make", ["Module()", "Module.__new__(Module)", "Module.__new__(Module, None)",
             "type('M', (Module,), {}).__new__(type('M', (Module,), {}))", "object.__new__(Module)"],
)  # fmt: skip
def test_a_module_cannot_be_created_without_a_kmod(make: str) -> None:
    code = f"""
try:
    {make}.path
except TypeError:
    print("refused")
"""
    assert child(code) == (0, "refused\n", "")


def test_uninitialised_objects_do_not_crash() -> None:
    code = """
import gc, safe_modprobe.kmod as kmod
for cls in [value for value in vars(kmod).values() if isinstance(value, type)]:
    try:
        made = cls.__new__(cls)
        for name in dir(cls):
            if not name.startswith("__") and name not in ("modprobe", "rmmod", "insert", "remove"):
                try:
                    value = getattr(made, name)
                    value() if callable(value) else None
                except Exception:
                    pass
        del made
    except (TypeError, KmodError):
        pass
gc.collect()
print("alive")
"""
    assert child(code) == (0, "alive\n", "")


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_objects_cannot_be_copied_or_pickled(folder: Path, how: Any) -> None:
    kernel = Kmod(str(folder), [])
    for thing in (kernel, kernel.lookup("mod0")[0]):
        with pytest.raises(TypeError):
            how(thing)


BROKEN = "nonsense\nalias a[ b\nalias\ninclude /x\noptions\nsoftdep\n"


@pytest.mark.parametrize("log", ["", "7", "debug"])
@pytest.mark.parametrize("how", ["Kmod(*a)", "Kmod(*a).set_mod_dir(a[0])", "Kmod(*a).lookup('needs')[0].plan()"])
def test_nothing_reaches_standard_error(folder: Path, tmp_path: Path, log: str, how: str) -> None:
    (tmp_path / "broken.conf").write_text(BROKEN)
    assert child(f"a = sys.argv[1], sys.argv[2:]\n{how}", folder, tmp_path, KMOD_LOG=log) == (0, "", "")


def test_kmod_log_in_the_environment_sets_the_log_level(folder: Path) -> None:
    assert child("print(Kmod(sys.argv[1], []).log_priority)", folder, KMOD_LOG="5") == (0, "5\n", "")


def test_standard_error_is_restored_after_creating_a_kmod(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.conf").write_text(BROKEN)
    code = """
import ctypes, threading
libc = ctypes.CDLL(None)
c_stderr = lambda: ctypes.c_void_p.in_dll(libc, "stderr").value
before = c_stderr()
def some():
    for _ in range(200):
        Kmod(sys.argv[1], [sys.argv[2]])
threads = [threading.Thread(target=some) for _ in range(4)]
[thread.start() for thread in threads]
for _ in range(200):
    libc.fputs(b"mine\\n", ctypes.c_void_p(c_stderr()))
[thread.join() for thread in threads]
print(c_stderr() == before)
"""
    assert child(code, folder, tmp_path) == (0, "True\n", "mine\n" * 200)


def test_set_mod_dir_keeps_config_and_log_level(folder: Path, config: Path, tmp_path: Path) -> None:
    kernel = Kmod("/nowhere", [str(config)])
    kernel.log_priority = 6
    old = kernel.module_from_name("mod2")
    kernel.set_mod_dir(str(folder))
    assert kernel.config()["blacklists"] == [("needs", "")]
    assert ([module.name for module in kernel.lookup("mine")], kernel.log_priority) == (["mod1"], 6)
    assert (kernel.dirname, old.path) == (str(folder), None)
    with pytest.raises(ValueError, match="NUL"):
        kernel.set_mod_dir("a\0b")
    assert (kernel.dirname, len(kernel.lookup("needs"))) == (str(folder), 1)


def test_a_removed_current_folder_is_an_error(tmp_path: Path) -> None:
    code = """
import os
os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
try:
    Kmod("relative", [])
except KmodError as error:
    print(error.errno)
"""
    code = f"sys.path.insert(0, {str(ROOT)!r})" + code
    assert child(code, tmp_path / "gone", KMOD_LOG="7") == (0, "2\n", "")


def test_the_error_for_a_blacklisted_module_is_eperm(folder: Path, config: Path) -> None:
    module = Kmod(str(folder), [str(config)]).lookup("needs")[0]
    for call in (module.plan, module.insert):
        with pytest.raises(BlacklistedError) as error:
            call(kmod.KMOD_PROBE_APPLY_BLACKLIST)
        assert (error.value.errno, error.value.strerror) == (1, "needs is blacklisted")


def test_a_signal_interrupts_the_wait_for_the_lock(tmp_path: Path) -> None:
    """While a thread blocks inside libkmod in open(2) of a FIFO, Ctrl-C must end the thread that waits for it."""
    fifo = tmp_path / "module.ko"
    os.mkfifo(fifo)
    code = """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores SIGINT
kernel = Kmod(os.path.dirname(sys.argv[1]), [])
module = kernel.module_from_path(sys.argv[1])
other = threading.Thread(target=lambda: module.info, daemon=True)
other.start()
while open(f"/proc/self/task/{other.native_id}/wchan").read() != "wait_for_partner":  # fs/pipe.c
    time.sleep(0.01)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    kernel.lookup("anything")
except KeyboardInterrupt:
    os.write(1, b"interrupted")
    os._exit(0)
"""
    assert child(code, fifo) == (0, "interrupted", "")


def test_waiting_for_the_lock_does_not_block_other_threads(tmp_path: Path) -> None:
    fifo = tmp_path / "module.ko"
    os.mkfifo(fifo)
    kernel = Kmod(str(tmp_path), [])
    module, other = kernel.module_from_path(str(fifo)), kernel.module_from_name("other")

    def read() -> None:
        with pytest.raises(KmodError):
            _ = module.info

    threads = [threading.Thread(target=call, daemon=True) for call in (read, lambda: kernel.lookup("x"))]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    del other  # a thread is inside libkmod; freeing a module must not wait for it
    with contextlib.suppress(BrokenPipeError), fifo.open("wb") as file:
        file.write(b"no module")
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def test_no_leak_when_a_name_is_refused(folder: Path) -> None:
    kernel = Kmod(str(folder), [])

    def some(count: int) -> None:
        for _ in range(count):
            for name in ("x" * 300, "x" * 4096):
                with pytest.raises(KmodError):
                    kernel.module_from_name(name)
            with pytest.raises(TypeError):
                Module.__new__(Module)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    some(500)
    before = resident()
    some(5_000)
    assert resident() - before < 2 << 20
