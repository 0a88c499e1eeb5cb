"""The kernel's entry: read the request, decide, load or refuse. A kernel worker runs it as root, without open files."""

import os
import sys
from _collections_abc import Sequence

from safe_modprobe.callers.find import find_callers, resolve_netdev_claim
from safe_modprobe.callers.kernel_args import SELF_TEST, Invocation, parse
from safe_modprobe.callers.nested import on_behalf_of
from safe_modprobe.capability import SYS_MODULE
from safe_modprobe.decide import caller_query, combine, decide, principals, suffices
from safe_modprobe.errors import PolicyError, UsageError
from safe_modprobe.last_resort import TRIAL, last_resort
from safe_modprobe.log import message_ids
from safe_modprobe.log.counts import LOAD, POLICY
from safe_modprobe.log.rate_limited import record_trouble, record_verdict
from safe_modprobe.log.report import line, load_failure
from safe_modprobe.model import COMMAND_LINE, Action, Caller, Policy, Request, Source, Verdict
from safe_modprobe.modules.load import Tree, all_loaded, load
from safe_modprobe.modules.modprobe import exec_modprobe, looks_like_path
from safe_modprobe.modules.plan import modules_folder, read_plan
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from safe_modprobe.policy.cache import cached_policy
from safe_modprobe.policy.dropins import FOLDERS
from safe_modprobe.rescue import LOG, OFF, rescue_word


def main(argv: Sequence[str]) -> int:
    """Return 0 when everything that the alias needs is in the kernel, otherwise 1. A refusal is always 1."""
    callers: tuple[Caller, ...] = ()
    try:
        _open_standard_files()
        invocation = parse(argv[1:])
        invocation = invocation._replace(request=resolve_netdev_claim(invocation.request))
        rescue = rescue_word()
        if rescue == OFF and list(argv[1:3]) == ["-q", "--"] and not looks_like_path(argv[3]):
            exec_modprobe(argv[3], argv[4:])
        policy = _read_policy()
        if rescue == LOG:
            policy = policy.in_trial(COMMAND_LINE)
        callers = find_callers(invocation.request, caller_query(policy, invocation.request))
        return _serve(invocation, policy, callers)
    except UsageError as error:
        _print_error(f"safe-modprobe: {error}")
        return 1
    except Exception as error:  # the only catch-all: a bug in the helper must not cost root a module
        return last_resort(argv, error, _hold_sys_module(argv, callers))


def _hold_sys_module(argv: Sequence[str], callers: tuple[Caller, ...]) -> bool:
    """Return whether the callers hold CAP_SYS_MODULE. Find them first if the helper failed before it had."""
    try:
        request = parse(argv[1:]).request
        callers = callers or find_callers(request, caller_query(BUILTIN_POLICY, request))
        return _privileged(BUILTIN_POLICY, request, callers)
    except Exception:  # the last resort then checks the blocked tasks by itself
        return False


def _privileged(policy: Policy, request: Request, callers: tuple[Caller, ...]) -> bool:
    """Return whether the callers hold CAP_SYS_MODULE: each of them where `proc` found them, otherwise one of them."""
    judged = [principal for each in callers for principal in principals(policy, request, each)]
    suffice = [suffices(policy, principal, SYS_MODULE, None) for principal in judged]
    return all(suffice) if any(each.source is Source.PROC for each in callers) else any(suffice)


def _open_standard_files() -> None:
    """Open /dev/null as 0 to 2. The kernel starts the helper without descriptors; a module's file must not get one."""
    fd = os.open("/dev/null", os.O_RDWR)
    while fd <= 2:
        fd = os.dup(fd)
    os.close(fd)


def _read_policy() -> Policy:
    """Return the policy of the files. If it is broken, log the error and return the built-in one, mode privileged."""
    policy = cached_policy(FOLDERS)
    if policy is not None:
        return policy
    # Needed once after a boot or an edit. The parser is the slowest import.
    from safe_modprobe.policy.cache_write import read_and_cache

    try:
        return read_and_cache()
    except (PolicyError, OSError) as error:
        trial = os.path.exists(TRIAL)
        effect = "the trial goes on" if trial else "mode privileged applies until it is fixed"
        fields = {"MESSAGE_ID": message_ids.POLICY_BROKEN, "SAFE_MODPROBE_REASON": f"{error}; {effect}"}
        record_trouble(POLICY, None, f"policy error, {effect}: {error}", 3, fields)
        return BUILTIN_POLICY._replace(settings=BUILTIN_POLICY.settings._replace(trial=trial))


def _serve(invocation: Invocation, policy: Policy, callers: tuple[Caller, ...]) -> int:
    """Decide, record the verdict, load what it allows, and return the exit status."""
    request = invocation.request
    plan = read_plan(request, modules_folder(invocation.directory, invocation.version))
    verdict = combine(tuple(decide(policy, request, caller, plan) for caller in callers))
    if invocation.dry_run:
        return _show(invocation, verdict)
    if request.alias in SELF_TEST:
        from safe_modprobe.callers.self_test import note  # needed only for the test requests of `enable`

        note(callers, _privileged(policy, request, callers))
    record_verdict(verdict)
    # A trial refuses nothing, so it withholds the arguments by which the kernel itself would refuse.
    forwards = policy.settings.forward_kernel_args and not policy.settings.trial
    extra = " ".join(request.kernel_args) if forwards else ""
    tree = Tree(invocation.directory, invocation.version)
    if all(target.action is Action.DENY for target in verdict.targets):
        outcome = {}
    else:
        with on_behalf_of(verdict.caller):
            outcome = load(verdict, extra, tree)
    failures = {name: error for name, error in outcome.items() if error is not None}
    for name, failure in failures.items():
        message = f"{name}: could not be loaded: {failure.strerror}"
        record_trouble(LOAD, verdict.caller.uid, message, 4, load_failure(verdict, name, failure.strerror))
        if not invocation.quiet:
            _print_error(f"safe-modprobe: {message}")
    if not invocation.quiet:
        _print_refusal(verdict)
    return 0 if all_loaded(verdict, outcome) else 1


def _show(invocation: Invocation, verdict: Verdict) -> int:
    """Print the steps of a dry run, as `modprobe -n -v` does, and the verdict. Return the exit status."""
    if not invocation.quiet:
        for target in verdict.targets:
            for judged in target.steps:
                word = "refuse" if Action.DENY in (judged.action, target.action) else "insmod"
                print(word, judged.step.path or judged.step.module, judged.step.options)
        print(line(verdict))
    return 0 if verdict.targets and verdict.action is not Action.DENY else 1


def _print_refusal(verdict: Verdict) -> None:
    if not verdict.targets or verdict.action is Action.DENY:
        _print_error(f"safe-modprobe: {line(verdict)}")


def _print_error(message: str) -> None:
    os.write(2, message.encode(errors="backslashreplace") + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
