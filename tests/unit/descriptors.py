"""Check that a test leaves no file open, even while threads of guests open files in the same process."""

import gc
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Fail if the body leaves a test's file or a memfd open."""
    gc.collect()
    before = _descriptors_of_tests()
    yield
    gc.collect()
    assert not _descriptors_of_tests() - before


def _descriptors_of_tests() -> set[tuple[str, str]]:
    """Return (number, file) of each descriptor of a memfd or of a file below the temporary folder."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:  # the descriptor of listdir() itself, or one that another thread closed
            pass
    return {each for each in found if each[1].startswith((tempfile.gettempdir() + "/", "/memfd:"))}
