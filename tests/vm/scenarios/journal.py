"""The journal keeps verdicts with their fields, and a user cannot flood it.

The flood comes first, because repeats.py checks its counted records at least a minute later.
"""

import json
import os
import threading
import time

from guest import Guest

FLOOD_NAMES, FLOOD_S, THREADS = 40, 45, 8
MAX_RECORDS = 30
"""The number of records that one user can cause in a minute."""
COUNTS_LAST = True  # The agent keeps the counts from one test to the next.
FLOODER, BYSTANDER = 1200, 1201
REPEATED = "c1a56e9f8946483784e10c0a33b4f559"
TEXTFILES = "/var/lib/prometheus/node-exporter"


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on and unload AF_ALG, before each test."""
    guest.unload("af_alg")
    guest.switch_on()


def records(guest: Guest) -> list[dict]:
    """Return our records in the journal, oldest first, without those of counts."""
    time.sleep(0.5)  # journald writes with a delay.
    text = guest.sh("journalctl -q -o json -t safe-modprobe").stdout
    found = [json.loads(line) for line in text.splitlines()]
    return [each for each in found if each.get("MESSAGE_ID") != REPEATED]


def counts(guest: Guest) -> list[int]:
    """Return how many of the flooder's refusals each record of counts covers."""
    text = guest.sh(f"journalctl -q -o json MESSAGE_ID={REPEATED} SAFE_MODPROBE_CALLER_UID={FLOODER}").stdout
    return [int(json.loads(line)["SAFE_MODPROBE_TIMES"]) for line in text.splitlines()]


def recorded(guest: Guest, uid: int) -> int:
    """Count the records of this caller."""
    return sum(each.get("SAFE_MODPROBE_CALLER_UID") == str(uid) for each in records(guest))


def test_a_flood_of_names_leaves_few_records(guest: Guest) -> None:
    guest.write("/etc/modprobe.d/flood.conf", "alias flood-* smp_marked\n")
    assert guest.sh("journalctl --update-catalog && systemctl start safe-modprobe-counts.path").returncode == 0

    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            guest.become(FLOODER)
            threads = [threading.Thread(target=request_names, args=(guest, first)) for first in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            os._exit(0)
    time.sleep(3)
    guest.run_as(BYSTANDER, lambda: guest.ask_raw(b"flood-bystander"))
    os.waitpid(pid, 0)
    minutes = 1 + int(time.monotonic() - started) // 60
    mine = recorded(guest, FLOODER)
    assert MAX_RECORDS <= mine <= MAX_RECORDS * minutes, (mine, minutes)
    assert recorded(guest, BYSTANDER) == 1
    pending = json.loads(guest.sh("safe-modprobectl repeats --json").stdout)["pending"]
    assert [each["first"] for each in pending] == [FLOODER], pending
    assert mine + sum(counts(guest)) + pending[0]["counted"] == request_count() > mine, (mine, pending)


def request_names(guest: Guest, first: int) -> None:
    """Request every eighth name from this one on, until FLOOD_S seconds are over. Emulation may be slow."""
    end = time.monotonic() + FLOOD_S
    for number in range(first, FLOOD_NAMES, THREADS):
        if time.monotonic() > end:
            break
        guest.ask_raw(b"flood-%d" % number)
        open(f"/tmp/asked-{number}", "w").close()


def request_count() -> int:
    """Return how many requests the flood made."""
    return sum(name.startswith("asked-") for name in os.listdir("/tmp"))


def test_a_refusal_is_in_the_journal_with_its_fields(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    last = records(guest)[-1]
    assert last["SAFE_MODPROBE_VERDICT"] == "deny", last
    assert last["SAFE_MODPROBE_ALIAS"] == "net-pf-38"
    assert last["SAFE_MODPROBE_MODULES"] == "af_alg"
    assert last["SAFE_MODPROBE_CALLER_UID"] == "1000"
    assert last["SAFE_MODPROBE_SOURCE"] == "tracefs"
    assert last["SAFE_MODPROBE_ORIGIN"].startswith("50-exploited-2026.toml:")
    assert last["SAFE_MODPROBE_CALLER_UNIT"] == "job.service"
    assert last["PRIORITY"] == "4"
    assert last["_UID"] == "0"
    assert "to allow it, add rule = [{" in last["MESSAGE"]


def test_an_allowed_request_is_in_the_journal(guest: Guest) -> None:
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    last = records(guest)[-1]
    assert (last["SAFE_MODPROBE_VERDICT"], last["PRIORITY"]) == ("allow", "6"), last


def test_a_rule_by_unit_can_refuse_root(guest: Guest) -> None:
    guest.write(
        "/etc/safe-modprobe/policy.d/05-unit.toml",
        "rule = [{ aliases = ['net-pf-38'], units = ['job.service'], action = 'deny', reason = 'by unit' }]\n",
    )
    try:
        guest.run_as(0, lambda: guest.ask_socket(38, 5))
        last = records(guest)[-1]
        assert last["SAFE_MODPROBE_VERDICT"] == "deny" and "by unit" in last["MESSAGE"], last
        assert last["SAFE_MODPROBE_ORIGIN"] == "05-unit.toml:1"
    finally:
        guest.sh("rm /etc/safe-modprobe/policy.d/05-unit.toml")


def test_a_cgroup_named_like_a_unit_does_not_match_a_rule_by_unit(guest: Guest) -> None:
    guest.write(
        "/etc/safe-modprobe/policy.d/05-unit.toml",
        "rule = [{ units = ['trusted.service'], action = 'allow' }]\n",
    )
    try:
        path = "/sys/fs/cgroup/system.slice/job.service/trusted.service"
        guest.sh(f"mkdir -p {path}")

        guest.sh(
            f"echo $$ > {path}/cgroup.procs; setpriv --reuid 1000 --regid 1000 --clear-groups python3 -c"
            " 'import socket; socket.socket(38, 5)'"
        )
        assert "af_alg" not in guest.modules()
    finally:
        guest.sh("rm /etc/safe-modprobe/policy.d/05-unit.toml")


def test_prometheus_metrics_agree_with_the_requests(guest: Guest) -> None:
    """The timer's service writes them. Its sandbox must let it read as much as root can."""
    os.makedirs(TEXTFILES, exist_ok=True)
    done = guest.sh("systemctl start safe-modprobe-metrics.service; journalctl -q -u safe-modprobe-metrics.service")
    with open(f"{TEXTFILES}/safe-modprobe.prom") as file:
        lines = file.read().splitlines()
    numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert numbers["safe_modprobe_protecting"] == "1.0", (done, numbers)
    assert numbers['safe_modprobe_source_in_use{source="tracefs"}'] == "1.0", numbers
    assert (
        float(numbers['safe_modprobe_requests_total{origin="marker",source="tracefs",verdict="deny"}'])
        > request_count()
    )
    assert float(numbers['safe_modprobe_records_suppressed_total{kind="deny"}']) == request_count() - recorded(
        guest, FLOODER
    )
    assert abs(float(numbers["safe_modprobe_last_refusal_timestamp_seconds"]) - time.time()) < 300
    plain = guest.sh("safe-modprobectl metrics").stdout.splitlines()
    assert [line.rsplit(" ", 1)[0] for line in plain] == [line.rsplit(" ", 1)[0] for line in lines]
    assert os.listdir(TEXTFILES) == ["safe-modprobe.prom"]


def test_journalctl_explains_a_refusal(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    text = guest.sh(
        "journalctl --sync; journalctl -q -x -t safe-modprobe -n 1 -o short SAFE_MODPROBE_CALLER_UID=1000"
    ).stdout
    assert "Subject: A module was denied to a caller without privilege: af_alg" in text, text
    assert 'rule = [{ modules = ["af_alg"], users = [1000], action = "allow" }] in the new file /etc' in text, text
