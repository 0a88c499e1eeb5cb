"""A boot with safe_modprobe=log, and with a root that stays read-only: on, and it refuses nobody."""

import errno
import json

from guest import Guest
from whole import HELPER, UNIT, current, failed, got, setup, state, well  # noqa: F401


def test_it_is_on_and_refuses_nobody(guest: Guest) -> None:
    assert (current(), state(guest, UNIT)[1]) == (HELPER, "active")
    assert got(guest, 1000)


def test_a_read_only_root_is_enough(guest: Guest) -> None:
    try:
        guest.write("/etc/written", "")
    except OSError as error:
        assert error.errno == errno.EROFS, error
    else:
        raise AssertionError("it is not read-only")
    assert UNIT not in failed(guest)


def test_it_says_what_it_would_refuse(guest: Guest) -> None:
    assert got(guest, 1000)
    text = well(guest, "journalctl -q -b -o json -t safe-modprobe SAFE_MODPROBE_VERDICT=log")
    assert "it would be denied without the trial" in text, text[-2000:]


def test_status_names_the_word(guest: Guest) -> None:
    done = guest.sh("safe-modprobectl status --json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["state"]) == (1, "trial"), said
    assert "safe_modprobe=log on the kernel's command line" in said["problems"][0]["what"], said["problems"]
