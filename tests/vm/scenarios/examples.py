"""Every example of the README, of the manual and of --help, as it stands there: each runs, and no error comes of it."""

import glob
import os
import re
import shlex

from guest import Guest

DOCUMENTS = "/agent/documents"
DESK = "/run/desk"
PYTHON = "/usr/bin/python3 -IBS"
SECONDS = 60
SHOWN_ELSEWHERE = {"make demo", "make test", "make install", "safe-modprobectl surface --html surface.html"}
"""By CI itself, by tests/vm/test_demo.py, by every machine here, and by tests/unit/test_surface_page.py."""

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
HELP = """
import sys
sys.path += ["/usr/lib/safe-modprobe", "/usr/lib/python3/dist-packages"]
from safe_modprobe.ctl.main import parser
top = parser()
for each in (top, *next(action.choices for action in top._actions if action.choices).values()):
    print(each.epilog or "")
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


def documents() -> list[tuple[str, str]]:
    """(name, text) of the README and the manual's sources."""
    found = []
    for path in sorted(glob.glob(f"{DOCUMENTS}/*")):
        with open(path) as file:
            found.append((os.path.basename(path), file.read()))
    return found


def blocks(text: str) -> list[tuple[str, str]]:
    """(kind, content) of what stands between ``` lines."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(kind: str, block: str) -> list[str]:
    """The command lines of a block: all of a shell's, and those behind a prompt elsewhere."""
    lines = block.splitlines()
    if kind == "sh":
        return [line for line in lines if line.strip() and not line.startswith("#")]
    return [line[2:] for line in lines if line.startswith(("$ ", "# "))]


def is_policy(kind: str, block: str) -> bool:
    return kind == "toml" or (not kind and block.lstrip().startswith("["))


def failures(guest: Guest, lines: list[str]) -> list[str]:
    """What did not go as an example should: an error's sentence, wrong usage, a traceback."""
    found = []
    version = os.uname().release
    for line in lines:
        if re.split(r" {2,}|#", line)[0].strip() in SHOWN_ELSEWHERE:
            continue
        command = re.sub(r"\b6\.\d+\.\d+-\d+(-cloud)?-amd64\b", version, line)
        command = command.replace("CURSOR", shlex.quote(cursor(guest)))
        done = guest.sh(f"cd {DESK} && timeout {SECONDS} sh -c {shlex.quote(command)}")
        # 1: refused, or findings; 3: not protecting; 124: `--follow` goes on until it is ended.
        follows = "--follow" in command or " -f" in command
        fine = done.returncode in (0, 1, 3) or (follows and done.returncode == 124)
        wrong = [each for each in done.stderr.splitlines() if each.startswith(("safe-modprobe", "usage:", "Traceback"))]
        if not fine or wrong or "Traceback" in done.stdout:
            found.append(f"{line!r} ended with {done.returncode}: {done.stdout[-200:]} {done.stderr[-300:]}")
    return found


def cursor(guest: Guest) -> str:
    said = guest.sh('journalctl -q -o json -n 1 -t safe-modprobe | sed -n \'s/.*"__CURSOR" *: *"\\([^"]*\\)".*/\\1/p\'')
    return said.stdout.strip()


def test_commands_of_the_documents(guest: Guest) -> None:
    lines = [line for _, text in documents() for kind, block in blocks(text) for line in commands(kind, block)]
    assert len(lines) > 10, lines
    assert failures(guest, lines) == []


def test_commands_of_help(guest: Guest) -> None:
    text = guest.sh(f"{PYTHON} -c {shlex.quote(HELP)}").stdout
    lines = [re.split(r" {2,}", line.strip())[0] for line in text.splitlines()]
    lines = [line for line in lines if line.startswith("safe-modprobectl ")]
    assert len(lines) > 20, text
    assert failures(guest, lines) == []


def test_policies_of_the_documents(guest: Guest) -> None:
    texts = [block for _, text in documents() for kind, block in blocks(text) if is_policy(kind, block)]
    assert len(texts) > 5, texts
    wrong = []
    for text in texts:
        path = f"{DESK}/example.toml"
        guest.write(path, text)
        what = "test" if "[[case]]" in text else "check"
        done = guest.sh(f"safe-modprobectl {what} {path}")
        if "error" in done.stdout or done.stderr or done.returncode not in (0, 1):
            wrong.append(f"{text}: {done.stdout} {done.stderr}")
    assert wrong == []


def test_an_example_that_went_wrong_would_be_noticed(guest: Guest) -> None:
    assert failures(guest, ["safe-modprobectl explian x"]) != []
    assert failures(guest, ["safe-modprobectl explain x --uid nobody"]) != []
    assert failures(guest, ["safe-modprobectl explain --root /nowhere x"]) != []
