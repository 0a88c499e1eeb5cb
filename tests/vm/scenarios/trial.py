"""During a trial every request is allowed, and a record says what the policy would have refused."""

import json
import os

from edits import ETC, MARKED, NEEDS_MARKED, RUN, SITE, ctl, got, got_open, refused
from edits import setup as reset_policy
from guest import Guest

NET_ADMIN, SOFTDEP, NESTED = 37, 36, 33

TRIAL = f"{RUN}/00-trial.toml"
FIRST = f"{ETC}/05-a.toml"
DECIDE, AWAY = (f"/usr/lib/safe-modprobe/safe_modprobe/decide.{ending}" for ending in ("py", "away"))
BUT_FOR = "; it would be denied without the trial"


def setup(guest: Guest) -> None:
    """Start a trial, remove the administrator's policy and unload the test modules, before each test."""
    guest.sh(f"rm -f /etc/modprobe.d/install.conf /run/ran; test ! -e {AWAY} || mv {AWAY} {DECIDE}")
    reset_policy(guest)
    if not os.path.exists(TRIAL):
        begin_trial(guest)


def begin_trial(guest: Guest) -> None:
    output = ctl(guest, "enable --runtime --trial")
    assert f"a trial is on: nothing is refused, and would-be refusals are recorded [{TRIAL}]\n" in output, output


def let_through(guest: Guest) -> str:
    """Return the last record, which must be of a request that only the trial allowed."""
    message = guest.log()[-1]
    assert message.startswith("allowed (log) ") and BUT_FOR in message, guest.log()[-3:]
    return message


def test_a_module_with_a_marker_is_allowed(guest: Guest) -> None:
    assert got(guest, 1000, MARKED, "smp_marked")
    assert "'net-pf-21' (smp_marked) to uid 1000 " in let_through(guest)


def test_a_module_marked_by_policy_is_allowed_with_its_dependencies(guest: Guest) -> None:
    assert got(guest, 1000, 38, "af_alg", 5)
    assert "CVE-2026-31431" in let_through(guest)
    assert got(guest, 1000, NEEDS_MARKED, "smp_needs_marked")
    let_through(guest)


def test_a_soft_dependency_and_a_nested_request_are_allowed(guest: Guest) -> None:
    assert got(guest, 1000, SOFTDEP, "smp_marked")
    let_through(guest)
    assert got(guest, 1000, NESTED, "smp_nested_marked")
    let_through(guest)


def test_root_of_a_user_namespace_is_allowed(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(NET_ADMIN), user_namespace=True)
    assert "smp_net_admin" in guest.modules()
    let_through(guest)


def test_requests_are_allowed_in_every_mode(guest: Guest) -> None:
    for mode in ("disabled", "privileged"):
        guest.write(FIRST, f'[settings]\nmode = "{mode}"\n')
        assert got_open(guest, 1000), mode
        assert f"mode is {mode}" in let_through(guest)


def test_a_deny_rule_refuses_nobody_and_its_quiet_key_is_ignored(guest: Guest) -> None:
    guest.write(FIRST, 'rule = [{ modules = ["smp_*"], action = "deny", reason = "for everyone", quiet = true }]\n')
    assert got_open(guest, 0)
    assert "for everyone" in let_through(guest)
    assert got(guest, 1000, MARKED, "smp_marked")
    assert "for everyone" in let_through(guest)


def test_callers_named_by_grsecuritys_arguments_are_allowed(guest: Guest) -> None:
    guest.write(FIRST, "[settings]\nforward_kernel_args = true\n")
    for argument in ("normal1000_", "normal_", "netdev", "fs"):
        done = guest.sh(f"safe-modprobe -q -- smp_marked grsec_modharden_{argument}")
        assert done.returncode == 0 and "smp_marked" in guest.modules(), argument
        let_through(guest)
        guest.unload("smp_marked")


def test_an_install_command_runs_for_a_user(guest: Guest) -> None:
    guest.write("/etc/modprobe.d/install.conf", "install smp_open touch /run/ran\n")
    assert not got_open(guest, 1000)
    assert guest.sh("test -e /run/ran").returncode == 0
    assert "install command" in let_through(guest)


def test_an_unknown_caller_is_allowed(guest: Guest) -> None:
    guest.write(FIRST, '[settings]\nsources = ["bpf"]\n')
    assert got(guest, 1000, MARKED, "smp_marked")
    assert "to an unknown caller (none)" in let_through(guest)


def test_a_user_is_allowed_without_tracefs(guest: Guest) -> None:
    guest.sh("rmdir /sys/kernel/tracing/instances/safe-modprobe")
    assert got(guest, 1000, MARKED, "smp_marked")
    let_through(guest)


def test_a_trial_continues_when_the_policy_breaks(guest: Guest) -> None:
    guest.write(SITE, "nonsense")
    assert got(guest, 1000, MARKED, "smp_marked")
    let_through(guest)
    assert "policy error, the trial goes on: " in guest.log()[-2], guest.log()[-2:]
    assert refused(guest, "enable --runtime").endswith("so this is not TOML; the trial continues")
    assert got(guest, 1000, MARKED, "smp_marked")


def test_a_trial_can_start_with_a_broken_policy(guest: Guest) -> None:
    os.unlink(TRIAL)
    guest.write(SITE, "nonsense")
    done = guest.sh("safe-modprobectl enable --runtime --trial")
    assert done.returncode == 0 and f"{SITE}:1: " in done.stderr and "until you mend it" in done.stderr, done
    assert got(guest, 1000, MARKED, "smp_marked")
    let_through(guest)


def test_a_trial_continues_when_the_helper_breaks(guest: Guest) -> None:
    os.rename(DECIDE, AWAY)
    assert got(guest, 1000, MARKED, "smp_marked")
    assert "; left to /sbin/modprobe: a trial refuses nothing" in guest.log()[-1], guest.log()[-1:]
    os.unlink(TRIAL)
    assert not got(guest, 1000, MARKED, "smp_marked")


def test_requests_are_refused_again_after_a_trial(guest: Guest) -> None:
    assert "the trial has ended" in ctl(guest, "enable --runtime")
    assert not got(guest, 1000, MARKED, "smp_marked")
    assert guest.log()[-1].startswith("denied "), guest.log()[-1:]
    begin_trial(guest)
    ctl(guest, "disable")
    assert not os.path.exists(TRIAL)


def test_enable_names_the_file_or_line_that_would_prevent_a_trial(guest: Guest) -> None:
    os.unlink(TRIAL)
    guest.sh(f"ln -s /dev/null {ETC}/00-trial.toml")
    output = refused(guest, "enable --runtime --trial")
    assert output == (
        f"{ETC}/00-trial.toml: it replaces {TRIAL}, so a trial would have no effect; nothing was changed; remove it"
    ), output
    guest.sh(f"rm {ETC}/00-trial.toml")
    guest.write(f"{ETC}/00-a.toml", "[settings]\ntrial = false\n")
    output = refused(guest, "enable --runtime --trial")
    assert output == f"00-a.toml:2: trial = false here overrides {TRIAL}; remove that line", output
    assert not os.path.exists(TRIAL)
    assert not got(guest, 1000, MARKED, "smp_marked")


def test_a_trial_in_the_administrators_policy_continues_after_enable(guest: Guest) -> None:
    os.unlink(TRIAL)
    guest.write(SITE, "[settings]\ntrial = true\n")
    output = ctl(guest, "enable --runtime")
    assert "a trial continues: 10-site.toml:2 says trial = true" in output, output
    assert got(guest, 1000, MARKED, "smp_marked")
    let_through(guest)


def test_mark_checks_its_row_as_if_there_were_no_trial(guest: Guest) -> None:
    result = json.loads(ctl(guest, "mark smp_open --reason test --json"))
    assert result["trial"] is True and result["verdicts"][0]["verdict"] == "deny", result
    assert got_open(guest, 1000)
    ctl(guest, "enable --runtime")
    assert not got_open(guest, 1000)
