"""`disable`: restore the previous module helper, now and at every boot; with `--runtime` until the next boot.

It also removes the tracing instance and ends a trial. If one step fails, the other steps still run.
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
    parser = add_command(commands, "disable", "restore the previous module helper", __doc__, _EXAMPLES)
    parser.add_argument("--runtime", action="store_true", help="only until the next boot")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Switch off. Return 0, also if it was off already: then only leftovers are removed.

    The kernel comes first, before systemd is asked anything. Raises SafeModprobeError at the end, with every failure.
    """
    before = switch.helper()
    if switch.is_on():
        refuse_foreign_kernel()
    failures: list[str] = []

    def attempt(step: Callable[[], object]) -> bool:
        try:
            return bool(step())
        except OSError as error:
            failures.append(f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error))
        except SafeModprobeError as error:
            failures.append(str(error))
        return False

    attempt(switch.restore_helper)
    lock: list[int] = []
    attempt(lambda: lock.append(switch.wait_for_watch()))
    attempt(_remove_prepared_files)
    attempt(unit.forget_failure)  # Otherwise the next watch would start the unit.
    for fd in lock:  # Before systemd stops the unit, whose ExecStop= takes the lock too.
        os.close(fd)
    attempt(trial.end)
    newly_disabled = False
    if not arguments.runtime:
        attempt(lambda: trial.set_at_every_boot(False))
        newly_disabled = attempt(unit.disable)
        attempt(switch.restore_helper)  # A boot that was under way may have switched on until now.
    if failures:
        now = switch.helper() or "empty"
        raise SafeModprobeError(f"kernel.modprobe is now {now}, but this failed: {'; '.join(dict.fromkeys(failures))}")
    _report(arguments, before, newly_disabled)
    return 0


def _remove_prepared_files() -> None:
    switch.restore_helper()  # A watch may have switched back on. If this raises, the files that the helper needs stay.
    switch.remove_prepared_files()


def _report(arguments: argparse.Namespace, before: str, newly_disabled: bool) -> None:
    helper, at_boot = switch.helper(), unit.at_boot()
    if arguments.json:
        changed = before != helper or newly_disabled
        print_json({"helper": helper, "before": before, "trial": False, "at_boot": at_boot, "changed": changed})
        return
    was = "unchanged" if before == helper else f"was {before or 'empty'}"
    print(f"kernel.modprobe is {helper or 'empty'} ({was})")
    if at_boot:
        print(f"{unit.UNIT} switches safe-modprobe on at the next boot; run 'safe-modprobectl disable' to prevent that")
    elif newly_disabled:
        print(f"{unit.UNIT} no longer switches safe-modprobe on at boot")
