"""For the unit tests: descriptors are counted with no other test's garbage among them."""

import gc
import os
from collections.abc import Iterator

import pytest


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    """Fails the test that leaves a descriptor open. What other tests left is closed first, not in the middle."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert not set(os.listdir("/proc/self/fd")) - before
