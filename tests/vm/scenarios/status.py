"""`safe-modprobectl status` reports what is wrong with a real machine. until_reboot.py has what lasts until reboot."""

import contextlib
import json
import os
import signal
import time

from guest import Guest

HELPER = "/usr/sbin/safe-modprobe"
CODE = "/usr/lib/safe-modprobe/safe_modprobe"
SYSCTL = "/proc/sys/kernel/modprobe"
INSTANCE = "/sys/kernel/tracing/instances/safe-modprobe"
EVENT = f"{INSTANCE}/events/module/module_request/enable"
COUNTS_LAST = True  # The counts that journal.py made must last until repeats.py runs, a minute later.
CONFIG = f"/boot/config-{os.uname().release}"
SITE = "/etc/safe-modprobe/policy.d/05-site.toml"
BY_PROC = "so only /proc identifies callers, and root may be refused while users make requests"
EXPECTED_NOTES = {"marked-built-in", "marked-loaded", "no-build-options"}
"""Notes that every machine here gets. sch_fq_codel is built in, other tests may load modules, and /boot is missing."""


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on and unload AF_ALG, before each test."""
    guest.unload("algif_hash", "af_alg")
    guest.switch_on()


def status(guest: Guest) -> tuple[int, dict]:
    """Run `status --json`. Return its exit status and output."""
    done = guest.sh("safe-modprobectl status --json")
    assert done.stderr == "" and done.stdout, done
    return done.returncode, json.loads(done.stdout)


def only(report: dict, key: str) -> dict:
    """Return the problem with this key, which must occur exactly once."""
    found = [each for each in report["problems"] if each["key"] == key]
    assert len(found) == 1, report["problems"]
    return found[0]


def expect(guest: Guest, code: int, key: str, severity: str, message: str) -> dict:
    """Check the exit status of `status`, and the full message of one problem. Return the whole output."""
    actual_code, report = status(guest)
    problem = only(report, key)
    actual = (actual_code, problem["severity"], problem["what"])
    assert actual == (code, severity, message), (actual_code, problem)
    return report


def uses(report: dict) -> dict[str, str]:
    """Map each source in the output of `status` to its use."""
    return {each["source"]: each["use"] for each in report["sources"]}


@contextlib.contextmanager
def site(guest: Guest, text: str, path: str = SITE):
    """Write a policy file, and remove it at the end."""
    guest.sh(f"mkdir -p {os.path.dirname(path)}")
    guest.write(path, text)
    try:
        yield
    finally:
        os.unlink(path)


def test_when_on_status_says_so_and_shows_the_last_verdicts(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
    time.sleep(0.5)
    code, report = status(guest)
    assert (code, report["state"], report["protects"], report["mode"]) == (0, "on", True, "marked"), report
    assert {each["key"] for each in report["problems"]} <= EXPECTED_NOTES, report["problems"]
    assert uses(report) == {"kernel-args": "unused", "bpf": "unused", "tracefs": "in use", "proc": "stands by"}
    last = report["verdicts"][0]
    assert (last["verdict"], last["alias"], last["modules"], last["uid"]) == ("deny", "net-pf-38", ["af_alg"], 1000)
    text = guest.sh("safe-modprobectl status")
    lines = text.stdout.splitlines()
    assert (text.returncode, lines[0]) == (0, "safe-modprobe is on and protects"), text
    assert any("deny 'net-pf-38' (af_alg) to uid 1000 tid " in line for line in lines), lines
    assert len(lines) < 24, lines


def test_the_policys_digest_equals_sha256sums(guest: Guest) -> None:
    policy = status(guest)[1]["policy"]
    assert len(policy["files"]) > 5
    assert guest.sh(f"cat {' '.join(policy['files'])} | sha256sum").stdout.split()[0] == policy["digest"]


def test_on_a_terminal_it_has_colours_and_wraps(guest: Guest) -> None:
    done = guest.sh('TERM=xterm script -qec "stty cols 80; safe-modprobectl status" /dev/null')
    assert done.returncode == 0, done
    lines = done.stdout.replace("\r", "").splitlines()
    assert lines[0] == "\x1b[1;32msafe-modprobe is on and protects\x1b[0m", lines[:3]
    assert len(lines) < 40, lines
    plain = guest.sh('NO_COLOR=1 TERM=xterm script -qec "stty cols 80; safe-modprobectl status" /dev/null').stdout
    assert "safe-modprobe is on and protects" in plain and "\x1b[1;32m" not in plain and "\x1b[33m" not in plain


def test_an_unprivileged_user_is_told_to_run_status_as_root(guest: Guest) -> None:
    done = guest.run_as(1000, lambda: guest.sh("/usr/sbin/safe-modprobectl status"))
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "safe-modprobectl: status: only root can read tracefs and /run/safe-modprobe; run it as root\n",
    )


def test_another_program_in_kernel_modprobe_is_a_problem(guest: Guest) -> None:
    guest.write(SYSCTL, "/bin/true\n")
    what = "kernel.modprobe is /bin/true, so the kernel runs that program instead of safe-modprobe"
    output = expect(guest, 3, "other-helper", "moot", what)
    assert (output["state"], output["protects"], output["helper"]) == ("off", False, "/bin/true")
    assert guest.sh("safe-modprobectl status").stdout.startswith("safe-modprobe is off: kernel.modprobe is /bin/true\n")


def test_an_empty_kernel_modprobe_is_a_problem(guest: Guest) -> None:
    guest.write(SYSCTL, "\n")
    what = "kernel.modprobe is empty, so the kernel runs no module helper and every request fails, even root's"
    expect(guest, 3, "no-helper", "moot", what)
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules(), "the kernel does not do what status says"


def test_another_path_of_the_helper_is_accepted(guest: Guest) -> None:
    guest.write(SYSCTL, "/sbin/safe-modprobe\n")
    try:
        code, report = status(guest)
        assert (code, report["state"]) == (0, "on"), report
    finally:
        guest.write(SYSCTL, f"{HELPER}\n")


def test_a_missing_tracing_instance_is_a_problem(guest: Guest) -> None:
    os.rmdir(INSTANCE)
    output = expect(guest, 0, "tracefs", "weaker", f"the tracing instance does not exist, {BY_PROC}")
    assert uses(output)["tracefs"] == "unused" and uses(output)["proc"] == "in use"


def test_a_disabled_event_a_stopped_instance_and_another_clock_are_problems(guest: Guest) -> None:
    for path, why in (
        (EVENT, "the event module:module_request is off in the tracing instance"),
        (f"{INSTANCE}/tracing_on", "the tracing instance is stopped (tracing_on is 0)"),
    ):
        guest.write(path, "0")
        try:
            expect(guest, 0, "tracefs", "weaker", f"{why}, {BY_PROC}")
        finally:
            guest.write(path, "1")
    guest.write(f"{INSTANCE}/trace_clock", "local")
    assert only(status(guest)[1], "trace-clock")["severity"] == "weaker"
    guest.write(f"{INSTANCE}/trace_clock", "boot")


def test_lost_trace_events_are_a_problem(guest: Guest) -> None:
    guest.write(f"{INSTANCE}/buffer_size_kb", "4")
    guest.write(SYSCTL, "/bin/true\n")  # Our helper would empty the ring.
    for number in range(200):
        guest.ask_raw(b"smp-%d-%s" % (number, b"x" * 40))
    guest.write(SYSCTL, f"{HELPER}\n")
    problem = only(status(guest)[1], "trace-loss")
    assert problem["severity"] == "note", problem
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))  # This request's helper notices the loss.
    problem = only(status(guest)[1], "trace-loss")
    assert problem["severity"] == "weaker" and problem["what"].endswith(f"within the last minute, {BY_PROC}"), problem
    os.rmdir(INSTANCE)
    os.unlink("/run/safe-modprobe/requests")


def test_a_trial_is_reported(guest: Guest) -> None:
    with site(guest, "[settings]\ntrial = true\n", "/run/safe-modprobe/policy.d/00-trial.toml"):
        what = "a trial is on, so the helper refuses nothing and only records what it would refuse [00-trial.toml:2]"
        output = expect(guest, 1, "trial", "moot", what)
        assert (output["state"], output["protects"]) == ("trial", False)
        with site(guest, "mode = 'marked'\n"):  # The policy is broken now, and the trial continues.
            assert status(guest)[1]["state"] == "trial"


def test_a_broken_policy_is_a_problem(guest: Guest) -> None:
    with site(guest, "[settings]\nmode = 'markd'\n"):
        code, output = status(guest)
        error = f"{SITE}:2: mode: 'markd' is not one of 'allowed', 'marked', 'privileged', 'disabled'"
        what = f"the policy is broken, so the built-in policy is in force, with mode privileged ({error})"
        assert (code, only(output, "policy-broken")["what"], output["policy"]["error"]) == (0, what, error), output
        assert output["mode"] == "privileged"


def test_unknown_callers_that_count_as_privileged_are_a_problem(guest: Guest) -> None:
    with site(guest, "[settings]\nunknown_caller = 'privileged'\n"):
        what = (
            'unknown_caller is "privileged" and a user becomes an unknown caller by killing their own request, so any'
            " user can load any module [05-site.toml:2]"
        )
        expect(guest, 1, "unknown-caller", "moot", what)
        pauses = (0.01, 0.03, 0.1, 0.3)
        assert any(request_and_kill(guest, pause) for pause in pauses), "the kernel does not do what status says"


def request_and_kill(guest: Guest, pause: float) -> bool:
    """Make a user's request and kill the user after `pause` seconds. Return whether the module is loaded then."""
    pid = os.fork()
    if pid == 0:
        guest.become(1000)
        guest.ask_socket(38, 5)
        os._exit(0)
    time.sleep(pause)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    time.sleep(1)
    return "af_alg" in guest.modules()


def test_expected_kernel_arguments_that_this_kernel_does_not_pass_are_a_problem(guest: Guest) -> None:
    with site(guest, "[settings]\nkernel_args = 'always'\n"):
        begin = 'kernel_args is "always", but this kernel'
        end = "so every caller counts as root [05-site.toml:2]"
        what = f"{begin} may pass none (its build options cannot be found), {end}"
        expect(guest, 0, "kernel-args", "weaker", what)
        os.makedirs("/boot", exist_ok=True)
        guest.write(CONFIG, "CONFIG_MODULES=y\n# CONFIG_GRKERNSEC_MODHARDEN is not set\n")
        try:
            expect(guest, 1, "kernel-args", "moot", f"{begin} passes none, {end}")
        finally:
            os.unlink(CONFIG)
        guest.run_as(1000, lambda: guest.ask_socket(38, 5))
        assert "af_alg" in guest.modules(), "the kernel does not do what status says"


def test_a_helper_that_cannot_be_executed_is_a_problem(guest: Guest) -> None:
    os.chmod(HELPER, 0o644)
    try:
        expect(
            guest,
            1,
            "helper-not-executable",
            "moot",
            f"{HELPER} is not executable, so every request fails, even root's",
        )
        guest.run_as(0, lambda: guest.ask_socket(38, 5))
        assert "af_alg" not in guest.modules(), "the kernel does not do what status says"
    finally:
        os.chmod(HELPER, 0o755)
    guest.sh(f"mount --bind {HELPER} {HELPER} && mount -o remount,bind,noexec {HELPER}")
    try:
        what = f"{HELPER} is on a file system mounted noexec, so every request fails, even root's"
        expect(guest, 1, "helper-noexec", "moot", what)
        guest.run_as(0, lambda: guest.ask_socket(38, 5))
        assert "af_alg" not in guest.modules(), "the kernel does not do what status says"
    finally:
        guest.sh(f"umount {HELPER}")
    os.rename(HELPER, f"{HELPER}.away")
    try:
        expect(guest, 1, "helper-missing", "moot", f"{HELPER} does not exist, so every request fails, even root's")
    finally:
        os.rename(f"{HELPER}.away", HELPER)


def test_a_helper_that_others_may_write_is_a_problem(guest: Guest) -> None:
    ends = "so a user other than root can become root with the next request"
    os.chown(HELPER, 1000, 0)
    expect(guest, 1, "helper-writable", "moot", f"{HELPER}: it belongs to uid 1000, {ends}")
    os.chown(HELPER, 0, 0)
    os.chmod(f"{CODE}/decide.py", 0o664)
    expect(guest, 1, "helper-writable", "moot", f"{CODE}/decide.py: others may write it (mode 0664), {ends}")
    os.chmod(f"{CODE}/decide.py", 0o644)


def test_a_helper_that_fails_is_a_problem(guest: Guest) -> None:
    os.rename(f"{CODE}/helper.py", f"{CODE}/helper.away")
    try:
        code, output = status(guest)
        what = only(output, "helper-fails")["what"]
        assert code == 1 and "safe-modprobe failed (ModuleNotFoundError: No module named" in what, what
    finally:
        os.rename(f"{CODE}/helper.away", f"{CODE}/helper.py")


def test_a_loaded_marked_module_is_noted(guest: Guest) -> None:
    guest.sh("modprobe af_alg")
    code, report = status(guest)
    problem = only(report, "marked-loaded")
    assert (code, problem["severity"]) == (0, "note") and "af_alg" in problem["what"], problem


def test_a_sysctl_file_that_would_replace_the_helper_is_a_problem(guest: Guest) -> None:
    path = "/etc/sysctl.d/90-hardening.conf"
    with site(guest, "# none\nkernel.modprobe =\n", path):
        what = f"{path}:2 sets kernel.modprobe to an empty string at the next boot and whenever 'sysctl --system' runs"
        expect(guest, 0, "sysctl-file", "weaker", what)
