"""`enable --runtime`: become the kernel's module helper, until the next boot or `disable`."""

import argparse
import os
import subprocess
import sys

from safe_modprobe.act import switch, trial
from safe_modprobe.ctl.output import print_json
from safe_modprobe.ctl.parsers import Commands, add_command, add_json
from safe_modprobe.errors import PolicyError, SafeModprobeError
from safe_modprobe.model import Policy, Source
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from safe_modprobe.read.callers import promised
from safe_modprobe.read.policy_files import read_policy

HELPER = "/usr/sbin/safe-modprobe"
_PROBE = "safe-modprobe-self-test"
"""An alias that no module answers."""

_SECONDS = 60


_EXAMPLES = """
  safe-modprobectl enable --runtime           until the next boot or 'disable'
  safe-modprobectl enable --runtime --trial   refuse nothing yet, and record what would be refused
"""


def add_parser(commands: Commands) -> None:
    """Add `enable`."""
    parser = add_command(commands, "enable", "become the kernel's module helper", __doc__, _EXAMPLES)
    parser.add_argument("--runtime", action="store_true", required=True, help="until the next boot")
    parser.add_argument(
        "--trial",
        action="store_true",
        help="refuse nobody anything, and record what would be refused; 'enable' without it ends that",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Policy, trial, tracing instance, a dry run; and only then /proc/sys/kernel/modprobe."""
    before, about_trial = _begin_trial() if arguments.trial else _enable()
    if arguments.json:
        print_json({"helper": HELPER, "before": before, "trial": _policy_in_force().settings.trial or trial.is_on()})
    else:
        print("\n".join([f"kernel.modprobe is {HELPER}, and was {before or 'empty'}", *about_trial]))
    return 0


def _enable() -> tuple[str, list[str]]:
    """The helper that was there before, and what is to be said of a trial."""
    _check_policy()
    before = _switch_over()
    said = ["the trial has ended: what the policy refuses is refused from now on"] if trial.end() else []
    settings = _policy_in_force().settings
    if settings.trial:
        origin = settings.origin("trial")
        said.append(f"a trial goes on: {origin} says trial = true, and nothing is refused until it does not")
    return before, said


def _policy_in_force() -> Policy:
    try:
        return read_policy()
    except PolicyError:  # said already: then only the switch in /run counts
        return BUILTIN_POLICY


def _check_policy() -> None:
    try:
        read_policy()
    except PolicyError as error:
        if trial.is_on():
            raise PolicyError(f"{error}; the trial goes on") from None
        raise


def _begin_trial() -> tuple[str, list[str]]:
    """As _enable()."""
    fresh = trial.start()
    try:
        _check_trial()
        before = _switch_over()
    except BaseException:
        if fresh:
            trial.end()
        raise
    return before, [f"a trial is on: nothing is refused, what would be is recorded [{trial.PATH}]"]


def _switch_over() -> str:
    """The helper takes over, or all is as before. A trial's switch is there before, and goes after. What was there."""
    before = switch.helper()
    made = False
    try:
        made = _make_instance()
        if why := dry_run():
            raise SafeModprobeError(
                f"{HELPER}: a dry run failed ({why}); kernel.modprobe stays as it was; run it by hand to see why"
            )
        if before != HELPER:
            switch.remember(before)  # first: an empty one that nobody remembers would come back as modprobe
        switch.set_helper(HELPER)
    except BaseException:
        if switch.helper() != before:
            switch.set_helper(before)
        if made:
            switch.remove_instance()
        raise
    return before


def _make_instance() -> bool:
    try:
        return switch.make_instance()
    except OSError as error:
        if _kernel_tells():
            return False
        print(
            f"safe-modprobectl: {error.filename}: {error.strerror}: without tracefs, who asks is learnt"
            " by /proc alone, and root may be refused while users ask",
            file=sys.stderr,
        )
        return False


def _kernel_tells() -> bool:
    try:
        return Source.KERNEL_ARGS in _policy_in_force().settings.sources and promised()
    except OSError:
        return False


def _check_trial() -> None:
    """Whether it holds with the whole policy. A broken policy does not end it, see helper.py, but is to be mended."""
    try:
        policy = read_policy()
    except PolicyError as error:
        print(
            f"safe-modprobectl: {error}; until it is mended, what is recorded is what the built-in policy would refuse,"
            " in which every module needs privilege",
            file=sys.stderr,
        )
        return
    if not policy.settings.trial:
        origin = policy.settings.origin("trial")
        raise SafeModprobeError(f"{origin}: it says trial = false before {trial.PATH} can; remove that line")
    _refuse_only_file(policy)


def _refuse_only_file(policy: Policy) -> None:
    if policy.files == (trial.PATH,):
        raise SafeModprobeError(
            "policy: no drop-in is in force, so there is nothing to try; install the default policy first"
        )


def dry_run(stderr: int | None = None) -> str:
    """Why the helper does not do what it should for an alias that no module answers; "" where it does.

    It runs as the kernel would run it: nothing open, the bare environment, in /. Only what it says of an error can be
    had, by subprocess.STDOUT.
    """
    closed = "<&- 2>&-" if stderr is None else "<&-"
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", HELPER, "-n", "--", _PROBE],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={"HOME": "/", "TERM": "linux", "PATH": "/sbin:/usr/sbin:/bin:/usr/bin"},
            cwd="/",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {_SECONDS} s"
    said = os.fsdecode(done.stdout).strip().rpartition("\n")[2]
    if done.returncode == 1 and said.startswith(f"allowed '{_PROBE}'"):
        return ""
    return f"it ended with {done.returncode} and {said[:200]!a}"
