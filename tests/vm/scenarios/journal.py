"""A whole system: systemd's journal keeps the verdicts, with their fields."""

import json
import time

from guest import Guest


def setup(guest: Guest) -> None:
    """Before each test: switched on, and AF_ALG not in the kernel."""
    guest.unload("af_alg")
    if not guest.enabled():
        done = guest.sh("safe-modprobectl enable --runtime")
        assert done.returncode == 0, done.stderr


def records(guest: Guest) -> list[dict]:
    time.sleep(0.5)  # journald writes when it gets to it
    text = guest.sh("journalctl -q -o json -t safe-modprobe").stdout
    return [json.loads(line) for line in text.splitlines()]


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
    assert "to let it through: rule = [{" in last["MESSAGE"]


def test_an_approval_is_in_the_journal(guest: Guest) -> None:
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    last = records(guest)[-1]
    assert (last["SAFE_MODPROBE_VERDICT"], last["PRIORITY"]) == ("allow", "6"), last


def test_a_rule_by_unit_refuses_root_itself(guest: Guest) -> None:
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


def test_a_users_own_unit_name_is_not_believed(guest: Guest) -> None:
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
