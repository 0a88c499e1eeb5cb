"""A boot with safe-modprobe enabled: it is on in time, costs little, and recovers from failures of the helper."""

import json
import os
import re

from agent import say
from guest import Guest
from system import (
    HELPER,
    UNIT,
    USUAL,
    check_output,
    failed_units,
    kernel_helper,
    loads_af_alg,
    setup,  # noqa: F401
    unit_state,
    wait_until,
)

CODE = "/usr/lib/safe-modprobe/safe_modprobe"
PYTHON = "/usr/bin/python3"
WATCH, PATH, TIMER = (f"safe-modprobe-watch.{kind}" for kind in ("service", "path", "timer"))


def test_safe_modprobe_is_on_after_the_boot(guest: Guest) -> None:
    assert kernel_helper() == HELPER
    assert unit_state(guest, UNIT) == ("enabled", "active")
    assert os.path.isdir("/sys/kernel/tracing/instances/safe-modprobe")


def test_no_unit_has_failed(guest: Guest) -> None:
    assert guest.sh("systemctl is-system-running --wait").stdout == "running\n", failed_units(guest)


def test_it_is_switched_on_before_sysinit_target(guest: Guest) -> None:
    def activated(unit: str) -> int:
        return int(check_output(guest, f"systemctl show -P ActiveEnterTimestampMonotonic {unit}"))

    assert 0 < activated("sys-kernel-tracing.mount") < activated(UNIT) < activated("sysinit.target")


def test_switching_on_costs_little(guest: Guest) -> None:
    """Seconds mean little in an emulated machine, so they are also printed with the tests' results."""
    blame = check_output(guest, "systemd-analyze blame --no-pager")
    time = next(line.strip() for line in blame.splitlines() if line.endswith(UNIT))
    total = check_output(guest, "systemd-analyze time").splitlines()[0]
    cpu = int(check_output(guest, f"systemctl show -P CPUUsageNSec {UNIT}")) / 1e9
    say({"note": f"systemd-analyze: {time} ({cpu:.1f} s of processor time); {total}"})
    assert cpu < 5, cpu
    assert re.match(r"[\d.]+m?s safe-modprobe.service$", time), time


def test_a_user_is_refused_and_root_is_not(guest: Guest) -> None:
    assert not loads_af_alg(guest, 1000)
    assert loads_af_alg(guest, 0)


def test_the_journal_has_the_fields_of_a_refusal(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))

    def last_refusal() -> dict:
        text = guest.sh("journalctl -q -b -o json -n 1 -t safe-modprobe SAFE_MODPROBE_VERDICT=deny").stdout
        return json.loads(text) if text else {}

    wait_until(guest, lambda: last_refusal().get("SAFE_MODPROBE_CALLER_UID") == "1000")
    fields = last_refusal()
    assert (fields["SAFE_MODPROBE_ALIAS"], fields["SAFE_MODPROBE_MODULES"]) == ("net-pf-38", "af_alg"), fields
    assert (fields["SAFE_MODPROBE_SOURCE"], fields["SAFE_MODPROBE_CALLER_UNIT"]) == ("tracefs", "job.service"), fields
    assert re.fullmatch("[0-9a-f]{32}", fields["MESSAGE_ID"])


def test_status_reports_no_problem(guest: Guest) -> None:
    status = json.loads(check_output(guest, "safe-modprobectl status --json"))
    assert (status["state"], status["protects"], status["at_boot"]) == ("on", True, True), status
    assert [each for each in status["problems"] if each["severity"] != "note"] == [], status["problems"]


def test_the_boot_itself_caused_no_refusal(guest: Guest) -> None:
    """Only the unprivileged user of these tests was refused."""
    text = check_output(guest, "journalctl -q -b -o json SAFE_MODPROBE_VERDICT=deny")
    refused = [json.loads(line) for line in text.splitlines()]
    assert [each for each in refused if each.get("SAFE_MODPROBE_CALLER_UID") != "1000"] == []


def test_a_helper_that_does_not_run_is_noticed(guest: Guest) -> None:
    os.rename(PYTHON, f"{PYTHON}.away")
    try:
        wait_until(guest, lambda: kernel_helper() == USUAL)
        assert loads_af_alg(guest, 0)
        wait_until(guest, lambda: unit_state(guest, WATCH)[1] == "failed")
    finally:
        os.rename(f"{PYTHON}.away", PYTHON)
    wait_until(guest, lambda: kernel_helper() == HELPER)
    wait_until(guest, lambda: failed_units(guest) == [])
    assert not loads_af_alg(guest, 1000)


def test_an_extension_of_another_python_is_noticed(guest: Guest) -> None:
    name = next(name for name in os.listdir(CODE) if name.startswith("kmod.") and name.endswith(".so"))
    os.rename(f"{CODE}/{name}", f"{CODE}/{name}.away")
    try:
        wait_until(guest, lambda: unit_state(guest, WATCH)[1] == "failed")
        assert kernel_helper() == HELPER
        assert not loads_af_alg(guest, 1000)
        assert loads_af_alg(guest, 0)
        assert "root's requests are left to modprobe" in check_output(guest, "journalctl -q -b -t safe-modprobe -p err")
    finally:
        os.rename(f"{CODE}/{name}.away", f"{CODE}/{name}")
    wait_until(guest, lambda: failed_units(guest) == [])


def test_switching_on_is_retried_after_a_failure(guest: Guest) -> None:
    """The interpreter is missing while the unit starts, as in the middle of an upgrade, and returns later."""
    check_output(guest, f"systemctl stop {UNIT}")
    os.rename(PYTHON, f"{PYTHON}.away")
    try:
        assert guest.sh(f"systemctl start {UNIT}").returncode != 0
        assert (kernel_helper(), unit_state(guest, UNIT)[1], unit_state(guest, TIMER)[1]) == (
            USUAL,
            "failed",
            "active",
        )
    finally:
        os.rename(f"{PYTHON}.away", PYTHON)
    wait_until(guest, lambda: kernel_helper() == HELPER, 90)
    wait_until(guest, lambda: unit_state(guest, UNIT)[1] == "active" and failed_units(guest) == [])
    check_output(guest, f"systemctl restart {WATCH}")
    wait_until(guest, lambda: unit_state(guest, TIMER)[1] == "inactive")
    assert not loads_af_alg(guest, 1000)
    assert loads_af_alg(guest, 0)


def test_it_stays_off_after_systemctl_stop(guest: Guest) -> None:
    """The watch does not switch it on again, even if the tracing instance was busy during the stop."""
    with open("/sys/kernel/tracing/instances/safe-modprobe/trace_pipe"):
        check_output(guest, f"systemctl stop {UNIT}")
    check_output(guest, f"systemctl restart {WATCH}")
    assert (kernel_helper(), unit_state(guest, UNIT), unit_state(guest, TIMER)[1]) == (
        USUAL,
        ("enabled", "inactive"),
        "inactive",
    )
    check_output(guest, f"systemctl start {UNIT}")
    assert kernel_helper() == HELPER


def test_the_timer_switches_it_on_again_without_the_path_unit(guest: Guest) -> None:
    """The path unit is stopped during the repair, so only the timer can notice it."""
    check_output(guest, f"systemctl stop {PATH}")
    os.rename(PYTHON, f"{PYTHON}.away")
    try:
        assert guest.sh(f"systemctl restart {WATCH}").returncode != 0
        assert (kernel_helper(), unit_state(guest, TIMER)[1]) == (USUAL, "active")
    finally:
        os.rename(f"{PYTHON}.away", PYTHON)
    assert kernel_helper() == USUAL
    wait_until(guest, lambda: kernel_helper() == HELPER, 100)
    wait_until(guest, lambda: unit_state(guest, TIMER)[1] == "inactive" and failed_units(guest) == [])
    check_output(guest, f"systemctl start {PATH}")


def test_counts_are_recorded_more_often_than_systemds_start_limit(guest: Guest) -> None:
    """By default systemd refuses to start a unit more than five times in ten seconds."""
    for _ in range(9):
        guest.write("/run/safe-modprobe/counts.pending", "")
        wait_until(guest, lambda: not os.path.exists("/run/safe-modprobe/counts.pending"))
        wait_until(guest, lambda: unit_state(guest, "safe-modprobe-counts.service")[1] == "inactive")
    assert unit_state(guest, "safe-modprobe-counts.path")[1] == "active" and failed_units(guest) == []


def test_installing_another_kernel_changes_nothing(guest: Guest) -> None:
    """Until the next boot the helper uses the modules of the running kernel only."""
    release = os.uname().release
    check_output(
        guest, f"cp -al /lib/modules/{release} /lib/modules/9.9.9 && find /lib/modules/9.9.9 -name 'modules.*' -delete"
    )
    try:
        assert not loads_af_alg(guest, 1000)
        assert loads_af_alg(guest, 0), "the other kernel has no indexes yet, as while depmod makes them"
        check_output(guest, "cp /lib/modules/$(uname -r)/modules.* /lib/modules/9.9.9")
        done = guest.sh("safe-modprobectl explain --json --kernel 9.9.9 --uid 1000 net-pf-38")
        assert json.loads(done.stdout)["verdict"] == "deny", done
        assert not loads_af_alg(guest, 1000)
        assert loads_af_alg(guest, 0)
    finally:
        check_output(guest, "rm -r /lib/modules/9.9.9")
