"""The kernel's entry: read, decide, act. Run as root by a kernel worker, with nothing open."""

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
    """0 when everything that the alias needs is in the kernel, 1 otherwise; never 0 for a refusal."""
    callers: tuple[Caller, ...] = ()
    try:
        _open_standard_files()
        invocation = parse(argv[1:])
        invocation = invocation._replace(request=resolve_netdev_claim(invocation.request))
        word = rescue_word()
        if word == OFF and list(argv[1:3]) == ["-q", "--"] and not looks_like_path(argv[3]):
            exec_modprobe(argv[3], argv[4:])
        policy = _read_policy()
        if word == LOG:
            policy = policy.in_trial(COMMAND_LINE)
        callers = find_callers(invocation.request, caller_query(policy, invocation.request))
        return _serve(invocation, policy, callers)
    except UsageError as error:
        _print_error(f"safe-modprobe: {error}")
        return 1
    except Exception as error:  # the one blanket: root must not lose a module because of our mistake
        return last_resort(argv, error, _hold_sys_module(argv, callers))


def _hold_sys_module(argv: Sequence[str], callers: tuple[Caller, ...]) -> bool:
    """Whether the callers, looked for once more if they are not known yet, hold CAP_SYS_MODULE."""
    try:
        request = parse(argv[1:]).request
        callers = callers or find_callers(request, caller_query(BUILTIN_POLICY, request))
        return _privileged(BUILTIN_POLICY, request, callers)
    except Exception:  # then the last resort looks by itself
        return False


def _privileged(policy: Policy, request: Request, callers: tuple[Caller, ...]) -> bool:
    """Whether CAP_SYS_MODULE stands behind the request: as decide.combine() weighs several callers."""
    asking = [asker for each in callers for asker in principals(policy, request, each)]
    sure = [suffices(policy, asker, SYS_MODULE, None) for asker in asking]
    return all(sure) if any(each.source is Source.PROC for each in callers) else any(sure)


def _open_standard_files() -> None:
    """The kernel starts us with no descriptor at all; 0 to 2 must not become a module's file."""
    fd = os.open("/dev/null", os.O_RDWR)
    while fd <= 2:
        fd = os.dup(fd)
    os.close(fd)


def _read_policy() -> Policy:
    """The files' policy, or the built-in one, mode privileged, with the error in the log."""
    policy = cached_policy(FOLDERS)
    if policy is not None:
        return policy
    from safe_modprobe.policy.cache_write import (
        read_and_cache,  # once after a boot or an edit; and the parser costs most
    )

    try:
        return read_and_cache()
    except (PolicyError, OSError) as error:
        trial = os.path.exists(TRIAL)
        what = "the trial goes on" if trial else "mode privileged is in force until it is mended"
        named = {"MESSAGE_ID": message_ids.POLICY_BROKEN, "SAFE_MODPROBE_REASON": f"{error}; {what}"}
        record_trouble(POLICY, None, f"policy error, {what}: {error}", 3, named)
        return BUILTIN_POLICY._replace(settings=BUILTIN_POLICY.settings._replace(trial=trial))


def _serve(invocation: Invocation, policy: Policy, callers: tuple[Caller, ...]) -> int:
    request = invocation.request
    plan = read_plan(request, modules_folder(invocation.directory, invocation.version))
    verdict = combine(tuple(decide(policy, request, caller, plan) for caller in callers))
    if invocation.dry_run:
        return _show(invocation, verdict)
    if request.alias in SELF_TEST:
        from safe_modprobe.callers.self_test import note  # once after switching on

        note(callers, _privileged(policy, request, callers))
    record_verdict(verdict)
    # In a trial nothing is refused, so a kernel that would refuse by its own argument does not get it.
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
        text = f"{name}: could not be loaded: {failure.strerror}"
        record_trouble(LOAD, verdict.caller.uid, text, 4, load_failure(verdict, name, failure.strerror))
        if not invocation.quiet:
            _print_error(f"safe-modprobe: {text}")
    if not invocation.quiet:
        _print_refusal(verdict)
    return 0 if all_loaded(verdict, outcome) else 1


def _show(invocation: Invocation, verdict: Verdict) -> int:
    """The dry run: the steps that would be taken, as modprobe -n -v prints them, and the verdict."""
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
