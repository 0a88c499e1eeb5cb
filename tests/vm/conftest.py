"""Each scenario's `test_*` function is a test here, though it runs in a guest: one boot serves a whole machine.

The machines boot in the background from the start, two at a time, while other tests run.
"""

import ast
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.vm.qemu import TESTS, Machine, Result, boot, machine

_TAIL = 3000
_AT_ONCE = 2
_pool = ThreadPoolExecutor(_AT_ONCE)
_boots: dict[str, Future[Result]] = {}


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """tests/vm/machines/NAME/machine.toml stands for all tests of that machine."""
    if file_path.name == "machine.toml":
        return MachineFile.from_parent(parent, path=file_path)
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Boot what was selected, with just the scenarios that were."""
    if session.config.option.collectonly:
        return
    wanted: dict[str, set[str]] = {}
    for item in session.items:
        if isinstance(item, GuestTest):
            wanted.setdefault(item.machine.name, set()).add(item.scenario)
    # The longest first, so that the others fit in beside it.
    for name in sorted(wanted.keys() - _boots.keys(), key=lambda name: -machine(name).seconds):
        _boots[name] = _pool.submit(_boot, machine(name), sorted(wanted[name]))


def _boot(what: Machine, scenarios: list[str]) -> Result:
    try:
        return boot(what, scenarios)
    except SystemExit as error:  # a thread's SystemExit would say nothing
        return Result([], f"{what.name} did not boot: {error}")


class MachineFile(pytest.File):
    """A machine's folder."""

    def collect(self) -> Iterator[pytest.Item]:
        """The functions of its scenarios, read without running them: they are the guest's."""
        what = machine(self.path.parent.name)
        for scenario in what.scenarios:
            (source,) = TESTS.glob(f"*/scenarios/{scenario}.py")
            for test, line in tests_of(source):
                yield GuestTest.from_parent(self, name=f"{scenario}::{test}", what=what, place=(source, line))


def tests_of(source: Path) -> Iterator[tuple[str, int]]:
    """(name, line) of the test_* functions, and of the rows in the dictionary ROWS."""
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name, node.lineno
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROWS":
            assert isinstance(node.value, ast.Dict), f"{source}:{node.lineno}: ROWS is not written out as a dictionary"
            for key in node.value.keys:
                assert isinstance(key, ast.Constant), f"{source}:{node.lineno}: a row's name is not written out"
                yield key.value, key.lineno


class GuestTest(pytest.Item):
    """One function of a scenario, on one machine."""

    def __init__(self, *, what: Machine, place: tuple[Path, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.machine = what
        self.scenario, self.test = self.name.split("::", 1)
        self.place = place

    def runtest(self) -> None:
        """Wait for the machine's boot, and look up how this test went there."""
        result = _boots[self.machine.name].result()
        said = [
            line
            for line in result.lines
            if line.get("scenario") == self.scenario and line.get("test") in (self.test, None)
        ]
        if not said:
            raise GuestError(f"the guest said nothing of it; its console ends with\n{result.console[-_TAIL:]}")
        if said[0]["error"]:
            raise GuestError(said[0]["error"])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """The guest's own traceback."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the function stands."""
        return self.place[0], self.place[1] - 1, f"{self.machine.name}: {self.name}"


class GuestError(Exception):
    """A test failed in the guest."""
