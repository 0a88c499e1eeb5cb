"""`enable --runtime`: become the kernel's module helper, until the next boot or `disable`."""

import argparse
import os
import subprocess
import sys

from safe_modprobe.act import switch
from safe_modprobe.ctl.parsers import Commands, add_command
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.read.policy_files import read_policy

HELPER = "/usr/sbin/safe-modprobe"
PROBE = "safe-modprobe-self-test"
"""An alias that no module answers."""

_SECONDS = 60


_EXAMPLES = """
  safe-modprobectl enable --runtime   until the next boot or 'disable'
"""


def add_parser(commands: Commands) -> None:
    """Add `enable`."""
    parser = add_command(commands, "enable", "become the kernel's module helper", __doc__, _EXAMPLES)
    parser.add_argument("--runtime", action="store_true", required=True, help="until the next boot")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Policy, tracing instance, a dry run; and only then /proc/sys/kernel/modprobe."""
    read_policy()
    before = switch.helper()
    made = False
    try:
        try:
            made = switch.make_instance()
        except OSError as error:
            print(
                f"safe-modprobectl: {error.filename}: {error.strerror}: without tracefs, who asks is learnt"
                " by /proc alone, and root may be refused while users ask",
                file=sys.stderr,
            )
        _try_helper()
        switch.set_helper(HELPER)
    except BaseException:
        if switch.helper() != before:
            switch.set_helper(before)
        if made:
            switch.remove_instance()
        raise
    if before != HELPER:
        switch.remember(before)
    print(f"kernel.modprobe is {HELPER}, and was {before or 'empty'}")
    return 0


def _try_helper() -> None:
    """Run the helper as the kernel would, in dry run: nothing open, the bare environment, in /."""
    command = [HELPER, "-n", "--", PROBE]
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" <&- 2>&-', "sh", *command],
            stdout=subprocess.PIPE,
            env={"HOME": "/", "TERM": "linux", "PATH": "/sbin:/usr/sbin:/bin:/usr/bin"},
            cwd="/",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SafeModprobeError(
            f"{HELPER}: a dry run did not end within {_SECONDS} s; kernel.modprobe stays as it was"
        ) from None
    answer = os.fsdecode(done.stdout).strip()
    if done.returncode != 1 or not answer.startswith(f"allowed '{PROBE}'"):
        raise SafeModprobeError(
            f"{HELPER}: a dry run ended with {done.returncode} and {answer!r} instead of 1 and a verdict;"
            " kernel.modprobe stays as it was; run it by hand to see why"
        )
