"""A boot with safe_modprobe=off: the kernel runs plain modprobe."""

from guest import Guest
from system import UNIT, USUAL, failed_units, kernel_helper, loads_af_alg, setup, unit_state  # noqa: F401


def test_it_is_off_and_no_unit_has_failed(guest: Guest) -> None:
    assert kernel_helper() == USUAL
    assert unit_state(guest, UNIT) == ("enabled", "inactive")
    assert failed_units(guest) == []


def test_no_request_is_refused(guest: Guest) -> None:
    assert loads_af_alg(guest, 1000)
    assert loads_af_alg(guest, 0)


def test_enable_fails_and_names_the_kernel_parameter(guest: Guest) -> None:
    for command in ("safe-modprobectl enable", "safe-modprobectl enable --runtime", "/usr/libexec/safe-modprobe/boot"):
        done = guest.sh(command)
        assert done.returncode == 1 and "says safe_modprobe=off" in done.stderr, done
    assert kernel_helper() == USUAL
