"""An admin tries a policy before it counts: everything is let through, whoever refuses it, and that is recorded."""

import json
import os

from edits import ETC, MARKED, NEEDS_MARKED, RUN, SITE, ctl, got, got_open, refused
from edits import setup as no_rows
from guest import Guest

NET_ADMIN, SOFTDEP, NESTED = 37, 36, 33

TRIAL = f"{RUN}/00-trial.toml"
FIRST = f"{ETC}/05-a.toml"
DECIDE, AWAY = (f"/usr/lib/safe-modprobe/safe_modprobe/decide.{ending}" for ending in ("py", "away"))
BUT_FOR = "; it would be denied without the trial"


def setup(guest: Guest) -> None:
    """Before each test: on trial, no row of the admin's, and nothing of ours in the kernel."""
    guest.sh(f"rm -f /etc/modprobe.d/install.conf /run/ran; test ! -e {AWAY} || mv {AWAY} {DECIDE}")
    no_rows(guest)
    if not os.path.exists(TRIAL):
        begin(guest)


def begin(guest: Guest) -> None:
    said = ctl(guest, "enable --runtime --trial")
    assert f"a trial is on: nothing is refused, what would be is recorded [{TRIAL}]\n" in said, said


def let_through(guest: Guest) -> str:
    """The last record, which is of what a trial let through."""
    message = guest.log()[-1]
    assert message.startswith("allowed (log) ") and BUT_FOR in message, guest.log()[-3:]
    return message


def test_a_marker(guest: Guest) -> None:
    assert got(guest, 1000, MARKED, "smp_marked")
    assert "'net-pf-21' (smp_marked) to uid 1000 " in let_through(guest)


def test_a_mark_with_what_the_module_needs(guest: Guest) -> None:
    assert got(guest, 1000, 38, "af_alg", 5)
    assert "CVE-2026-31431" in let_through(guest)
    assert got(guest, 1000, NEEDS_MARKED, "smp_needs_marked")
    let_through(guest)


def test_a_soft_dependency_and_a_nested_request(guest: Guest) -> None:
    assert got(guest, 1000, SOFTDEP, "smp_marked")
    let_through(guest)
    assert got(guest, 1000, NESTED, "smp_nested_marked")
    let_through(guest)


def test_root_of_a_user_namespace(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(NET_ADMIN), user_namespace=True)
    assert "smp_net_admin" in guest.modules()
    let_through(guest)


def test_the_modes(guest: Guest) -> None:
    for mode in ("disabled", "privileged"):
        guest.write(FIRST, f'[settings]\nmode = "{mode}"\n')
        assert got_open(guest, 1000), mode
        assert f"mode is {mode}" in let_through(guest)


def test_a_rule_even_against_root_and_a_quiet_one(guest: Guest) -> None:
    guest.write(FIRST, 'rule = [{ modules = ["smp_*"], action = "deny", reason = "for everyone", quiet = true }]\n')
    assert got_open(guest, 0)
    assert "for everyone" in let_through(guest)
    assert got(guest, 1000, MARKED, "smp_marked")
    assert "for everyone" in let_through(guest)


def test_grsecuritys_arguments(guest: Guest) -> None:
    guest.write(FIRST, "[settings]\nforward_kernel_args = true\n")
    for argument in ("normal1000_", "normal_", "netdev", "fs"):
        done = guest.sh(f"safe-modprobe -q -- smp_marked grsec_modharden_{argument}")
        assert done.returncode == 0 and "smp_marked" in guest.modules(), argument
        let_through(guest)
        guest.unload("smp_marked")


def test_an_install_command(guest: Guest) -> None:
    guest.write("/etc/modprobe.d/install.conf", "install smp_open touch /run/ran\n")
    assert not got_open(guest, 1000)
    assert guest.sh("test -e /run/ran").returncode == 0
    assert "install command" in let_through(guest)


def test_an_unknown_caller(guest: Guest) -> None:
    guest.write(FIRST, '[settings]\nsources = ["bpf"]\n')
    assert got(guest, 1000, MARKED, "smp_marked")
    assert "to an unknown caller (none)" in let_through(guest)


def test_without_tracefs(guest: Guest) -> None:
    guest.sh("rmdir /sys/kernel/tracing/instances/safe-modprobe")
    assert got(guest, 1000, MARKED, "smp_marked")
    let_through(guest)


def test_a_policy_that_broke_meanwhile(guest: Guest) -> None:
    guest.write(SITE, "nonsense")
    assert got(guest, 1000, MARKED, "smp_marked")
    let_through(guest)
    assert "policy error, the trial goes on: " in guest.log()[-2], guest.log()[-2:]
    assert refused(guest, "enable --runtime").endswith("so this is not TOML; the trial goes on")
    assert got(guest, 1000, MARKED, "smp_marked")


def test_a_trial_of_a_policy_that_is_broken_already(guest: Guest) -> None:
    os.unlink(TRIAL)
    guest.write(SITE, "nonsense")
    done = guest.sh("safe-modprobectl enable --runtime --trial")
    assert done.returncode == 0 and f"{SITE}:1: " in done.stderr and "until it is mended" in done.stderr, done
    assert got(guest, 1000, MARKED, "smp_marked")
    let_through(guest)


def test_a_helper_that_broke(guest: Guest) -> None:
    os.rename(DECIDE, AWAY)
    assert got(guest, 1000, MARKED, "smp_marked")
    assert "; any request of a trial is left to /sbin/modprobe" in guest.log()[-1], guest.log()[-1:]
    os.unlink(TRIAL)
    assert not got(guest, 1000, MARKED, "smp_marked")


def test_the_end_of_a_trial_refuses_again(guest: Guest) -> None:
    assert "the trial has ended" in ctl(guest, "enable --runtime")
    assert not got(guest, 1000, MARKED, "smp_marked")
    assert guest.log()[-1].startswith("denied "), guest.log()[-1:]
    begin(guest)
    ctl(guest, "disable")
    assert not os.path.exists(TRIAL)


def test_what_would_end_a_trial_before_it_begins_is_named(guest: Guest) -> None:
    os.unlink(TRIAL)
    guest.sh(f"ln -s /dev/null {ETC}/00-trial.toml")
    said = refused(guest, "enable --runtime --trial")
    assert said == (
        f"{ETC}/00-trial.toml: it takes the place of {TRIAL}, so a trial would not hold; nothing was changed, remove it"
    ), said
    guest.sh(f"rm {ETC}/00-trial.toml")
    guest.write(f"{ETC}/00-a.toml", "[settings]\ntrial = false\n")
    said = refused(guest, "enable --runtime --trial")
    assert said == f"00-a.toml:2: it says trial = false before {TRIAL} can; remove that line", said
    assert not os.path.exists(TRIAL)
    assert not got(guest, 1000, MARKED, "smp_marked")


def test_an_admins_own_trial_outlasts_enable_which_says_so(guest: Guest) -> None:
    os.unlink(TRIAL)
    guest.write(SITE, "[settings]\ntrial = true\n")
    said = ctl(guest, "enable --runtime")
    assert "a trial goes on: 10-site.toml:2 says trial = true" in said, said
    assert got(guest, 1000, MARKED, "smp_marked")
    let_through(guest)


def test_a_row_is_checked_as_if_there_were_no_trial(guest: Guest) -> None:
    said = json.loads(ctl(guest, "mark smp_open --reason test --json"))
    assert said["trial"] is True and said["verdicts"][0]["verdict"] == "deny", said
    assert got_open(guest, 1000)
    ctl(guest, "enable --runtime")
    assert not got_open(guest, 1000)
