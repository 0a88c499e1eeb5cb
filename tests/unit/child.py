"""Run code that may crash Python, or a whole command, in a separate Python process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def child(code: str, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """Run `code` in a separate Python, so that a crash does not end the tests. Return (status, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom safe_modprobe.kmod import *\n" + code, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def ctl_command(*arguments: object, before: str = "") -> list[str]:
    """Return the command line of safe-modprobectl, to be run with ENVIRONMENT. `before` is code to run first."""
    code = f"import sys\n{before}\nfrom safe_modprobe.admin.commands.main import main\nsys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, *map(str, arguments)]


def ctl(*arguments: object, before: str = "", cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run safe-modprobectl in a separate Python."""
    return subprocess.run(
        ctl_command(*arguments, before=before), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
