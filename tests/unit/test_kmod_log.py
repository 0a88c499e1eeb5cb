"""The bindings with a log callback that misbehaves.

Debian 12's libkmod logs debug messages in every call. Later versions are built without them and call no callback.
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


class CallbackError(Exception):
    """Raised by no other code."""


CALLS: dict[str, Callable[[Kmod, Module], object]] = {
    "lookup": lambda kernel, module: kernel.lookup("needs-it"),
    "lookup of an invalid alias": lambda kernel, module: kernel.lookup("a["),
    "load_resources": lambda kernel, module: kernel.load_resources(),
    "module_from_name": lambda kernel, module: kernel.module_from_name("mod3"),
    "path": lambda kernel, module: module.path,
    "options": lambda kernel, module: kernel.module_from_name("needs").options,
    "plan": lambda kernel, module: module.plan(),
    "refcount": lambda kernel, module: module.refcount,
    "holders": lambda kernel, module: module.holders,
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("kind", [CallbackError, KeyboardInterrupt, SystemExit])
def test_an_exception_of_the_callback_is_raised_by_the_call(folder: Path, what: str, kind: type[BaseException]) -> None:
    kernel = Kmod(str(folder), [])
    module = kernel.lookup("needs")[0]
    messages: list[str] = []

    def callback(priority: int, file: str, line: int, function: str, message: str) -> None:
        messages.append(message)
        raise kind(len(messages))

    kernel.log_priority = 7
    kernel.set_log(callback)
    with pytest.raises(kind) as error:
        CALLS[what](kernel, module)
    assert error.value.args == (1,)
    assert error.traceback[-1].name == "callback"
    # After its exception the callback is not called again, and the Kmod can still be used.
    assert len(messages) == 1
    kernel.set_log(None)
    assert [each.name for each in kernel.lookup("needs-it")] == ["needs"]


def test_the_callback_cannot_use_the_same_kmod(folder: Path) -> None:
    """In the middle of a look-up unload_resources() would unmap the index that is being read."""
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
    """A dry run inside a dry run works, since each has its own list."""
    kernel, other = Kmod(str(folder), []), Kmod(str(folder), [])
    inner, outer = other.lookup("needs")[0], kernel.lookup("needs")[0]
    names: list[list[str]] = []
    kernel.log_priority = 7
    kernel.set_log(lambda *_: names.append([each.module.name for each in inner.plan()]))
    assert [each.module.name for each in outer.plan()] == ["mod0", "mod1", "needs"]
    assert names
    assert all(each == ["mod0", "mod1", "needs"] for each in names)


def test_a_module_may_be_freed_by_another_thread_during_a_call(folder: Path) -> None:
    """Like the next test, with another thread. The callback makes it happen at the right moment."""
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


def test_a_module_may_be_freed_in_the_callback(folder: Path) -> None:
    """libkmod has found the module and not yet taken a reference, so the module must not be freed at once."""
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


def test_a_reference_cycle_through_the_callback_is_collected(folder: Path) -> None:
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


def test_modules_can_be_freed_in_any_thread(folder: Path) -> None:
    """Threads and the garbage collector free modules while other threads are in libkmod, and every module is freed."""
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
# libkmod keeps a module while it has a reference. A debug message tells that it found none.
messages = []
kernel.set_log(lambda *arguments: messages.append(arguments[4]))
kernel.log_priority = 7
kernel.module_from_name("mod0")
print(any("found=(nil)" in message for message in messages))
"""
    assert child(code, folder, MALLOC_PERTURB_="90") == (0, "True\n", "")
