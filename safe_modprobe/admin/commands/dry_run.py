"""Run the helper as the kernel runs it, but only for its decision, to see whether it answers."""

import os
import subprocess

from safe_modprobe.admin.switch.switch import HELPER
from safe_modprobe.escape import escape
from safe_modprobe.modules.modprobe import ENVIRONMENT

_PROBE = "safe-modprobe-self-test"
"""An alias that no module answers."""

_SECONDS = 60
"""The helper must end within this time."""


def dry_run(stderr: int | None = None) -> str:
    """Return why the helper fails on an alias that no module answers, or "" if it works.

    With `stderr=subprocess.STDOUT` the reason may quote its standard error. Otherwise that is closed.
    """
    code, last_line = _answer(_PROBE, stderr)
    return "" if code == 1 and last_line.startswith(f"allowed '{_PROBE}'") else _reason(code, last_line)


def dry_run_error(alias: str) -> str:
    """Return why the helper gives no verdict on this alias, or "" if it gives one."""
    code, last_line = _answer(alias)
    verdicts = tuple(f"{verdict} '{escape(alias)}'" for verdict in ("allowed", "allowed (log)", "denied"))
    return "" if code in (0, 1) and last_line.startswith(verdicts) else _reason(code, last_line)


def _reason(code: int, last_line: str) -> str:
    return f"it exited with status {code} and printed {last_line[:200]!a}" if code >= 0 else last_line


def _answer(alias: str, stderr: int | None = None) -> tuple[int, str]:
    """Return the helper's exit status and last line, or -1 and the reason if it did not end in time.

    It runs as under the kernel: standard streams closed, the kernel's environment, working directory /.
    """
    closed = "<&- 2>&-" if stderr is None else "<&-"
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", HELPER, "-n", "--", alias],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=ENVIRONMENT,
            cwd="/",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"it did not end within {_SECONDS} s"
    return done.returncode, os.fsdecode(done.stdout).strip().rpartition("\n")[2]
