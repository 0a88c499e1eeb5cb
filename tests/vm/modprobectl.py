"""safe-modprobectl as its JSON says it, on this machine: for tests that only read a kernel's files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.vm.cache import TOP


def modprobectl_json(*arguments: str | Path) -> tuple[int, Any]:
    """The exit status, and what is said with --json."""
    code = "import sys; from safe_modprobe.admin.commands.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=TOP, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)
