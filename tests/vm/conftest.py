"""Each scenario's `test_*` function is a test here, though it runs in a guest: one boot serves a whole machine.

The machines boot in the background: on two processors one while other tests run, and two once those have. One more
program at work than there are processors makes all of them a fifth slower, since emulation lives by their caches.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Semaphore

import pytest

from tests.vm.collect import GuestTest, tests_of
from tests.vm.qemu import Machine, Result, boot, machine, scenario_file

_MOST = 4
"""Each takes up to 3 GiB of memory."""
_AT_ONCE = min(_MOST, max(1, len(os.sched_getaffinity(0)) - 1))
_pool = ThreadPoolExecutor(_AT_ONCE + 1)
_slots = Semaphore(_AT_ONCE)
_boots: dict[str, Future[Result]] = {}


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """tests/vm/machines/NAME/machine.toml stands for all tests of that machine."""
    if file_path.name == "machine.toml":
        return MachineFile.from_parent(parent, path=file_path)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs here goes first, beside the guests; only then is there nothing to do but to wait for them."""
    items.sort(key=lambda item: isinstance(item, GuestTest))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Boot what was selected, with just the scenarios that were."""
    if session.config.option.collectonly:
        return
    wanted: dict[str, set[str]] = {}
    for item in session.items:
        if isinstance(item, GuestTest) and isinstance(item.parent, MachineFile):
            wanted.setdefault(item.machine, set()).add(item.scenario)
    # The longest first, so that the others fit in beside it.
    for name in sorted(wanted.keys() - _boots.keys(), key=lambda name: -machine(name).seconds):
        what = machine(name)
        _boots[name] = _pool.submit(_boot, what, [each for each in what.scenarios if each in wanted[name]])


def _boot(what: Machine, scenarios: list[str]) -> Result:
    try:
        with _slots:
            return boot(what, scenarios)
    except SystemExit as error:  # a thread's SystemExit would say nothing
        return Result([], f"{what.name} did not boot: {error}")


@cache
def _one_more() -> None:
    """The first test of a guest comes last of all others, so that this process's own processor is free."""
    _slots.release()


def _result(name: str) -> Result:
    _one_more()
    return _boots[name].result()


class MachineFile(pytest.File):
    """A machine's folder."""

    def collect(self) -> Iterator[pytest.Item]:
        """The functions of its scenarios, read without running them: they are the guest's."""
        what = machine(self.path.parent.name)
        for scenario in what.scenarios:
            source = scenario_file(scenario)
            for test, line in tests_of(source):
                yield GuestTest.from_parent(
                    self,
                    name=f"{scenario}::{test}",
                    machine=what.name,
                    result=lambda: _result(what.name),
                    place=(source, line),
                )
