"""Find the examples in the README, the manual's sources and --help, and say how to run them as tests."""

import re

_IN_A_GUEST = re.compile(r"safe-modprobectl (enable|disable|status|log|suggest)\b|--last|--event")
"""Examples that change the kernel or read a journal. All others run on the host, in a tenth of the time."""

TESTED_ELSEWHERE = {
    "make demo",  # by tests/vm/test_demo.py
    "make test",  # by CI itself
    "make test-boot",  # by CI itself
    "make test-packages",  # by CI itself
    "apt-get update",  # by tests/setup
    "apt-get build-dep -y ./packaging",  # by tests/packages/test_debian.py
    "make deb",  # by tests/packages/test_debian.py
    "apt-get install -y ./build/deb/safe-modprobe_*.deb",  # tests/boot installs the package
    "make rpm",  # by tests/packages/test_rpm.py
    "make install",  # by every machine of tests/vm
    "safe-modprobectl surface --html surface.html",  # by tests/others/test_surface_page.py
}
"""Examples that other tests cover."""

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
"""A shell script for str.format() that makes the files which examples name, in the folder `desk`."""

HELP = """
import sys
sys.path += ["/usr/lib/safe-modprobe", "/usr/lib/python3/dist-packages"]
from safe_modprobe.admin.commands.main import parser
top = parser()
for each in (top, *next(action.choices for action in top._actions if action.choices).values()):
    print(each.epilog or "")
"""
"""A script for Debian's own Python that prints every example of --help."""


def blocks(text):
    """Return (language, content) of each block between ``` lines."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """Return a document's command lines: all lines of `sh` blocks, and in other blocks those behind a prompt."""
    found = []
    for kind, block in blocks(text):
        lines = block.splitlines()
        if kind == "sh":
            found += [line for line in lines if line.strip() and not line.startswith("#")]
        else:
            found += [line[2:] for line in lines if line.startswith(("$ ", "# "))]
    return found


def once(lines):
    """Return each command once, without its comment."""
    return list(dict.fromkeys(line.partition("  #")[0].rstrip() for line in lines))


def commands_of_help(text):
    """Return the command lines in the output of HELP, without their explanations."""
    lines = [re.split(r" {2,}", line.strip())[0] for line in text.splitlines()]
    return [line for line in lines if line.startswith("safe-modprobectl ")]


def policies(text):
    """Return the TOML blocks of a document."""
    return [block for kind, block in blocks(text) if kind == "toml" or (not kind and block.lstrip().startswith("["))]


def place(line):
    """Return where an example is tested: in a "guest", on the host ("desk"), or "elsewhere" by a test of its own."""
    if re.split(r" {2,}|#", line)[0].strip() in TESTED_ELSEWHERE:
        return "elsewhere"
    return "guest" if _IN_A_GUEST.search(line) else "desk"


def for_version(line, version):
    """Return the command with this kernel's version in place of the example's."""
    return re.sub(r"\b6\.\d+\.\d+-\d+(-cloud)?-amd64\b", version, line)


def wrong(line, status, out, err):
    """Describe how an example failed: bad status, error message, wrong usage or traceback. Return "" for success.

    Examples may exit with 1 (refused, or findings), 3 (not protecting), or 124 (`timeout` ended `--follow`).
    """
    expected = status in (0, 1, 3) or ("--follow" in line and status == 124)
    errors = [each for each in err.splitlines() if each.startswith(("safe-modprobe", "usage:", "Traceback", "sh:"))]
    return (
        ""
        if expected and not errors and "Traceback" not in out
        else f"{line!r} ended with {status}: {out[-200:]} {err[-300:]}"
    )
