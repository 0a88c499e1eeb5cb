"""Every example of the README, of the manual and of --help, as it stands there: each runs, and no error comes of it."""

import glob
import os
import shlex

import documents
from guest import Guest

DOCUMENTS = "/agent/documents"
DESK = "/run/desk"
PYTHON = "/usr/bin/python3 -IBS"
SECONDS = 30

DRAFT = '[[rule]]\nmodules = ["sctp"]\nusers = [1000]\naction = "allow"\nreason = "a draft"\n'
CASES = """
[[case]]
request = "net-pf-38"
modules = ["af_alg"]
caller = { uid = 1000 }
verdict = "deny"
"""
PREPARE = f"""set -e
mkdir -p {DESK} /etc/safe-modprobe/tests.d && cp -r /usr/lib/safe-modprobe/policy.d /usr/lib/safe-modprobe/tests.d {DESK}
mv {DESK}/tests.d {DESK}/policy.d && mount --bind / /mnt
grep -q ^user: /etc/passwd || echo user:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
for name in asterisk alice; do grep -q "^$name:" /etc/passwd || echo "$name:x:$((1100 + ${{#name}})):100::/:/bin/sh" >> /etc/passwd; done
"""


def setup(guest: Guest) -> None:
    """Before each test: switched on, a refusal in the log, and the files that examples name."""
    if not os.path.isdir(DESK):
        done = guest.sh(PREPARE)
        assert done.returncode == 0, done.stderr
    guest.write(f"{DESK}/10-site.toml", DRAFT)
    guest.write(f"{DESK}/policy.d/10-site.toml", DRAFT)
    guest.write(f"{DESK}/site-tests.toml", CASES)
    if not guest.enabled():
        assert guest.sh("safe-modprobectl enable --runtime").returncode == 0
    guest.unload("af_alg")
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))


def texts() -> list[str]:
    """The README and the manual's sources."""
    found = []
    for path in sorted(glob.glob(f"{DOCUMENTS}/*")):
        with open(path) as file:
            found.append(file.read())
    return found


def failures(guest: Guest, lines: list[str]) -> list[str]:
    """What did not go as an example should."""
    found = []
    for line in lines:
        if not documents.is_shown_elsewhere(line) and not line.startswith(documents.AT_THE_DESK):
            command = documents.for_version(line, os.uname().release).replace("CURSOR", shlex.quote(cursor(guest)))
            done = guest.sh(
                f"cd {DESK} && timeout {SECONDS if '--follow' not in line else 5} sh -c {shlex.quote(command)}"
            )
            found.append(documents.wrong(line, done.returncode, done.stdout, done.stderr))
    return [each for each in found if each]


def cursor(guest: Guest) -> str:
    said = guest.sh("journalctl -q -o json -n 1 -t safe-modprobe | jq -r .__CURSOR")
    return said.stdout.strip()


def of_help(guest: Guest, half: int) -> list[str]:
    lines = documents.commands_of_help(guest.sh(f"{PYTHON} -c {shlex.quote(documents.HELP)}").stdout)
    assert len(lines) > 30, lines
    return lines[half::2]


def test_commands_of_the_documents(guest: Guest) -> None:
    lines = [line for text in texts() for line in documents.commands(text)]
    assert len(lines) > 10, lines
    assert failures(guest, lines) == []


def test_every_second_command_of_help(guest: Guest) -> None:
    assert failures(guest, of_help(guest, 0)) == []


def test_the_other_commands_of_help(guest: Guest) -> None:
    assert failures(guest, of_help(guest, 1)) == []


def test_policies_of_the_documents(guest: Guest) -> None:
    found = [each for text in texts() for each in documents.policies(text)]
    assert len(found) > 5, found
    wrong = []
    for text in found:
        path = f"{DESK}/example.toml"
        guest.write(path, text)
        what = "test" if "[[case]]" in text else "check"
        done = guest.sh(f"safe-modprobectl {what} {path}")
        if done.stderr or (what == "check" and done.returncode):
            wrong.append(f"{text}: {done.stdout} {done.stderr}")
    assert wrong == []


def test_an_example_that_went_wrong_would_be_noticed(guest: Guest) -> None:
    wrong = ["safe-modprobectl explian x", "safe-modprobectl explain x --user nobody-of-that-name", "no-such-command"]
    assert len(failures(guest, wrong)) == len(wrong)
