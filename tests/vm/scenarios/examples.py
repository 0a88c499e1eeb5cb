"""Run the examples of the README, the manual and --help that need a guest. None may fail."""

import glob
import os
import shlex

import documents
from guest import Guest

DOCUMENTS = "/agent/documents"
DESK = "/run/desk"
PYTHON = "/usr/bin/python3 -IBS"


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on, make one refusal and the files that examples name, before each test."""
    if not os.path.isdir(DESK):
        done = guest.sh(documents.PREPARE.format(desk=DESK))
        assert done.returncode == 0, done.stderr
    guest.switch_on()
    guest.unload("af_alg")
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))


def texts() -> list[str]:
    """Return the texts of the README and the manual's sources."""
    found = []
    for path in sorted(glob.glob(f"{DOCUMENTS}/*")):
        with open(path) as file:
            found.append(file.read())
    return found


def failures(guest: Guest, lines: list[str]) -> list[str]:
    """Run these examples and describe each that failed."""
    found = []
    for line in lines:
        command = documents.for_version(line, os.uname().release)
        if "CURSOR" in command:
            command = command.replace("CURSOR", shlex.quote(cursor(guest)))
        done = guest.sh(f"cd {DESK} && timeout {3 if '--follow' in line else 30} sh -c {shlex.quote(command)}")
        found.append(documents.wrong(line, done.returncode, done.stdout, done.stderr))
    return [each for each in found if each]


def cursor(guest: Guest) -> str:
    """Return the journal cursor of the newest record."""
    done = guest.sh("journalctl -q -o json -n 1 -t safe-modprobe | jq -r .__CURSOR")
    return done.stdout.strip()


def test_every_example_that_needs_a_guest_runs_without_error(guest: Guest) -> None:
    help_text = guest.sh(f"{PYTHON} -c {shlex.quote(documents.HELP)}").stdout
    lines = [line for text in texts() for line in documents.commands(text)] + documents.commands_of_help(help_text)
    lines = documents.once([line for line in lines if documents.place(line) == "guest"])
    assert len(lines) > 15, lines
    failed = failures(guest, lines)
    assert not failed, failed


def test_a_wrong_example_is_reported(guest: Guest) -> None:
    wrong = ["safe-modprobectl explian x", "safe-modprobectl explain x --user nobody-of-that-name", "no-such-command"]
    assert len(failures(guest, wrong)) == len(wrong)
