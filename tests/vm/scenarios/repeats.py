"""The counted records of the flood in journal.py, after its minute has passed while other scenarios ran."""

import json
import os
import time

from guest import Guest
from journal import FLOODER, counts, recorded, request_count, setup  # noqa: F401  (the agent calls setup)

COUNTS_LAST = True


def test_records_and_counts_of_the_flood_add_up_to_its_requests(guest: Guest) -> None:
    """The counts are written by the unit, or by the helper of a later request."""
    end = time.monotonic() + 90
    while (
        os.path.exists("/run/safe-modprobe/counts.pending")
        or guest.sh("systemctl is-active -q safe-modprobe-counts.service").returncode == 0
    ):
        assert time.monotonic() < end, guest.sh("systemctl status 'safe-modprobe-counts.*'").stdout
        time.sleep(1)
    guest.sh("journalctl --sync")
    assert json.loads(guest.sh("safe-modprobectl repeats --json").stdout)["pending"] == []
    assert recorded(guest, FLOODER) + sum(counts(guest)) == request_count(), (recorded(guest, FLOODER), counts(guest))
    found = json.loads(guest.sh(f"safe-modprobectl log --json --user {FLOODER}").stdout)
    assert sum(each["times"] for each in found["counted"]) == sum(counts(guest)), found["counted"]
    assert sum(each["times"] for each in found["groups"]) == recorded(guest, FLOODER)
    state = guest.sh("systemctl show -P Result safe-modprobe-counts.service safe-modprobe-counts.path").stdout.split()
    assert state == ["success", "success"], state
