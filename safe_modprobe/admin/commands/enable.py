"""`enable`: make safe-modprobe the kernel's module helper, now and at every boot; with `--runtime` until the next boot.

It first checks for obstacles: files that other users can write, a broken policy, a helper that does not answer, or a
kernel that would not run it. Then it prepares the sources of the caller and sets kernel.modprobe. Last, a request by
root must succeed, or everything is restored. To run it again changes nothing.
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
    parser = add_command(commands, "enable", "make safe-modprobe the kernel's module helper", __doc__, _EXAMPLES)
    parser.add_argument("--runtime", action="store_true", help="only until the next boot")
    parser.add_argument(
        "--trial",
        action="store_true",
        help="refuse nothing, and record what would be refused; 'enable' without --trial ends the trial",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, prepare, run the helper dry, set kernel.modprobe, and test it with a request by root. Return 0."""
    permanent = not arguments.runtime
    preflight.refuse_blockers(permanent)
    with _restore_on_failure():
        newly_enabled = permanent and unit.enable()
        before, policy, about_trial = _begin_trial() if arguments.trial else _enable()
        if permanent:
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
                "changed": before != HELPER or newly_enabled,
            }
        )
    else:
        print("\n".join([_about_helper(before), _about_boot(at_boot, newly_enabled), *about_trial]))
    return 0


@contextmanager
def _restore_on_failure() -> Iterator[None]:
    """If the block raises, restore the helper, the trial and what happens at boot."""
    helper, at_boot, on_trial, trial_at_boot = switch.helper(), unit.at_boot(), trial.is_on(), trial.is_at_every_boot()
    try:
        yield
    except BaseException:
        if unit.at_boot() and not at_boot:
            _restore(unit.disable)
        if trial.is_at_every_boot() is not trial_at_boot:
            _restore(lambda: trial.set_at_every_boot(trial_at_boot))
        if trial.is_on() is not on_trial:
            _restore(trial.start if on_trial else trial.end)
        if switch.helper() != helper:
            _restore(lambda: switch.set_helper(helper))
            _restore(switch.remove_prepared_files)
        raise


def _restore(step: Callable[[], object]) -> None:
    """Undo one step. Its own errors are ignored, so that the first error is the one reported."""
    with suppress(OSError, SafeModprobeError):
        step()


def _about_helper(before: str) -> str:
    was = "unchanged" if before == HELPER else f"was {before or 'empty'}"
    return f"kernel.modprobe is {HELPER} ({was})"


def _about_boot(at_boot: bool, newly_enabled: bool) -> str:
    if not at_boot:
        return "safe-modprobe is not switched on at boot; run 'safe-modprobectl enable'"
    return f"{unit.UNIT} {'now' if newly_enabled else 'already'} switches safe-modprobe on at every boot"


def _enable() -> tuple[str, Policy, list[str]]:
    """Switch over and end a trial. Return the previous helper, the policy in force, and lines about a trial."""
    policy = _sound_policy()
    # If a file of the administrator keeps a trial on, nothing will be refused, and root's request needs no check.
    before = _switch_over(policy, check_root=trial.is_on() or not policy.settings.trial)
    about_trial = []
    if trial.end():
        about_trial.append("the trial has ended; the policy's refusals are in force")
        policy = _policy()
    if policy.settings.trial:
        origin = policy.settings.origin("trial")
        about_trial.append(f"a trial continues: {origin} says trial = true; remove that line to refuse requests")
    return before, policy, about_trial


def _policy() -> Policy:
    """Return the policy of the drop-ins through the helper's cache, so that the helper need not parse it again."""
    check_parser_installed()
    return cached_policy(FOLDERS) or cache_write.read_and_cache()


def _sound_policy() -> Policy:
    try:
        return _policy()
    except PolicyError as error:
        if trial.is_on():
            raise PolicyError(f"{error}; the trial continues") from None
        raise


def _begin_trial() -> tuple[str, Policy, list[str]]:
    """Begin a trial and switch over. Return what _enable() returns."""
    trial.start()
    policy = _trial_policy()
    before = _switch_over(policy, check_root=False)  # A trial refuses root nothing.
    return before, policy, [f"a trial is on: nothing is refused, and would-be refusals are recorded [{trial.PATH}]"]


def _switch_over(policy: Policy, check_root: bool) -> str:
    """Make safe-modprobe the kernel's helper, and return the previous one. Restore everything on an error.

    A trial's switch must exist before this call, and be removed after it. `check_root`: a request by root must succeed.
    """
    before = switch.helper()
    created = False
    try:
        created = prepare(_kernel_passes_caller(policy))
        if reason := dry_run():
            raise SafeModprobeError(
                f"{HELPER}: a dry run failed ({reason}); kernel.modprobe was not changed; run '{HELPER} -n -- anything'"
            )
        switch.install_helper()
        if check_root:
            preflight.request_as_root(before)
    except BaseException:
        if switch.helper() != before:
            switch.set_helper(before)
        if created:
            switch.remove_prepared_files()
        raise
    return before


def _kernel_passes_caller(policy: Policy) -> bool:
    """Whether the kernel describes the caller in the helper's arguments, and the policy uses that."""
    try:
        return Source.KERNEL_ARGS in policy.settings.sources and kernel_names_unprivileged()
    except OSError:
        return False


def _trial_policy() -> Policy:
    """Return the policy during the trial. A broken one does not end the trial (see helper.py)."""
    try:
        policy = _policy()
    except PolicyError as error:
        print(
            f"safe-modprobectl: {error}; until you mend it, the trial records what the built-in policy would refuse,"
            " in which every module needs privilege",
            file=sys.stderr,
        )
        return BUILTIN_POLICY  # Its own settings do not matter: the switch in /run decides.
    if not policy.settings.trial:
        origin = policy.settings.origin("trial")
        raise SafeModprobeError(f"{origin}: trial = false here overrides {trial.PATH}; remove that line")
    _require_drop_ins(policy)
    return policy


def _require_drop_ins(policy: Policy) -> None:
    if policy.files == (trial.PATH,):
        raise SafeModprobeError(
            "policy: no drop-in is in force, so a trial would test nothing; install the default policy first"
        )
