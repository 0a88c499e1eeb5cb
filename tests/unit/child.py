"""A Python of its own: for what may end it, and for a whole command."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def child(code: str, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a Python that has `code` to do: what ends it does not end the tests."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom safe_modprobe.kmod import *\n" + code, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def ctl_command(*arguments: object, before: str = "") -> list[str]:
    """safe-modprobectl, from wherever it is started with ENVIRONMENT; `before` is what its Python does first."""
    code = f"import sys\n{before}\nfrom safe_modprobe.admin.commands.main import main\nsys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, *map(str, arguments)]


def ctl(*arguments: object, before: str = "", cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """safe-modprobectl in a Python of its own."""
    return subprocess.run(
        ctl_command(*arguments, before=before), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
