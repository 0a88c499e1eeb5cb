"""Turn each `test_*` function of a scenario, and each of its ROWS, into a test of pytest on the host."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.qemu import Result

_TAIL = 3000
"""Characters of the console that a failure shows."""


def tests_of(source: Path) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of each test_* function, and of each row of the dictionary ROWS. Parse without importing."""
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name, node.lineno
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROWS":
            assert isinstance(node.value, ast.Dict), f"{source}:{node.lineno}: ROWS must be a dictionary literal"
            for key in node.value.keys:
                assert isinstance(key, ast.Constant), f"{source}:{node.lineno}: the key of a row must be a literal"
                yield key.value, key.lineno


class GuestTest(pytest.Item):
    """One test of a scenario, on one machine."""

    def __init__(self, *, machine: str, result: Callable[[], Result], place: tuple[Path, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.machine = machine
        self.result = result
        self.scenario, self.test = self.name.split("::", 1)
        self.place = place

    def runtest(self) -> None:
        """Wait for the machine's boot to end and look up this test's result. Raises GuestError if it failed."""
        result = self.result()
        reports = [
            line
            for line in result.lines
            if line.get("scenario") == self.scenario and line.get("test") in (self.test, None)
        ]
        if not reports:
            raise GuestError(
                f"the guest reported no result of this test; its console ends with\n{result.console[-_TAIL:]}"
            )
        if reports[0]["error"]:
            raise GuestError(reports[0]["error"])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """Return the traceback from the guest."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the place of the test in its scenario, and its name."""
        return self.place[0], self.place[1] - 1, f"{self.machine}: {self.name}"


class GuestError(Exception):
    """A test failed in the guest."""
