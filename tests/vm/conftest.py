"""Collect each `test_*` function of a scenario as a test that runs in a guest. One boot runs all tests of a machine.

Machines boot in the background. On two processors one machine boots while other tests run, and two afterwards.
One busy program more than there are processors makes all of them a fifth slower: emulation depends on CPU caches.
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

_MAX_CONCURRENT = 4
"""Limit of guests at a time. Each takes up to 3 GiB of memory."""
_CONCURRENT = min(_MAX_CONCURRENT, max(1, len(os.sched_getaffinity(0)) - 1))
_pool = ThreadPoolExecutor(_CONCURRENT + 1)
_slots = Semaphore(_CONCURRENT)
_boots: dict[str, Future[Result]] = {}


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the tests of a machine from tests/vm/machines/NAME/machine.toml."""
    if file_path.name == "machine.toml":
        return MachineFile.from_parent(parent, path=file_path)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the host's own tests first, while guests boot. The tests that wait for guests follow."""
    items.sort(key=lambda item: isinstance(item, GuestTest))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Boot the machines of the selected tests, each with the selected scenarios only."""
    if session.config.option.collectonly:
        return
    wanted: dict[str, set[str]] = {}
    for item in session.items:
        if isinstance(item, GuestTest) and isinstance(item.parent, MachineFile):
            wanted.setdefault(item.machine, set()).add(item.scenario)
    # The longest boot starts first, so that shorter ones run beside it.
    for name in sorted(wanted.keys() - _boots.keys(), key=lambda name: -machine(name).seconds):
        spec = machine(name)
        _boots[name] = _pool.submit(_boot, spec, [each for each in spec.scenarios if each in wanted[name]])


def _boot(spec: Machine, scenarios: list[str]) -> Result:
    try:
        with _slots:
            return boot(spec, scenarios)
    except SystemExit as error:  # A SystemExit that ends a thread shows no message.
        return Result([], f"{spec.name} did not boot: {error}")


@cache
def _allow_one_more() -> None:
    """Allow one more guest, once: the host's own tests are done by the first guest test, so a processor is free."""
    _slots.release()


def _result(name: str) -> Result:
    _allow_one_more()
    return _boots[name].result()


class MachineFile(pytest.File):
    """The machine.toml of a machine's folder."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the tests of the machine's scenarios, found by parsing: scenario code can only run in a guest."""
        spec = machine(self.path.parent.name)
        for scenario in spec.scenarios:
            source = scenario_file(scenario)
            for test, line in tests_of(source):
                yield GuestTest.from_parent(
                    self,
                    name=f"{scenario}::{test}",
                    machine=spec.name,
                    result=lambda: _result(spec.name),
                    place=(source, line),
                )
