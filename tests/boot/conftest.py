"""Collect and boot the machines of tests/boot. Unlike those of tests/vm, each is booted several times on one disk."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.boot.boots import HERE, Machine, boot_all, machine
from tests.vm.collect import GuestTest, tests_of
from tests.vm.qemu import Result

_AT_ONCE = 2
_pool = ThreadPoolExecutor(_AT_ONCE)
_results: dict[str, Future[Result]] = {}


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect tests/boot/machines/NAME/machine.toml as the file of all tests of that machine."""
    return MachineFile.from_parent(parent, path=file_path) if file_path.name == "machine.toml" else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the selected machines. All boots of a machine run, because each needs the state left by the one before."""
    wanted = {item.machine for item in session.items if isinstance(item.parent, MachineFile)}
    if not session.config.option.collectonly:
        for name in sorted(wanted):
            _results[name] = _pool.submit(_boot, machine(name))


def _boot(machine: Machine) -> Result:
    try:
        return boot_all(machine)
    except SystemExit as error:  # a pool's thread would swallow it
        return Result([], f"{machine.name} did not boot: {error}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the guests measured."""
    for name, future in _results.items():
        for line in future.result().lines if future.done() else ():
            if "note" in line:
                terminalreporter.write_line(f"{name}: {line['note']}")


class MachineFile(pytest.File):
    """The machine.toml of one machine."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test for each test function of the scenarios. They are parsed only, because they run in the guest."""
        name = self.path.parent.name
        for boot in machine(name).boots:
            for scenario in boot.scenarios:
                source = HERE / "scenarios" / f"{scenario}.py"
                for test, line in tests_of(source):
                    yield GuestTest.from_parent(
                        self,
                        name=f"{scenario}::{test}",
                        machine=name,
                        result=lambda: _results[name].result(),
                        place=(source, line),
                    )
