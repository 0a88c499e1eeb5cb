"""For all tests: property tests have no time limit, since machines are noisy and speed is the benchmark's."""

import gc

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("safe-modprobe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("safe-modprobe")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish() -> None:
    """What thousands of tests are made of stays to the end: no search for garbage need walk it again and again."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val: object) -> str | None:
    """A row's name says how a long text begins, and its length: some have a megabyte, and names go to and fro."""
    if isinstance(val, str | bytes) and len(val) > 100:
        return f"{ascii(val[:80]).lstrip('b')[1:-1]}…{len(val)}"
    return None
