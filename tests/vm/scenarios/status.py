"""`safe-modprobectl status` on a machine that really is as it says; what cannot be undone is in until_reboot.py."""

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
COUNTS_LAST = True  # those of journal.py, whose minute this fills
CONFIG = f"/boot/config-{os.uname().release}"
SITE = "/etc/safe-modprobe/policy.d/05-site.toml"
BY_PROC = "so who asks is learnt by /proc alone, and root may be refused while users ask"
EXPECTED_NOTES = {"marked-built-in", "marked-loaded", "no-build-options"}
"""sch_fq_codel is built in here, other tests' modules may be in, and the guest has no /boot."""


def setup(guest: Guest) -> None:
    """Before each test: switched on, and AF_ALG not in the kernel."""
    guest.unload("algif_hash", "af_alg")
    guest.switch_on()


def status(guest: Guest) -> tuple[int, dict]:
    done = guest.sh("safe-modprobectl status --json")
    assert done.stderr == "" and done.stdout, done
    return done.returncode, json.loads(done.stdout)


def only(said: dict, key: str) -> dict:
    """The one problem of this key."""
    found = [each for each in said["problems"] if each["key"] == key]
    assert len(found) == 1, said["problems"]
    return found[0]


def expect(guest: Guest, code: int, key: str, severity: str, what: str) -> dict:
    """How it exits, and a problem that it has, by its whole sentence; all that it says."""
    got, said = status(guest)
    problem = only(said, key)
    assert (got, problem["severity"], problem["what"]) == (code, severity, what), (got, problem)
    return said


def uses(said: dict) -> dict[str, str]:
    return {each["source"]: each["use"] for each in said["sources"]}


@contextlib.contextmanager
def site(guest: Guest, text: str, path: str = SITE):
    """A policy file for a while."""
    guest.sh(f"mkdir -p {os.path.dirname(path)}")
    guest.write(path, text)
    try:
        yield
    finally:
        os.unlink(path)


def test_on_it_protects_and_shows_the_last_verdicts(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
    time.sleep(0.5)
    code, said = status(guest)
    assert (code, said["state"], said["protects"], said["mode"]) == (0, "on", True, "marked"), said
    assert {each["key"] for each in said["problems"]} <= EXPECTED_NOTES, said["problems"]
    assert uses(said) == {"kernel-args": "unused", "bpf": "unused", "tracefs": "in use", "proc": "stands by"}
    last = said["verdicts"][0]
    assert (last["verdict"], last["alias"], last["modules"], last["uid"]) == ("deny", "net-pf-38", ["af_alg"], 1000)
    text = guest.sh("safe-modprobectl status")
    lines = text.stdout.splitlines()
    assert (text.returncode, lines[0]) == (0, "safe-modprobe is on and protects"), text
    assert any("deny 'net-pf-38' (af_alg) to uid 1000 tid " in line for line in lines), lines
    assert len(lines) < 24, lines


def test_the_digest_is_what_sha256sum_says(guest: Guest) -> None:
    said = status(guest)[1]["policy"]
    assert len(said["files"]) > 5
    assert guest.sh(f"cat {' '.join(said['files'])} | sha256sum").stdout.split()[0] == said["digest"]


def test_on_a_terminal_it_has_colours_and_wraps(guest: Guest) -> None:
    code = guest.sh('TERM=xterm script -qec "stty cols 80; safe-modprobectl status" /dev/null')
    assert code.returncode == 0, code
    lines = code.stdout.replace("\r", "").splitlines()
    assert lines[0] == "\x1b[1;32msafe-modprobe is on and protects\x1b[0m", lines[:3]
    assert len(lines) < 40, lines
    plain = guest.sh('NO_COLOR=1 TERM=xterm script -qec "stty cols 80; safe-modprobectl status" /dev/null').stdout
    assert "safe-modprobe is on and protects" in plain and "\x1b[1;32m" not in plain and "\x1b[33m" not in plain


def test_a_user_is_told_to_be_root(guest: Guest) -> None:
    done = guest.run_as(1000, lambda: guest.sh("/usr/sbin/safe-modprobectl status"))
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "safe-modprobectl: status: only root can read tracefs and /run/safe-modprobe; run it as root\n",
    )


def test_another_helper(guest: Guest) -> None:
    guest.write(SYSCTL, "/bin/true\n")
    what = "kernel.modprobe is /bin/true, so the kernel asks that program and not safe-modprobe"
    said = expect(guest, 3, "other-helper", "moot", what)
    assert (said["state"], said["protects"], said["helper"]) == ("off", False, "/bin/true")
    assert guest.sh("safe-modprobectl status").stdout.startswith("safe-modprobe is off: kernel.modprobe is /bin/true\n")


def test_no_helper(guest: Guest) -> None:
    guest.write(SYSCTL, "\n")
    what = "kernel.modprobe is empty, so the kernel asks nobody, and every request fails, root's too"
    expect(guest, 3, "no-helper", "moot", what)
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules(), "the sentence is wrong"


def test_another_name_of_the_same_file(guest: Guest) -> None:
    guest.write(SYSCTL, "/sbin/safe-modprobe\n")
    try:
        code, said = status(guest)
        assert (code, said["state"]) == (0, "on"), said
    finally:
        guest.write(SYSCTL, f"{HELPER}\n")


def test_no_instance(guest: Guest) -> None:
    os.rmdir(INSTANCE)
    said = expect(guest, 0, "tracefs", "weaker", f"its tracing instance is not there, {BY_PROC}")
    assert uses(said)["tracefs"] == "unused" and uses(said)["proc"] == "in use"


def test_the_event_is_off_or_the_instance_stopped(guest: Guest) -> None:
    for path, why in (
        (EVENT, "the event module:module_request is off in its tracing instance"),
        (f"{INSTANCE}/tracing_on", "its tracing instance is stopped (tracing_on is 0)"),
    ):
        guest.write(path, "0")
        try:
            expect(guest, 0, "tracefs", "weaker", f"{why}, {BY_PROC}")
        finally:
            guest.write(path, "1")
    guest.write(f"{INSTANCE}/trace_clock", "local")
    assert only(status(guest)[1], "trace-clock")["severity"] == "weaker"
    guest.write(f"{INSTANCE}/trace_clock", "boot")


def test_a_ring_that_loses_requests(guest: Guest) -> None:
    guest.write(f"{INSTANCE}/buffer_size_kb", "4")
    guest.write(SYSCTL, "/bin/true\n")  # a helper of ours would empty the ring
    for number in range(200):
        guest.ask_raw(b"smp-%d-%s" % (number, b"x" * 40))
    guest.write(SYSCTL, f"{HELPER}\n")
    problem = only(status(guest)[1], "trace-loss")
    assert problem["severity"] == "note", problem
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))  # this one's helper finds out
    problem = only(status(guest)[1], "trace-loss")
    assert problem["severity"] == "weaker" and problem["what"].endswith(f"within the last minute, {BY_PROC}"), problem
    os.rmdir(INSTANCE)
    os.unlink("/run/safe-modprobe/requests")


def test_a_trial(guest: Guest) -> None:
    with site(guest, "[settings]\ntrial = true\n", "/run/safe-modprobe/policy.d/00-trial.toml"):
        what = "a trial is on, so that nothing is refused, and what would be is recorded [00-trial.toml:2]"
        said = expect(guest, 1, "trial", "moot", what)
        assert (said["state"], said["protects"]) == ("trial", False)
        with site(guest, "mode = 'marked'\n"):  # broken, and the trial goes on
            assert status(guest)[1]["state"] == "trial"


def test_a_broken_policy(guest: Guest) -> None:
    with site(guest, "[settings]\nmode = 'markd'\n"):
        code, said = status(guest)
        error = f"{SITE}:2: mode: 'markd' is not one of 'allowed', 'marked', 'privileged', 'disabled'"
        what = f"the policy is broken, so that the built-in one is in force, mode privileged ({error})"
        assert (code, only(said, "policy-broken")["what"], said["policy"]["error"]) == (0, what, error), said
        assert said["mode"] == "privileged"


def test_unknown_callers_believed(guest: Guest) -> None:
    with site(guest, "[settings]\nunknown_caller = 'privileged'\n"):
        what = (
            'unknown_caller is "privileged" and any user can become unknown (by killing its own request), so any user'
            " gets any module [05-site.toml:2]"
        )
        expect(guest, 1, "unknown-caller", "moot", what)
        tries = (0.01, 0.03, 0.1, 0.3)
        assert any(asks_and_dies(guest, pause) for pause in tries), "the sentence is wrong"


def asks_and_dies(guest: Guest, pause: float) -> bool:
    """A user's request, killed while its helper is at work; whether the module is there then."""
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


def test_arguments_that_this_kernel_does_not_pass(guest: Guest) -> None:
    with site(guest, "[settings]\nkernel_args = 'always'\n"):
        begin = 'kernel_args is "always" and this kernel'
        end = "so everybody counts as root [05-site.toml:2]"
        what = f"{begin} may pass none (its build options are not to be found), {end}"
        expect(guest, 0, "kernel-args", "weaker", what)
        os.makedirs("/boot", exist_ok=True)
        guest.write(CONFIG, "CONFIG_MODULES=y\n# CONFIG_GRKERNSEC_MODHARDEN is not set\n")
        try:
            expect(guest, 1, "kernel-args", "moot", f"{begin} passes none, {end}")
        finally:
            os.unlink(CONFIG)
        guest.run_as(1000, lambda: guest.ask_socket(38, 5))
        assert "af_alg" in guest.modules(), "the sentence is wrong"


def test_a_helper_that_cannot_be_run(guest: Guest) -> None:
    os.chmod(HELPER, 0o644)
    try:
        expect(
            guest, 1, "helper-not-executable", "moot", f"{HELPER} is not executable, so every request fails, root's too"
        )
        guest.run_as(0, lambda: guest.ask_socket(38, 5))
        assert "af_alg" not in guest.modules(), "the sentence is wrong"
    finally:
        os.chmod(HELPER, 0o755)
    guest.sh(f"mount --bind {HELPER} {HELPER} && mount -o remount,bind,noexec {HELPER}")
    try:
        what = f"{HELPER} is on a file system that is mounted noexec, so every request fails, root's too"
        expect(guest, 1, "helper-noexec", "moot", what)
        guest.run_as(0, lambda: guest.ask_socket(38, 5))
        assert "af_alg" not in guest.modules(), "the sentence is wrong"
    finally:
        guest.sh(f"umount {HELPER}")
    os.rename(HELPER, f"{HELPER}.away")
    try:
        expect(guest, 1, "helper-missing", "moot", f"{HELPER} is not there, so every request fails, root's too")
    finally:
        os.rename(f"{HELPER}.away", HELPER)


def test_a_helper_that_somebody_else_may_write(guest: Guest) -> None:
    ends = "so that somebody else than root can become root by the next request"
    os.chown(HELPER, 1000, 0)
    expect(guest, 1, "helper-writable", "moot", f"{HELPER}: it belongs to uid 1000, {ends}")
    os.chown(HELPER, 0, 0)
    os.chmod(f"{CODE}/decide.py", 0o664)
    expect(guest, 1, "helper-writable", "moot", f"{CODE}/decide.py: others may write it (mode 0664), {ends}")
    os.chmod(f"{CODE}/decide.py", 0o644)


def test_a_helper_that_fails(guest: Guest) -> None:
    os.rename(f"{CODE}/helper.py", f"{CODE}/helper.away")
    try:
        code, said = status(guest)
        what = only(said, "helper-fails")["what"]
        assert code == 1 and "safe-modprobe failed (ModuleNotFoundError: No module named" in what, what
    finally:
        os.rename(f"{CODE}/helper.away", f"{CODE}/helper.py")


def test_a_marked_module_that_is_loaded(guest: Guest) -> None:
    guest.sh("modprobe af_alg")
    code, said = status(guest)
    problem = only(said, "marked-loaded")
    assert (code, problem["severity"]) == (0, "note") and "af_alg" in problem["what"], problem


def test_a_sysctl_file_that_would_switch_it_off(guest: Guest) -> None:
    path = "/etc/sysctl.d/90-hardening.conf"
    with site(guest, "# none\nkernel.modprobe =\n", path):
        what = f"{path}:2 sets kernel.modprobe to nothing at the next boot, and whenever 'sysctl --system' is run"
        expect(guest, 0, "sysctl-file", "weaker", what)
