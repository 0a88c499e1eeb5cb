"""What safe-modprobectl reads from a real journal: `log`, `suggest` and `explain --last` agree with the kernel.

Each test makes requests as its own users, so that it does not see those of other tests.
"""

import json
import os
import signal
import socket
import subprocess
import time

from guest import Guest, stack, wait_for

POLICY = "/etc/safe-modprobe/policy.d/20-suggested.toml"
TRIAL = "/run/safe-modprobe/policy.d/00-trial.toml"
COUNTS_LAST = True  # repeats.py needs the counts. The tests here stay below the limit of records.
UNIT = "/run/systemd/system/voip.service"
MESSAGE_ID = "6d1c9cf53cc6459b8a3ad6a2bde3b2a1"  # The message ID of a refusal.


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on with the default policy only and unload AF_ALG, before each test."""
    guest.unload("af_alg")
    guest.sh(f"rm -f {POLICY} {TRIAL}")
    guest.switch_on()


def ctl(guest: Guest, *words: str, code: int = 0) -> str:
    """Run safe-modprobectl, which must exit with this status. Return its output."""
    guest.sh("journalctl --sync")
    done = subprocess.run(["safe-modprobectl", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (words, done.returncode, done.stdout[-500:], done.stderr)
    return done.stdout


def read(guest: Guest, *words: str, code: int = 0) -> dict:
    """Run safe-modprobectl with --json. Return its parsed output."""
    return json.loads(ctl(guest, *words, "--json", code=code))


def gets(guest: Guest, uid: int, **privileges: object) -> bool:
    """Return whether a request of this user loads af_alg."""
    guest.unload("af_alg")
    guest.run_as(uid, lambda: guest.ask_socket(38, 5), **privileges)
    return "af_alg" in guest.modules()


def send(**fields: str) -> None:
    """Write a record with these fields to the journal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("/run/systemd/journal/socket")
        sock.send("".join(f"{key}={value}\n" for key, value in fields.items()).encode())
    time.sleep(0.5)  # journald reads /proc of the sender, which must still run.


FORGED = {
    "MESSAGE": "forged", "MESSAGE_ID": MESSAGE_ID, "SAFE_MODPROBE_VERDICT": "deny", "SAFE_MODPROBE_ALIAS": "net-pf-38",
    "SAFE_MODPROBE_MODULES": "af_alg", "SAFE_MODPROBE_REFUSED": "af_alg", "SAFE_MODPROBE_CALLER_UID": "4242",
    "_UID": "0", "_EXE": "/usr/bin/python3.11",
}  # fmt: skip


def test_log_groups_refusals(guest: Guest) -> None:
    assert [gets(guest, 1100), gets(guest, 1100), gets(guest, 1101)] == [False, False, False]
    found = read(guest, "log", "--user", "1100", "--since", "-10min")["groups"]
    assert [(each["verdict"], each["times"], each["modules"]) for each in found] == [("deny", 2, ["af_alg"])], found
    assert "users = [1100]" in found[0]["remedy"] and 'units = ["job.service"]' in found[0]["remedy"], found
    text = ctl(guest, "log", "--module", "af_*")
    assert "uid 1100 of job.service" in text and "uid 1101 of job.service" in text and "users = [1101]" in text, text
    assert ctl(guest, "log", "--user", "1102") == "no matching verdict is recorded\n"


def test_forged_records_are_left_out_and_counted(guest: Guest) -> None:
    before = read(guest, "log")["forged"]
    guest.run_as(1000, lambda: send(**FORGED))
    send(**FORGED)  # Root's own process sends this one.
    found = read(guest, "log")
    assert found["forged"] == before + 2, found
    assert read(guest, "log", "--user", "4242")["groups"] == []
    assert read(guest, "suggest", "--user", "4242")["proposals"] == []
    cursor = json.loads(guest.sh("journalctl -o json -n 1 MESSAGE=forged").stdout)["__CURSOR"]
    assert "no recorded verdict has this cursor" in guest.sh(f"safe-modprobectl explain --event '{cursor}'").stderr


def test_a_suggested_rule_allows_the_refused_request_to_that_user_only(guest: Guest) -> None:
    assert not gets(guest, 1110)
    text = ctl(guest, "suggest", "--user", "1110")
    assert text.count("[[rule]]") == 1, text
    guest.write(POLICY, text)
    ctl(guest, "reload")
    assert (gets(guest, 1110), gets(guest, 1111)) == (True, False)
    assert not gets(guest, 1110, user_namespace=True), "the rule is for the initial user namespace"
    again = read(guest, "suggest", "--user", "1110")
    assert again["settled"] == 1 and [each["user_namespace"] for each in again["proposals"]] == ["other"], again


def test_suggest_proposes_rules_for_requests_in_a_trial(guest: Guest) -> None:
    os.makedirs(os.path.dirname(TRIAL), exist_ok=True)
    guest.write(TRIAL, "[settings]\ntrial = true\n")
    assert gets(guest, 1120)
    (found,) = read(guest, "log", "--user", "1120", "--refused")["groups"]
    assert found["verdict"] == "log", found
    text = ctl(guest, "suggest", "--user", "1120", "--since", "today")
    guest.sh(f"rm {TRIAL}")
    assert not gets(guest, 1120)
    guest.write(POLICY, text)
    assert (gets(guest, 1120), gets(guest, 1121)) == (True, False)


def test_suggest_proposes_a_rule_by_unit_for_a_service(guest: Guest) -> None:
    guest.sh("echo voip:x:1130:1130::/:/bin/sh >> /etc/passwd; echo voip:x:1130: >> /etc/group")
    guest.write(
        UNIT,
        "[Service]\nType=oneshot\nUser=voip\nExecStart=/usr/bin/python3 -c 'import socket; socket.socket(38, 5)'\n",
    )
    start = "systemctl daemon-reload; systemctl start voip; systemctl --no-pager status voip"
    done = guest.sh(start)
    assert "af_alg" not in guest.modules(), done
    found = read(guest, "suggest", "--user", "voip")
    assert [(each["units"], each["users"]) for each in found["proposals"]] == [(["voip.service"], [1130])], (
        found,
        done,
    )
    assert "voip, uid 1130 of voip.service" in ctl(guest, "log", "--user", "voip")
    guest.write(POLICY, found["policy"])
    assert not gets(guest, 1130), "the same user outside the unit"
    done = guest.sh(start)
    assert "af_alg" in guest.modules(), done


def test_suggest_warns_about_root_of_a_user_namespace(guest: Guest) -> None:
    assert not gets(guest, 1140, user_namespace=True)
    text = ctl(guest, "suggest", "--user", "1140")
    assert 'user_namespace = "other"' in text and "Any program of this user can become root" in text, text
    guest.write(POLICY, text)
    assert gets(guest, 1140, user_namespace=True)
    assert (gets(guest, 1140), gets(guest, 1141, user_namespace=True)) == (False, False)


def test_suggest_proposes_no_rule_for_unknown_callers(guest: Guest) -> None:
    guest.run_as(1150, lambda: guest.ask_nowait(b"net-pf-38"))
    time.sleep(1)
    found = read(guest, "suggest")
    unknown = [each for each in found["not_proposed"] if each["evidence"]["who"].startswith("an unknown caller")]
    assert unknown and all("any caller can become unknown" in each["why"] for each in unknown), found
    assert "unknown" not in "".join(each["rule"] for each in found["proposals"])


def test_explain_last_proposes_a_rule_that_works(guest: Guest) -> None:
    assert not gets(guest, 1160)
    found = read(guest, "explain", "--last", code=1)
    assert (found["recorded"]["uid"], found["verdict"], found["changed"], found["loaded"]) == (1160, "deny", False, [])
    text = ctl(guest, "explain", "--last", code=1)
    assert "\nthen     the same, " in text and "\nremedy   in /etc/safe-modprobe/policy.d/10-site.toml:" in text, text
    guest.write(POLICY, found["remedy"])
    assert (gets(guest, 1160), gets(guest, 1161)) == (True, False)
    after = read(guest, "explain", "--event", found["recorded"]["cursor"])
    assert (after["verdict"], after["changed"], after["remedy"]) == ("allow", True, None), after
    assert after["recorded"] == found["recorded"]


def test_explain_event_judges_a_loaded_module_as_if_it_were_not_loaded(guest: Guest) -> None:
    assert not gets(guest, 1170)
    cursor = ctl(guest, "log", "--each", "--user", "1170").split()[-1]
    assert gets(guest, 0)
    found = read(guest, "explain", "--event", cursor, code=1)
    assert (found["verdict"], found["loaded"], found["targets"][0]["state"]) == ("deny", ["af_alg"], "new"), found
    image = read(guest, "explain", "net-pf-38", "--uid", "1170", "--root", "/", code=1)
    assert image["targets"][0]["state"] == "new", "modules loaded in the running kernel do not count for an image"
    text = ctl(guest, "explain", "--event", cursor, code=1)
    assert "already loaded: af_alg; no load is needed now" in text, text


def test_follow_prints_a_record_at_once(guest: Guest) -> None:
    for options in (["--json"], []):
        command = ["safe-modprobectl", "log", "--follow", "--user", "1180", *options]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        signal.alarm(60)  # This replaces the agent's time limit, in case no line comes.
        wait_for(lambda pid=child.pid: b"poll" in stack(pid))  # It has read all records and waits for more.
        guest.run_as(1000, lambda: send(**FORGED))
        gets(guest, 1181)
        gets(guest, 1180)
        line = child.stdout.readline()
        signal.alarm(0)
        if options:
            assert (json.loads(line)["uid"], json.loads(line)["verdict"]) == (1180, "deny"), line
        else:
            assert " deny net-pf-38 (af_alg) to uid 1180 of job.service: " in line, line
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        assert (child.returncode, out) == (0, ""), (child.returncode, out, err)
        assert err == ("safe-modprobectl: skipped forged records (not written by safe-modprobe): 1\n"), err


def test_an_unprivileged_user_is_told_that_the_journal_cannot_be_read(guest: Guest) -> None:
    done = guest.run_as(1190, lambda: guest.sh("/usr/sbin/safe-modprobectl log"))
    assert (
        done.returncode == 1 and "cannot read a journal there; run as root or join group systemd-journal" in done.stderr
    ), done
