"""`disable`: put back the helper that was there before, now and at every boot; with `--runtime` until the next boot.

The tracing instance goes, too, and a trial ends. Whatever fails on the way, the rest is done.
"""

import argparse
import os
from collections.abc import Callable

from safe_modprobe.admin.commands.output import print_json
from safe_modprobe.admin.commands.own_kernel import refuse_foreign_kernel
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json
from safe_modprobe.admin.switch import switch, trial, unit
from safe_modprobe.errors import SafeModprobeError, reason_of

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

    The kernel comes first, whatever systemd says. Raises SafeModprobeError at the end, with all that failed.
    """
    before = switch.helper()
    if switch.is_on():
        refuse_foreign_kernel()
    failed: list[str] = []

    def tried(step: Callable[[], object]) -> bool:
        try:
            return bool(step())
        except OSError as error:
            failed.append(f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error))
        except SafeModprobeError as error:
            failed.append(str(error))
        return False

    tried(switch.restore_helper)
    lock: list[int] = []
    tried(lambda: lock.append(switch.wait_for_watch()))
    tried(_clear)
    tried(unit.forget_failure)  # or the next watch starts the unit
    for fd in lock:  # before systemd is asked to stop anything: what it runs for that wants the lock, too
        os.close(fd)
    tried(trial.end)
    fresh = False
    if not arguments.runtime:
        tried(lambda: trial.set_at_every_boot(False))
        fresh = tried(unit.disable)
        tried(switch.restore_helper)  # a boot may have been under way until now
    if failed:
        now = switch.helper() or "empty"
        raise SafeModprobeError(f"kernel.modprobe is {now} now, and this failed: {'; '.join(dict.fromkeys(failed))}")
    _say(arguments, before, fresh)
    return 0


def _clear() -> None:
    switch.restore_helper()  # a watch may have been at work; and if this fails, what the helper needs stays
    switch.remove_prepared_files()


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
