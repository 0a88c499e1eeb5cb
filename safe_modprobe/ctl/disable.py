"""`disable`: put back the helper that was there before, take the tracing instance away, and end a trial."""

import argparse

from safe_modprobe.act import switch, trial
from safe_modprobe.ctl.enable import HELPER
from safe_modprobe.ctl.output import print_json
from safe_modprobe.ctl.parsers import Commands, add_command, add_json

_EXAMPLES = """
  safe-modprobectl disable   plain modprobe is the kernel's helper again
"""


def add_parser(commands: Commands) -> None:
    """Add `disable`."""
    parser = add_command(commands, "disable", "put the old helper back", __doc__, _EXAMPLES)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 also when it was off already: then nothing is changed but a left-over instance removed."""
    now = switch.helper()
    if now == HELPER:
        switch.set_helper(switch.remembered())
    switch.remove_instance()
    trial.end()
    helper = switch.helper()
    if arguments.json:
        print_json({"helper": helper, "before": now, "trial": False})
    else:
        print(f"kernel.modprobe is {helper or 'empty'}, and was {now or 'empty'}")
    return 0
