"""Run a real systemd-journald in a mount namespace with a separate /run, and send records to it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[2] / "safe_modprobe"

# The kernel log and the audit socket belong to the machine. Storage=volatile keeps the journal in the separate /run.
_CONFIG = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nForwardToSyslog=no\nRateLimitBurst=0\n"

_SCRIPT = """set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
cp config /run/systemd/journald.conf.d/test.conf
for daemon in /usr/lib/systemd/systemd-journald /lib/systemd/systemd-journald; do [ -x $daemon ] && break; done
$daemon & journald=$!
trap 'kill $journald' EXIT
tries=0; while ! [ -S /run/systemd/journal/socket ] && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
cp -r senders /run/senders && chmod -R a+rX /run/senders  # an unprivileged sender cannot read pytest's folder
sh -e ./commands
journalctl --sync
cp /run/log/journal/*/system.journal system.journal
"""

# A sender waits until journald has read its /proc entry. Otherwise the journal lacks fields such as _COMM.
_SENDER = """import json, sys, time
sys.path.append("/run/senders")
from safe_modprobe.log.record import record
for message, fields in json.load(sys.stdin):
    record(message, 4, fields)
time.sleep(0.2)
"""
_NEEDED = ("__init__.py", "log/__init__.py", "log/record.py")


class Sender(NamedTuple):
    """A process that sends (message, fields) records; `prefix` precedes its command, `name` is its script's name."""

    records: Sequence[tuple[str, Mapping[str, str]]]
    name: str = "safe-modprobe"
    prefix: str = ""


def keep(folder: Path, senders: Sequence[Sender]) -> Path:
    """Let each sender send its records in turn; return the path of the journal file."""
    lines = []
    for needed in _NEEDED:
        copy = folder / "senders/safe_modprobe" / needed
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((PACKAGE / needed).read_text())
    for number, sender in enumerate(senders):
        place = folder / "senders" / str(number)
        place.mkdir()
        (place / sender.name).write_text(_SENDER)
        (place / "records").write_text(json.dumps(sender.records))
        there = f"/run/senders/{number}"
        lines.append(f"{sender.prefix} /usr/bin/python3 -IBS {there}/{sender.name} < {there}/records\n")
    (folder / "config").write_text(_CONFIG)
    (folder / "script").write_text(_SCRIPT)
    (folder / "commands").write_text("".join(lines))
    done = subprocess.run(["unshare", "-m", "sh", "script"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "system.journal"
