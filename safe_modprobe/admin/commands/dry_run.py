"""Whether the helper answers: run as the kernel would run it, but for a decision alone."""

import os
import subprocess

from safe_modprobe.admin.switch.switch import HELPER
from safe_modprobe.escape import escape
from safe_modprobe.modules.modprobe import ENVIRONMENT

_PROBE = "safe-modprobe-self-test"
"""An alias that no module answers."""

_SECONDS = 60


def dry_run(stderr: int | None = None) -> str:
    """Why the helper does not do what it should for an alias that no module answers; "" where it does.

    Only what it says of an error can be had, by subprocess.STDOUT.
    """
    code, said = _answer(_PROBE, stderr)
    return "" if code == 1 and said.startswith(f"allowed '{_PROBE}'") else _why(code, said)


def dry_run_error(alias: str) -> str:
    """Why it gives no verdict about this alias, whichever; "" where it does."""
    code, said = _answer(alias)
    verdicts = tuple(f"{done} '{escape(alias)}'" for done in ("allowed", "allowed (log)", "denied"))
    return "" if code in (0, 1) and said.startswith(verdicts) else _why(code, said)


def _why(code: int, said: str) -> str:
    return f"it ended with {code} and {said[:200]!a}" if code >= 0 else said


def _answer(alias: str, stderr: int | None = None) -> tuple[int, str]:
    """Its exit code and last line; -1 and why where it did not end.

    As the kernel runs it: nothing open, the bare environment, in /.
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
