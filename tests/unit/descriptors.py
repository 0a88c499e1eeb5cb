"""That nothing stays open: what guests' threads open meanwhile in this process does not count."""

import gc
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """An assertion fails if the body leaves a file of a test's open, or one in memory."""
    gc.collect()
    before = _of_tests()
    yield
    gc.collect()
    assert not _of_tests() - before


def _of_tests() -> set[tuple[str, str]]:
    """(number, file) of each descriptor of a file below the temporary folder, or of one in memory."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:  # the listing's own, or another thread's
            pass
    return {each for each in found if each[1].startswith((tempfile.gettempdir() + "/", "/memfd:"))}
