"""`explain`: show the verdict that a caller would get, and the line of the policy that decides. It loads nothing.

With --last or --event, the command decides a recorded request again under the current policy, as if no module were
loaded yet. It shows the new verdict beside the recorded one.
"""

import argparse
from typing import Any

from safe_modprobe import capability
from safe_modprobe.admin.commands import machine
from safe_modprobe.admin.commands.output import local_time, print_json, printable
from safe_modprobe.admin.commands.parsers import (
    Commands,
    add_command,
    add_json,
    add_machine,
    capability_named,
    uid_number,
)
from safe_modprobe.admin.commands.records import add_file
from safe_modprobe.admin.commands.records import as_json as event_as_json
from safe_modprobe.admin.commands.verdicts import as_json, as_text
from safe_modprobe.admin.records.history import REFUSED, Event, caller_of, request_of
from safe_modprobe.admin.records.journal import Journal
from safe_modprobe.callers import kernel_args
from safe_modprobe.callers.find import resolve_netdev_claim
from safe_modprobe.callers.tasks import read_caller
from safe_modprobe.decide import combine, decide
from safe_modprobe.errors import SafeModprobeError, UsageError
from safe_modprobe.log.report import ADMIN_FILE
from safe_modprobe.model import Action, Caller, Policy, Request, Source, TargetState, Verdict

_EXAMPLES = """
  safe-modprobectl explain net-pf-38 --uid 1000
  safe-modprobectl explain rtnl-link-bond --user systemd-network --cap CAP_NET_ADMIN
  safe-modprobectl explain fs-xfs --uid 0 --user-namespace --json
  safe-modprobectl explain --last                the latest recorded refusal, also one that a trial let through
  safe-modprobectl explain --event CURSOR        the record with a cursor from 'safe-modprobectl log --each'
"""


def add_parser(commands: Commands) -> None:
    """Add `explain`."""
    parser = add_command(commands, "explain", "show what a caller would get, and why", __doc__, _EXAMPLES)
    request = parser.add_mutually_exclusive_group(required=True)
    request.add_argument(
        "alias", nargs="?", metavar="ALIAS", help="the alias that the kernel requests, such as net-pf-38"
    )
    request.add_argument("--last", action="store_true", help="the latest recorded refusal")
    request.add_argument("--event", metavar="CURSOR", help="the recorded verdict with this cursor")
    caller = parser.add_mutually_exclusive_group()
    caller.add_argument("--uid", type=uid_number, metavar="N", help="the caller's user id; default: yours")
    caller.add_argument("--user", metavar="NAME", help="the caller's name in /etc/passwd")
    parser.add_argument(
        "--cap",
        action="append",
        type=capability_named,
        metavar="CAP",
        help="a capability the caller holds (repeatable); default: yours; with --uid or --user, all for 0, else none",
    )
    parser.add_argument("--user-namespace", action="store_true", help="the caller is in its own user namespace")
    parser.add_argument(
        "--kernel-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="an argument that a patched kernel adds (repeatable)",
    )
    add_file(parser)
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 for the verdicts allow and log, 1 for deny."""
    system = machine.from_arguments(arguments)
    policy = system.policy()
    if arguments.alias is None:
        return _explain_recorded(arguments, system, policy)
    if arguments.file:
        raise UsageError("--file: only --last and --event read a journal file; give one of them instead of an alias")
    request = kernel_args.parse(["--", arguments.alias, *arguments.kernel_arg]).request
    request = resolve_netdev_claim(request) if system.running() else request
    plan = system.plan(request)
    callers = _callers(arguments, request, policy, system)
    verdict = combine(tuple(decide(policy, request, caller, plan) for caller in callers))
    _print(arguments, as_json(policy, verdict), as_text(policy, verdict, system.path(ADMIN_FILE)))
    return _exit_code(verdict)


def _explain_recorded(arguments: argparse.Namespace, system: machine.Machine, policy: Policy) -> int:
    """Explain the record that --last or --event names."""
    caller_options = {"--uid": arguments.uid, "--user": arguments.user, "--cap": arguments.cap}
    caller_options |= {
        "--user-namespace": arguments.user_namespace or None,
        "--kernel-arg": arguments.kernel_arg or None,
    }
    for option, value in caller_options.items():
        if value is not None:
            raise UsageError(f"{option}: the record already names the caller; omit {option}, or give an ALIAS instead")
    journal = Journal(arguments.root, arguments.file)
    event = _latest_refusal(journal) if arguments.event is None else journal.at(arguments.event)
    request = resolve_netdev_claim(request_of(event)) if system.running() else request_of(event)
    verdict = decide(policy, request, caller_of(event), system.plan(request, as_if_new=True))
    loaded = [each.module for each in system.plan(request).targets if each.state is TargetState.LIVE]
    value = {"recorded": event_as_json(event), "changed": verdict.action is not event.verdict, "loaded": loaded}
    lines = [*as_text(policy, verdict, system.path(ADMIN_FILE)), *_compare(event, verdict, loaded)]
    _print(arguments, as_json(policy, verdict) | value, lines)
    return _exit_code(verdict)


def _latest_refusal(journal: Journal) -> Event:
    for event in journal.backwards():
        if event.verdict in REFUSED:
            return event
    raise SafeModprobeError("no refusal is recorded; 'safe-modprobectl log' shows the recorded verdicts")


def _compare(event: Event, verdict: Verdict, loaded: list[str]) -> list[str]:
    """Return lines on the recorded verdict, how it differs from the new one, and which targets are already loaded."""
    when = local_time(event.time)
    if (event.verdict, event.reason, event.origin) == (verdict.action, verdict.reason, str(verdict.origin)):
        lines = [f"then     the same, {when}"]
    else:
        lines = [f"then     {when}: {event.verdict}: {printable(event.reason)} [{printable(event.origin)}]"]
    if verdict.action is not event.verdict:
        lines.append(f"         the verdict was {event.verdict} then, and would be {verdict.action} now")
    if loaded:
        lines.append(f"         already loaded: {', '.join(loaded)}; no load is needed now")
    return lines


def _print(arguments: argparse.Namespace, value: dict[str, Any], lines: list[str]) -> None:
    if arguments.json:
        print_json(value)
    else:
        print("\n".join(lines))


def _exit_code(verdict: Verdict) -> int:
    return 1 if verdict.action is Action.DENY else 0


def _callers(
    arguments: argparse.Namespace, request: Request, policy: Policy, system: machine.Machine
) -> tuple[Caller, ...]:
    """Return the caller that the options or the kernel arguments describe."""
    if request.claim.unprivileged:
        return (kernel_args.claimed_caller(request.claim),)
    uid = arguments.uid if arguments.user is None else system.uid(arguments.user)
    mask = sum({1 << each for each in arguments.cap or ()})
    if uid is None:
        caller = read_caller("self", Source.PROC)
        mask = mask if arguments.cap else caller.capabilities
        return (caller._replace(capabilities=mask, initial_user_namespace=not arguments.user_namespace),)
    if uid == 0 and arguments.cap is None:
        mask = capability.ALL
    # An image without /etc/passwd is fine unless a rule matches groups.
    gids = system.accounts().gids(uid) if any(rule.groups for rule in policy.rules) else frozenset()
    return (Caller(Source.NONE, uid, uid, gids, mask, not arguments.user_namespace, no_new_privs=False),)
