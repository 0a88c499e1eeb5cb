"""For all tests: property tests have no time limit, since machines are noisy and speed is the benchmark's."""

from hypothesis import HealthCheck, settings

settings.register_profile("safe-modprobe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("safe-modprobe")
