"""A guest's tests as pytest's own: each `test_*` function of a scenario, and each of its ROWS, is one here."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.qemu import Result

_TAIL = 3000


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

    def __init__(self, *, machine: str, result: Callable[[], Result], place: tuple[Path, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.machine = machine
        self.result = result
        self.scenario, self.test = self.name.split("::", 1)
        self.place = place

    def runtest(self) -> None:
        """Wait for the machine's boot, and look up how this test went there."""
        result = self.result()
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
        return self.place[0], self.place[1] - 1, f"{self.machine}: {self.name}"


class GuestError(Exception):
    """A test failed in the guest."""
