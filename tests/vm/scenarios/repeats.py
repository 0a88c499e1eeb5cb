"""What was only counted of the flood in journal.py, once its minute has passed, which other scenarios fill."""

import json
import os
import time

from guest import Guest
from journal import FLOODER, asked, counts, recorded, setup  # noqa: F401  (setup is the machine's)

COUNTS_LAST = True


def test_the_count_of_the_flood_adds_up(guest: Guest) -> None:
    """By the unit, since nobody asks any more; or by whoever asked meanwhile."""
    end = time.monotonic() + 90
    while (
        os.path.exists("/run/safe-modprobe/counts.pending")
        or guest.sh("systemctl is-active -q safe-modprobe-counts.service").returncode == 0
    ):
        assert time.monotonic() < end, guest.sh("systemctl status 'safe-modprobe-counts.*'").stdout
        time.sleep(1)
    guest.sh("journalctl --sync")
    assert json.loads(guest.sh("safe-modprobectl repeats --json").stdout)["pending"] == []
    assert recorded(guest, FLOODER) + sum(counts(guest)) == asked(), (recorded(guest, FLOODER), counts(guest))
    found = json.loads(guest.sh(f"safe-modprobectl log --json --user {FLOODER}").stdout)
    assert sum(each["times"] for each in found["counted"]) == sum(counts(guest)), found["counted"]
    assert sum(each["times"] for each in found["groups"]) == recorded(guest, FLOODER)
    state = guest.sh("systemctl show -P Result safe-modprobe-counts.service safe-modprobe-counts.path").stdout.split()
    assert state == ["success", "success"], state
