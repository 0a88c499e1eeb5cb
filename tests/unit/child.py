"""A Python of its own for what may end it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def child(code: str, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a Python that has `code` to do: what ends it does not end the tests."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom safe_modprobe.kmod import *\n" + code, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr
