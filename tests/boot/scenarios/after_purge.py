"""The boot after the purge: the system is as it was before the installation."""

from guest import Guest
from system import USUAL, failed_units, kernel_helper, loads_af_alg, setup  # noqa: F401


def test_the_system_is_as_before_the_installation(guest: Guest) -> None:
    assert kernel_helper() == USUAL
    assert failed_units(guest) == []
    assert loads_af_alg(guest, 1000)
