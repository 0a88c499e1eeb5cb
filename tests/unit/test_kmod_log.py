"""The bindings while libkmod tells what it does, and the callback it tells that to misbehaves.

Debian 12's libkmod tells every step. Later ones are built without debug messages, so there is nothing to misbehave at.
"""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_modprobe.kmod import Kmod, Module
from tests.tree.build import Mod, build_tree
from tests.unit.child import child


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [Mod(f"mod{i}", tuple(f"alias-{j}" for j in range(20))) for i in range(5)]
    return build_tree(tmp_path_factory.mktemp("tree"), (*rows, Mod("needs", ("needs-it",), ("mod0", "mod1"))))


class UnlikeError(Exception):
    """Nobody else's."""


CALLS: dict[str, Callable[[Kmod, Module], object]] = {
    "lookup": lambda kernel, module: kernel.lookup("needs-it"),
    "lookup of what is no alias": lambda kernel, module: kernel.lookup("a["),
    "load_resources": lambda kernel, module: kernel.load_resources(),
    "module_from_name": lambda kernel, module: kernel.module_from_name("mod3"),
    "path": lambda kernel, module: module.path,
    "options": lambda kernel, module: kernel.module_from_name("needs").options,
    "plan": lambda kernel, module: module.plan(),
    "refcount": lambda kernel, module: module.refcount,
    "holders": lambda kernel, module: module.holders,
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("kind", [UnlikeError, KeyboardInterrupt, SystemExit])
def test_what_the_callback_raises_is_raised(folder: Path, what: str, kind: type[BaseException]) -> None:
    kernel = Kmod(str(folder), [])
    module = kernel.lookup("needs")[0]
    heard: list[str] = []

    def callback(priority: int, file: str, line: int, function: str, message: str) -> None:
        heard.append(message)
        raise kind(len(heard))

    kernel.log_priority = 7
    kernel.set_log(callback)
    with pytest.raises(kind) as error:
        CALLS[what](kernel, module)
    assert error.value.args == (1,)
    assert error.traceback[-1].name == "callback"
    # The first word is the last one: nobody calls somebody who has raised. And the Kmod goes on.
    assert len(heard) == 1
    kernel.set_log(None)
    assert [each.name for each in kernel.lookup("needs-it")] == ["needs"]


def test_the_callback_cannot_come_back_in(folder: Path) -> None:
    """In the middle of a look-up unload_resources() would unmap what is being read."""
    kernel = Kmod(str(folder), [])
    kernel.load_resources()
    module = kernel.lookup("mod0")[0]
    calls: list[Any] = [kernel.unload_resources, lambda: module.path, lambda: kernel.set_mod_dir(None), kernel.loaded]
    for call in calls:
        kernel.set_log(lambda *_, call=call: call())
        kernel.log_priority = 7
        with pytest.raises(RuntimeError, match="^a Kmod cannot be used from within its own call$"):
            kernel.lookup("needs-it")
        kernel.set_log(None)
    assert kernel.lookup("needs-it")


def test_the_callback_may_use_another_kmod(folder: Path) -> None:
    """A dry run in a dry run: each has its own list."""
    kernel, other = Kmod(str(folder), []), Kmod(str(folder), [])
    inner, outer = other.lookup("needs")[0], kernel.lookup("needs")[0]
    names: list[list[str]] = []
    kernel.log_priority = 7
    kernel.set_log(lambda *_: names.append([each.module.name for each in inner.plan()]))
    assert [each.module.name for each in outer.plan()] == ["mod0", "mod1", "needs"]
    assert names
    assert all(each == ["mod0", "mod1", "needs"] for each in names)


def test_a_module_that_ends_in_another_thread(folder: Path) -> None:
    """As below, by another thread: the callback only makes sure of the moment."""
    code = """
import threading
kernel = Kmod(sys.argv[1], [])
kernel.load_resources()
held, found, freed = kernel.lookup("alias-1"), threading.Event(), threading.Event()
def callback(priority, file, line, function, message):
    if "get module" in message and "(nil)" not in message:
        found.set()
        freed.wait()
kernel.set_log(callback)
kernel.log_priority = 7
got = []
thread = threading.Thread(target=lambda: got.extend(kernel.lookup("alias-1")))
thread.start()
found.wait()
held.clear()
junk = [bytes(200 + n % 100) for n in range(10000)]
freed.set()
thread.join()
kernel.set_log(None)
print(sorted(module.name for module in got))
"""
    assert child(code, folder, MALLOC_PERTURB_="90") == (0, f"{[f'mod{i}' for i in range(5)]}\n", "")


def test_a_module_that_ends_in_the_callback(folder: Path) -> None:
    """libkmod has found it and not yet taken a reference: it must not be freed just then."""
    code = """
kernel = Kmod(sys.argv[1], [])
kernel.load_resources()
held = kernel.lookup("alias-1")
def callback(priority, file, line, function, message):
    if "get module" in message and "(nil)" not in message:
        held.clear()
kernel.set_log(callback)
kernel.log_priority = 7
got = kernel.lookup("alias-1")
kernel.set_log(None)
junk = [bytes(200 + n % 100) for n in range(10000)]
print(held, sorted(module.name for module in got))
"""
    assert child(code, folder, MALLOC_PERTURB_="90") == (0, f"[] {[f'mod{i}' for i in range(5)]}\n", "")


def test_a_cycle_is_collected(folder: Path) -> None:
    kernel = Kmod(str(folder), [])
    module = kernel.lookup("mod0")[0]

    class Callback:
        kept = (kernel, module)

        def __call__(self, *_: object) -> None:
            pass

    callback = Callback()
    ended = weakref.ref(callback)
    kernel.log_priority = 7
    kernel.set_log(callback)
    Callback.kept = ()  # type: ignore[assignment]
    callback.module = module  # type: ignore[attr-defined]
    del kernel, module, callback
    gc.collect()
    assert ended() is None


def test_modules_end_in_any_thread(folder: Path) -> None:
    """By its own hand and by the garbage collector's, while others are in libkmod; and each does end."""
    code = """
import gc, threading
sys.setswitchinterval(1e-6)
kernel = Kmod(sys.argv[1], [])
kernel.load_resources()
def some(number):
    for count in range(300):
        held = [module for alias in range(20) for module in kernel.lookup(f"alias-{alias}")]
        held[number].plan()
        class Cycle: pass
        cycle = Cycle(); cycle.itself = cycle; cycle.held = held
        if count % 50 == 0:
            gc.collect()
threads = [threading.Thread(target=some, args=(number,)) for number in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
gc.collect()
# libkmod knows a module for as long as somebody holds it: with the last one its words change.
said = []
kernel.set_log(lambda *words: said.append(words[4]))
kernel.log_priority = 7
kernel.module_from_name("mod0")
print(any("found=(nil)" in word for word in said))
"""
    assert child(code, folder, MALLOC_PERTURB_="90") == (0, "True\n", "")
