"""Run safe-modprobectl on the host with --json, for tests that only read a kernel's files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.vm.cache import TOP


def modprobectl_json(*arguments: str | Path) -> tuple[int, Any]:
    """Run safe-modprobectl with these arguments, --json among them. Return its exit status and the parsed output."""
    code = "import sys; from safe_modprobe.admin.commands.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=TOP, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)
