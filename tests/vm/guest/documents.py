"""The examples that people read: of the README, of the manual's sources and of --help."""

import re

_IN_A_GUEST = re.compile(r"safe-modprobectl (enable|disable|status|log|suggest)\b|--last|--event")
"""What changes the kernel, or reads a journal. All else takes a tenth of the time where nothing is emulated."""

SHOWN_ELSEWHERE = {
    "make demo",  # by tests/vm/test_demo.py
    "make test",  # by CI itself
    "make test-boot",  # as well
    "make test-packages",  # as well
    "apt-get update",  # by tests/setup
    "apt-get build-dep -y ./packaging",  # by tests/packages/test_debian.py
    "make deb",  # as well
    "apt-get install -y ./build/deb/safe-modprobe_*.deb",  # the package, by tests/boot
    "make rpm",  # by tests/packages/test_rpm.py
    "make install",  # by every machine here
    "safe-modprobectl surface --html surface.html",  # by tests/others/test_surface_page.py
}
"""Not in a guest."""

PREPARE = """set -e
mkdir -p {desk} /etc/safe-modprobe/tests.d /var/lib/prometheus/node-exporter
cp -r /usr/lib/safe-modprobe/policy.d {desk}
cp -r /usr/lib/safe-modprobe/tests.d {desk}/policy.d && cp /etc/passwd {desk}/passwd
for name in user:1000 alice:1001 asterisk:1002; do
    grep -q "^${{name%:*}}:" {desk}/passwd || echo "${{name%:*}}:x:${{name#*:}}:100::/tmp:/bin/sh" >> {desk}/passwd
done
mv {desk}/passwd /etc/passwd
cat > {desk}/10-site.toml <<EOF
[[rule]]
modules = ["sctp"]
users = [1000]
action = "allow"
reason = "a draft"
EOF
cat > {desk}/site-tests.toml <<EOF
[[case]]
request = "net-pf-38"
modules = ["af_alg"]
caller = {{ uid = 1000 }}
verdict = "deny"
EOF
cp {desk}/10-site.toml {desk}/policy.d
"""
"""What the examples name, in a folder `desk`, as a script for str.format()."""

HELP = """
import sys
sys.path += ["/usr/lib/safe-modprobe", "/usr/lib/python3/dist-packages"]
from safe_modprobe.admin.commands.main import parser
top = parser()
for each in (top, *next(action.choices for action in top._actions if action.choices).values()):
    print(each.epilog or "")
"""
"""What prints every example of --help, with Debian's own Python."""


def blocks(text):
    """(kind, content) of what stands between ``` lines."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """The command lines of a document: all of a shell's block, and those behind a prompt elsewhere."""
    found = []
    for kind, block in blocks(text):
        lines = block.splitlines()
        if kind == "sh":
            found += [line for line in lines if line.strip() and not line.startswith("#")]
        else:
            found += [line[2:] for line in lines if line.startswith(("$ ", "# "))]
    return found


def once(lines):
    """Each command once, whatever its comment: to run it again would show nothing more."""
    return list(dict.fromkeys(line.partition("  #")[0].rstrip() for line in lines))


def commands_of_help(text):
    """Those of HELP's output, without what they are for."""
    lines = [re.split(r" {2,}", line.strip())[0] for line in text.splitlines()]
    return [line for line in lines if line.startswith("safe-modprobectl ")]


def policies(text):
    """What is TOML in a document."""
    return [block for kind, block in blocks(text) if kind == "toml" or (not kind and block.lstrip().startswith("["))]


def place(line):
    """Where the example runs: in a "guest", at the "desk", or "elsewhere", where a test of its own runs it."""
    if re.split(r" {2,}|#", line)[0].strip() in SHOWN_ELSEWHERE:
        return "elsewhere"
    return "guest" if _IN_A_GUEST.search(line) else "desk"


def for_version(line, version):
    """With this kernel's version in place of the example's."""
    return re.sub(r"\b6\.\d+\.\d+-\d+(-cloud)?-amd64\b", version, line)


def wrong(line, status, out, err):
    """What did not go as an example should (an error's sentence, wrong usage, a traceback), "" for nothing.

    1: refused, or findings; 3: not protecting; 124: `--follow` goes on until it is ended.
    """
    fine = status in (0, 1, 3) or ("--follow" in line and status == 124)
    said = [each for each in err.splitlines() if each.startswith(("safe-modprobe", "usage:", "Traceback", "sh:"))]
    return (
        ""
        if fine and not said and "Traceback" not in out
        else f"{line!r} ended with {status}: {out[-200:]} {err[-300:]}"
    )
