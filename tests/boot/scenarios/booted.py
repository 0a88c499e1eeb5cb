"""The next boot: it is on before anybody asks, it costs little, and all is well."""

import json
import os
import re

from agent import say
from guest import Guest
from whole import HELPER, UNIT, USUAL, current, failed, got, in_time, setup, state, well  # noqa: F401

CODE = "/usr/lib/safe-modprobe/safe_modprobe"
PYTHON = "/usr/bin/python3"
WATCH, PATH, TIMER = (f"safe-modprobe-watch.{kind}" for kind in ("service", "path", "timer"))


def test_it_is_on(guest: Guest) -> None:
    assert current() == HELPER
    assert state(guest, UNIT) == ("enabled", "active")
    assert os.path.isdir("/sys/kernel/tracing/instances/safe-modprobe")


def test_all_units_are_well(guest: Guest) -> None:
    assert guest.sh("systemctl is-system-running --wait").stdout == "running\n", failed(guest)


def test_it_came_before_sysinit_target(guest: Guest) -> None:
    def when(unit: str) -> int:
        return int(well(guest, f"systemctl show -P ActiveEnterTimestampMonotonic {unit}"))

    assert 0 < when("sys-kernel-tracing.mount") < when(UNIT) < when("sysinit.target")


def test_its_cost_is_known(guest: Guest) -> None:
    """Printed with the tests' results, for what seconds mean where all is emulated."""
    blame = well(guest, "systemd-analyze blame --no-pager")
    time = next(line.strip() for line in blame.splitlines() if line.endswith(UNIT))
    whole = well(guest, "systemd-analyze time").splitlines()[0]
    cpu = int(well(guest, f"systemctl show -P CPUUsageNSec {UNIT}")) / 1e9
    say({"note": f"systemd-analyze: {time} ({cpu:.1f} s of processor time); {whole}"})
    assert cpu < 5, cpu
    assert re.match(r"[\d.]+m?s safe-modprobe.service$", time), time


def test_a_user_is_refused_and_root_is_served(guest: Guest) -> None:
    assert not got(guest, 1000)
    assert got(guest, 0)


def test_the_journal_has_the_fields(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))

    def last() -> dict:
        text = guest.sh("journalctl -q -b -o json -n 1 -t safe-modprobe SAFE_MODPROBE_VERDICT=deny").stdout
        return json.loads(text) if text else {}

    in_time(guest, lambda: last().get("SAFE_MODPROBE_CALLER_UID") == "1000")
    fields = last()
    assert (fields["SAFE_MODPROBE_ALIAS"], fields["SAFE_MODPROBE_MODULES"]) == ("net-pf-38", "af_alg"), fields
    assert (fields["SAFE_MODPROBE_SOURCE"], fields["SAFE_MODPROBE_CALLER_UNIT"]) == ("tracefs", "job.service"), fields
    assert re.fullmatch("[0-9a-f]{32}", fields["MESSAGE_ID"])


def test_status_has_nothing_to_say(guest: Guest) -> None:
    said = json.loads(well(guest, "safe-modprobectl status --json"))
    assert (said["state"], said["protects"], said["at_boot"]) == ("on", True, True), said
    assert [each for each in said["problems"] if each["severity"] != "note"] == [], said["problems"]


def test_nobody_was_refused_during_the_boot(guest: Guest) -> None:
    """But the users of these tests."""
    text = well(guest, "journalctl -q -b -o json SAFE_MODPROBE_VERDICT=deny")
    refused = [json.loads(line) for line in text.splitlines()]
    assert [each for each in refused if each.get("SAFE_MODPROBE_CALLER_UID") != "1000"] == []


def test_a_helper_that_does_not_run_is_noticed(guest: Guest) -> None:
    os.rename(PYTHON, f"{PYTHON}.away")
    try:
        in_time(guest, lambda: current() == USUAL)
        assert got(guest, 0)
        in_time(guest, lambda: state(guest, WATCH)[1] == "failed")
    finally:
        os.rename(f"{PYTHON}.away", PYTHON)
    in_time(guest, lambda: current() == HELPER)
    in_time(guest, lambda: failed(guest) == [])
    assert not got(guest, 1000)


def test_an_extension_of_another_python_is_noticed(guest: Guest) -> None:
    name = next(name for name in os.listdir(CODE) if name.startswith("kmod.") and name.endswith(".so"))
    os.rename(f"{CODE}/{name}", f"{CODE}/{name}.away")
    try:
        in_time(guest, lambda: state(guest, WATCH)[1] == "failed")
        assert current() == HELPER
        assert not got(guest, 1000)
        assert got(guest, 0)
        assert "root's requests are left to modprobe" in well(guest, "journalctl -q -b -t safe-modprobe -p err")
    finally:
        os.rename(f"{CODE}/{name}.away", f"{CODE}/{name}")
    in_time(guest, lambda: failed(guest) == [])


def test_a_boot_that_failed_is_done_again(guest: Guest) -> None:
    """As in the middle of an upgrade: the interpreter is not there while the unit is started, and comes later."""
    well(guest, f"systemctl stop {UNIT}")
    os.rename(PYTHON, f"{PYTHON}.away")
    try:
        assert guest.sh(f"systemctl start {UNIT}").returncode != 0
        assert (current(), state(guest, UNIT)[1], state(guest, TIMER)[1]) == (USUAL, "failed", "active")
    finally:
        os.rename(f"{PYTHON}.away", PYTHON)
    in_time(guest, lambda: current() == HELPER, 90)
    in_time(guest, lambda: state(guest, UNIT)[1] == "active" and failed(guest) == [])
    well(guest, f"systemctl restart {WATCH}")
    in_time(guest, lambda: state(guest, TIMER)[1] == "inactive")
    assert not got(guest, 1000)
    assert got(guest, 0)


def test_who_stops_it_is_not_asked_again(guest: Guest) -> None:
    """Neither in this boot, nor because its ring was busy meanwhile."""
    with open("/sys/kernel/tracing/instances/safe-modprobe/trace_pipe"):
        well(guest, f"systemctl stop {UNIT}")
    well(guest, f"systemctl restart {WATCH}")
    assert (current(), state(guest, UNIT), state(guest, TIMER)[1]) == (USUAL, ("enabled", "inactive"), "inactive")
    well(guest, f"systemctl start {UNIT}")
    assert current() == HELPER


def test_it_comes_back_though_nothing_changes(guest: Guest) -> None:
    """What the path does not see, the timer does: here the path is stopped meanwhile."""
    well(guest, f"systemctl stop {PATH}")
    os.rename(PYTHON, f"{PYTHON}.away")
    try:
        assert guest.sh(f"systemctl restart {WATCH}").returncode != 0
        assert (current(), state(guest, TIMER)[1]) == (USUAL, "active")
    finally:
        os.rename(f"{PYTHON}.away", PYTHON)
    assert current() == USUAL
    in_time(guest, lambda: current() == HELPER, 100)
    in_time(guest, lambda: state(guest, TIMER)[1] == "inactive" and failed(guest) == [])
    well(guest, f"systemctl start {PATH}")


def test_counts_are_recorded_however_often_there_are_some(guest: Guest) -> None:
    """Five in ten seconds are systemd's own limit, after which it would start nothing any more."""
    for _ in range(9):
        guest.write("/run/safe-modprobe/counts.pending", "")
        in_time(guest, lambda: not os.path.exists("/run/safe-modprobe/counts.pending"))
        in_time(guest, lambda: state(guest, "safe-modprobe-counts.service")[1] == "inactive")
    assert state(guest, "safe-modprobe-counts.path")[1] == "active" and failed(guest) == []


def test_another_kernel_that_was_installed_changes_nothing(guest: Guest) -> None:
    """Its modules are there for its own boot; those of the kernel that runs are what is asked for until then."""
    release = os.uname().release
    well(
        guest, f"cp -al /lib/modules/{release} /lib/modules/9.9.9 && find /lib/modules/9.9.9 -name 'modules.*' -delete"
    )
    try:
        assert not got(guest, 1000)
        assert got(guest, 0), "without indexes, as while they are made"
        well(guest, "cp /lib/modules/$(uname -r)/modules.* /lib/modules/9.9.9")
        done = guest.sh("safe-modprobectl explain --json --kernel 9.9.9 --uid 1000 net-pf-38")
        assert json.loads(done.stdout)["verdict"] == "deny", done
        assert not got(guest, 1000)
        assert got(guest, 0)
    finally:
        well(guest, "rm -r /lib/modules/9.9.9")
