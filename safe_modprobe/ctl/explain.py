"""`explain ALIAS`: what a caller would get, and which line of which file says so. Nothing is loaded."""

import argparse
import json
from typing import Any

from safe_modprobe import capability, kernel_args
from safe_modprobe.ctl import machine
from safe_modprobe.ctl.parsers import Commands, add_command, add_json, add_kernel, add_root
from safe_modprobe.decide import among, decide
from safe_modprobe.errors import UsageError
from safe_modprobe.kernel_args import escape
from safe_modprobe.model import Caller, Mark, Policy, Request, Source, StepVerdict, TargetVerdict, Verdict
from safe_modprobe.policy.match import first_mark
from safe_modprobe.read.accounts import Accounts
from safe_modprobe.read.callers import find_callers
from safe_modprobe.read.tasks import read_caller
from safe_modprobe.report import line, who

_EXAMPLES = """
  safe-modprobectl explain net-pf-38 --uid 1000
  safe-modprobectl explain rtnl-link-bond --user systemd-network --cap CAP_NET_ADMIN
  safe-modprobectl explain fs-xfs --uid 0 --user-namespace --json
"""


def add_parser(commands: Commands) -> None:
    """Add `explain`."""
    parser = add_command(commands, "explain", "what a caller would get, and why", __doc__, _EXAMPLES)
    parser.add_argument("alias", metavar="ALIAS", help="what the kernel asks for, such as net-pf-38")
    asker = parser.add_mutually_exclusive_group()
    asker.add_argument("--uid", type=_uid, metavar="N", help="the caller's user id; default: yours")
    asker.add_argument("--user", metavar="NAME", help="the caller's name in /etc/passwd")
    parser.add_argument(
        "--cap",
        action="append",
        type=_capability,
        metavar="CAP",
        help="a capability of the caller's (again for more); without any, uid 0 has all and others none",
    )
    parser.add_argument("--user-namespace", action="store_true", help="the caller is in one of its own")
    parser.add_argument(
        "--kernel-arg", action="append", default=[], metavar="ARG", help="what a patched kernel would pass"
    )
    add_root(parser)
    add_kernel(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 for allow and log, 1 for deny."""
    on = machine.of(arguments)
    policy = on.policy()
    request = kernel_args.parse(["--", arguments.alias, *arguments.kernel_arg]).request
    plan = on.plan(request)
    callers = _callers(arguments, request, policy, on.accounts())
    verdict = among(tuple(decide(policy, request, caller, plan) for caller in callers))
    if arguments.json:
        print(json.dumps(as_json(policy, verdict), indent=2))
    else:
        print("\n".join(as_text(policy, verdict)))
    return 1 if verdict.action == "deny" else 0


def _uid(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:11]) <= kernel_args.UID_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {kernel_args.UID_MAX}")
    return int(text)


def _capability(text: str) -> capability.Capability:
    found = capability.named(text.upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a capability such as CAP_NET_ADMIN")
    return found


def _callers(arguments: argparse.Namespace, request: Request, policy: Policy, accounts: Accounts) -> tuple[Caller, ...]:
    if request.claim.unprivileged:
        return find_callers(request, policy.settings)
    uid = arguments.uid
    if arguments.user is not None:
        uid = accounts.uid(arguments.user)
        if uid is None:
            raise UsageError(f"--user: {arguments.user!r} is not in /etc/passwd; give --uid instead")
    mask = sum({1 << each for each in arguments.cap or ()})
    if uid is None:
        caller = read_caller("self", Source.PROC)
        mask = mask if arguments.cap else caller.capabilities
        return (caller._replace(capabilities=mask, initial_user_namespace=not arguments.user_namespace),)
    if uid == 0 and arguments.cap is None:
        mask = capability.ALL
    return (Caller(Source.NONE, uid, uid, capabilities=mask, initial_user_namespace=not arguments.user_namespace),)


def as_json(policy: Policy, verdict: Verdict) -> dict[str, Any]:
    """The verdict for machines; the names are the words of the design."""
    caller = verdict.caller
    return {
        "alias": verdict.request.alias,
        "verdict": str(verdict.action),
        "reason": verdict.reason,
        "origin": str(verdict.origin),
        "caller": {
            "source": str(caller.source),
            "uid": caller.uid,
            "capabilities": _capabilities(caller),
            "user_namespace": "initial" if caller.initial_user_namespace else "other",
        },
        "targets": [
            {"module": each.target.module, "state": str(each.target.state), "verdict": str(each.action)}
            for each in verdict.targets
        ],
        "steps": [
            _json_step(first_mark(policy, verdict.request.alias, judged.step.module), judged, target)
            for target in verdict.targets
            for judged in target.steps
        ],
    }


def _json_step(mark: Mark | None, judged: StepVerdict, target: TargetVerdict) -> dict[str, Any]:
    step = judged.step
    return {
        "target": target.target.module,
        "module": step.module,
        "path": step.path,
        "options": step.options,
        "install": step.install,
        "marker": step.marker.written,
        "mark": None if mark is None else _privilege(mark),
        "mark_origin": None if mark is None else str(mark.origin),
        "verdict": str(judged.action),
        "reason": judged.reason,
        "origin": str(judged.origin),
    }


def as_text(policy: Policy, verdict: Verdict) -> list[str]:
    """The verdict for people: the caller, each target with its steps, and the line that decides."""
    lines = [f"request  {escape(verdict.request.alias)}", f"caller   {who(verdict.caller)}"]
    held = _capabilities(verdict.caller)
    every = len(held) == len(capability.NAMES)
    lines.append(f"         holds {'every capability' if every else ' '.join(held) or 'no capability'}")
    if not verdict.targets:
        lines.append("plan     no module answers")
    for target in verdict.targets:
        lines.append(f"target   {target.target.module} ({target.target.state})")
        for judged in target.steps:
            mark = first_mark(policy, verdict.request.alias, judged.step.module)
            lines.append(
                f"  step   {judged.step.module:<20} marker {judged.step.marker.written or '-':<6}"
                f" mark {'-' if mark is None else _privilege(mark)}"
            )
            lines.append(f"         {judged.action}: {judged.reason} [{judged.origin}]")
    return [*lines, f"verdict  {line(verdict)}"]


def _privilege(mark: Mark) -> str:
    return "unprivileged" if mark.capability is None else capability.name_of(mark.capability)


def _capabilities(caller: Caller) -> list[str]:
    return [name for bit, name in enumerate(capability.NAMES) if caller.capabilities >> bit & 1]
