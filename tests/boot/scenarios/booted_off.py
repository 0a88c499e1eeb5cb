"""A boot with safe_modprobe=off: as if it were not there."""

from guest import Guest
from whole import UNIT, USUAL, current, failed, got, setup, state  # noqa: F401


def test_it_is_off_and_no_unit_has_failed(guest: Guest) -> None:
    assert current() == USUAL
    assert state(guest, UNIT) == ("enabled", "inactive")
    assert failed(guest) == []


def test_everybody_is_served(guest: Guest) -> None:
    assert got(guest, 1000)
    assert got(guest, 0)


def test_enable_says_why_it_does_not(guest: Guest) -> None:
    for command in ("safe-modprobectl enable", "safe-modprobectl enable --runtime", "/usr/libexec/safe-modprobe/boot"):
        done = guest.sh(command)
        assert done.returncode == 1 and "says safe_modprobe=off" in done.stderr, done
    assert current() == USUAL
