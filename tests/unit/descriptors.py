"""That nothing stays open: descriptors counted with no other test's garbage among them."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """An assertion fails if the body leaves a descriptor open. What others left is closed first, not in its middle."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert not set(os.listdir("/proc/self/fd")) - before
