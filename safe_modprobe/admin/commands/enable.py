"""`enable`: become the kernel's module helper, now and at every boot; with `--runtime` until the next boot.

First it looks whether anything is in the way: files that others may write, a broken policy, a helper that does not
answer, a kernel that would not run it. Then the sources are prepared, the kernel is pointed at the helper, and a
request of root's own has to come through; where it does not, all is put back. To do it once more changes nothing.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from safe_modprobe.admin.commands import preflight
from safe_modprobe.admin.commands.dry_run import dry_run
from safe_modprobe.admin.commands.output import print_json
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json
from safe_modprobe.admin.switch import switch, trial, unit
from safe_modprobe.admin.switch.boot import prepare
from safe_modprobe.admin.switch.switch import HELPER
from safe_modprobe.callers.find import kernel_names_unprivileged
from safe_modprobe.errors import PolicyError, SafeModprobeError
from safe_modprobe.model import Policy, Source
from safe_modprobe.policy import cache_write
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from safe_modprobe.policy.cache import cached_policy
from safe_modprobe.policy.dropins import FOLDERS
from safe_modprobe.policy.files import check_parser_installed

_EXAMPLES = """
  safe-modprobectl enable                     now, and at every boot
  safe-modprobectl enable --trial             refuse nothing yet, and record what would be refused
  safe-modprobectl enable --runtime           until the next boot or 'disable'
"""


def add_parser(commands: Commands) -> None:
    """Add `enable`."""
    parser = add_command(commands, "enable", "become the kernel's module helper", __doc__, _EXAMPLES)
    parser.add_argument("--runtime", action="store_true", help="until the next boot alone")
    parser.add_argument(
        "--trial",
        action="store_true",
        help="refuse nobody anything, and record what would be refused; 'enable' without it ends that",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """What is in the way, what it needs, a dry run; only then kernel.modprobe, and a request of root's own."""
    for_good = not arguments.runtime
    preflight.refuse_blockers(for_good)
    with _all_or_nothing():
        fresh = for_good and unit.enable()
        before, policy, about_trial = _begin_trial() if arguments.trial else _enable()
        if for_good:
            trial.set_at_every_boot(arguments.trial)
            unit.start()
    at_boot = unit.at_boot()
    if arguments.json:
        print_json(
            {
                "helper": HELPER,
                "before": before,
                "trial": policy.settings.trial or trial.is_on(),
                "at_boot": at_boot,
                "changed": before != HELPER or fresh,
            }
        )
    else:
        print("\n".join([_about_helper(before), _about_boot(at_boot, fresh), *about_trial]))
    return 0


@contextmanager
def _all_or_nothing() -> Iterator[None]:
    """Where anything fails, the helper, a trial and what is done at boot are what they were before."""
    helper, at_boot, on_trial, tried_at_boot = switch.helper(), unit.at_boot(), trial.is_on(), trial.is_at_every_boot()
    try:
        yield
    except BaseException:
        if unit.at_boot() and not at_boot:
            _put_back(unit.disable)
        if trial.is_at_every_boot() is not tried_at_boot:
            _put_back(lambda: trial.set_at_every_boot(tried_at_boot))
        if trial.is_on() is not on_trial:
            _put_back(trial.start if on_trial else trial.end)
        if switch.helper() != helper:
            _put_back(lambda: switch.set_helper(helper))
            _put_back(switch.remove_prepared_files)
        raise


def _put_back(step: Callable[[], object]) -> None:
    """What led here is what is said, not what is in the way of a step back."""
    with suppress(OSError, SafeModprobeError):
        step()


def _about_helper(before: str) -> str:
    was = "as before" if before == HELPER else f"and was {before or 'empty'}"
    return f"kernel.modprobe is {HELPER}, {was}"


def _about_boot(at_boot: bool, fresh: bool) -> str:
    if not at_boot:
        return "it is not switched on at boot: 'safe-modprobectl enable' does that"
    return f"{unit.UNIT} switches it on at every boot{' from now on' if fresh else ', as before'}"


def _enable() -> tuple[str, Policy, list[str]]:
    """The helper that was there before, the policy in force, and what is to be said of a trial."""
    policy = _sound_policy()
    # A trial that ends here is followed by refusals; one that a file of the admin's goes on with, by none.
    before = _switch_over(policy, root_asks=trial.is_on() or not policy.settings.trial)
    said = []
    if trial.end():
        said.append("the trial has ended: what the policy refuses is refused from now on")
        policy = _policy()
    if policy.settings.trial:
        origin = policy.settings.origin("trial")
        said.append(f"a trial goes on: {origin} says trial = true, and nothing is refused until it does not")
    return before, policy, said


def _policy() -> Policy:
    """The files' own, as the helper comes by it: what is parsed here it need not parse once more."""
    check_parser_installed()
    return cached_policy(FOLDERS) or cache_write.read_and_cache()


def _sound_policy() -> Policy:
    try:
        return _policy()
    except PolicyError as error:
        if trial.is_on():
            raise PolicyError(f"{error}; the trial goes on") from None
        raise


def _begin_trial() -> tuple[str, Policy, list[str]]:
    """As _enable()."""
    trial.start()
    policy = _policy_to_try()
    before = _switch_over(policy, root_asks=False)  # who loses nothing by it
    return before, policy, [f"a trial is on: nothing is refused, what would be is recorded [{trial.PATH}]"]


def _switch_over(policy: Policy, root_asks: bool) -> str:
    """The helper takes over, or all is as before. A trial's switch is there before, and goes after. What was there.

    `root_asks`: a request of root's own has to come through.
    """
    before = switch.helper()
    made = False
    try:
        made = prepare(_kernel_tells(policy))
        if why := dry_run():
            raise SafeModprobeError(
                f"{HELPER}: a dry run failed ({why}); kernel.modprobe stays as it was; run it by hand to see why"
            )
        switch.install_helper()
        if root_asks:
            preflight.request_as_root(before)
    except BaseException:
        if switch.helper() != before:
            switch.set_helper(before)
        if made:
            switch.remove_prepared_files()
        raise
    return before


def _kernel_tells(policy: Policy) -> bool:
    try:
        return Source.KERNEL_ARGS in policy.settings.sources and kernel_names_unprivileged()
    except OSError:
        return False


def _policy_to_try() -> Policy:
    """The policy with the trial in it, in which it has to hold. A broken one does not end it, see helper.py."""
    try:
        policy = _policy()
    except PolicyError as error:
        print(
            f"safe-modprobectl: {error}; until it is mended, what is recorded is what the built-in policy would refuse,"
            " in which every module needs privilege",
            file=sys.stderr,
        )
        return BUILTIN_POLICY  # of which only the switch in /run counts
    if not policy.settings.trial:
        origin = policy.settings.origin("trial")
        raise SafeModprobeError(f"{origin}: it says trial = false before {trial.PATH} can; remove that line")
    _refuse_only_file(policy)
    return policy


def _refuse_only_file(policy: Policy) -> None:
    if policy.files == (trial.PATH,):
        raise SafeModprobeError(
            "policy: no drop-in is in force, so there is nothing to try; install the default policy first"
        )
