"""`disable`: put back the helper that was there before, now and at every boot; with `--runtime` until the next boot.

The tracing instance goes, too, and a trial ends.
"""

import argparse

from safe_modprobe.act import switch, trial, unit
from safe_modprobe.act.switch import HELPER
from safe_modprobe.ctl.output import print_json
from safe_modprobe.ctl.parsers import Commands, add_command, add_json

_EXAMPLES = """
  safe-modprobectl disable             plain modprobe is the kernel's helper again
  safe-modprobectl disable --runtime   until the next boot
"""


def add_parser(commands: Commands) -> None:
    """Add `disable`."""
    parser = add_command(commands, "disable", "put the old helper back", __doc__, _EXAMPLES)
    parser.add_argument("--runtime", action="store_true", help="until the next boot alone")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 also when it was off already: then nothing is changed but what was left over removed.

    The kernel comes first, whatever systemd says: raises SafeModprobeError after it.
    """
    now = switch.helper()
    if now == HELPER:
        switch.set_helper(switch.remembered())
    switch.remove_what_was_prepared()
    trial.end()
    fresh = False
    if not arguments.runtime:
        trial.at_every_boot(False)
        fresh = unit.disable()
    _say(arguments, now, fresh)
    return 0


def _say(arguments: argparse.Namespace, before: str, fresh: bool) -> None:
    helper, at_boot = switch.helper(), unit.at_boot()
    if arguments.json:
        changed = before != helper or fresh
        print_json({"helper": helper, "before": before, "trial": False, "at_boot": at_boot, "changed": changed})
        return
    was = "as before" if before == helper else f"and was {before or 'empty'}"
    print(f"kernel.modprobe is {helper or 'empty'}, {was}")
    if at_boot:
        print(f"{unit.UNIT} switches it on at the next boot: 'safe-modprobectl disable' ends that")
    elif fresh:
        print(f"{unit.UNIT} does not switch it on at boot any more")
