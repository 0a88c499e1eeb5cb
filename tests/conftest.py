"""Settings of all tests. Property tests have no time limit because test machines are noisy; bench/ measures speed."""

import gc

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("safe-modprobe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("safe-modprobe")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish() -> None:
    """Freeze the collected tests: they live until the end, so the garbage collector need not walk them each time."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten the id of a long value (up to 1 MB) to its first 80 characters and its length; workers exchange ids."""
    if isinstance(val, str | bytes) and len(val) > 100:
        return f"{ascii(val[:80]).lstrip('b')[1:-1]}…{len(val)}"
    return None
