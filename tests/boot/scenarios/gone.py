"""The boot after the purge: as if it had never been there."""

from guest import Guest
from whole import USUAL, current, failed, got, setup  # noqa: F401


def test_the_machine_is_as_it_was(guest: Guest) -> None:
    assert current() == USUAL
    assert failed(guest) == []
    assert got(guest, 1000)
