"""`explain`: what a caller would get, and which line of which file says so. Nothing is loaded.

A recorded request (--last, --event) is decided anew under the present policy, as if no module were loaded yet, beside
what was recorded then.
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
  safe-modprobectl explain --last                the latest recorded refusal (in a trial: what would be one)
  safe-modprobectl explain --event CURSOR        a cursor of 'safe-modprobectl log --each'
"""


def add_parser(commands: Commands) -> None:
    """Add `explain`."""
    parser = add_command(commands, "explain", "what a caller would get, and why", __doc__, _EXAMPLES)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("alias", nargs="?", metavar="ALIAS", help="what the kernel asks for, such as net-pf-38")
    what.add_argument("--last", action="store_true", help="the latest recorded refusal")
    what.add_argument("--event", metavar="CURSOR", help="this recorded verdict")
    asker = parser.add_mutually_exclusive_group()
    asker.add_argument("--uid", type=uid_number, metavar="N", help="the caller's user id; default: yours")
    asker.add_argument("--user", metavar="NAME", help="the caller's name in /etc/passwd")
    parser.add_argument(
        "--cap",
        action="append",
        type=capability_named,
        metavar="CAP",
        help="a capability of the caller's (again for more); without any, uid 0 has all and others none",
    )
    parser.add_argument("--user-namespace", action="store_true", help="the caller is in one of its own")
    parser.add_argument(
        "--kernel-arg", action="append", default=[], metavar="ARG", help="what a patched kernel would pass"
    )
    add_file(parser)
    add_machine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 for allow and log, 1 for deny."""
    on = machine.from_arguments(arguments)
    policy = on.policy()
    if arguments.alias is None:
        return _recorded(arguments, on, policy)
    if arguments.file:
        raise UsageError("--file: a recorded verdict is what it is for; give --last or --event with it, and no alias")
    request = kernel_args.parse(["--", arguments.alias, *arguments.kernel_arg]).request
    request = resolve_netdev_claim(request) if on.running() else request
    plan = on.plan(request)
    callers = _callers(arguments, request, policy, on)
    verdict = combine(tuple(decide(policy, request, caller, plan) for caller in callers))
    _print(arguments, as_json(policy, verdict), as_text(policy, verdict, on.path(ADMIN_FILE)))
    return _code(verdict)


def _recorded(arguments: argparse.Namespace, on: machine.Machine, policy: Policy) -> int:
    """--last and --event."""
    given = {"--uid": arguments.uid, "--user": arguments.user, "--cap": arguments.cap}
    given |= {"--user-namespace": arguments.user_namespace or None, "--kernel-arg": arguments.kernel_arg or None}
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option}: the record says who asked; leave it out, or give an ALIAS instead")
    journal = Journal(arguments.root, arguments.file)
    event = _latest(journal) if arguments.event is None else journal.at(arguments.event)
    request = resolve_netdev_claim(request_of(event)) if on.running() else request_of(event)
    verdict = decide(policy, request, caller_of(event), on.plan(request, as_if_new=True))
    loaded = [each.module for each in on.plan(request).targets if each.state is TargetState.LIVE]
    value = {"recorded": event_as_json(event), "changed": verdict.action is not event.verdict, "loaded": loaded}
    lines = [*as_text(policy, verdict, on.path(ADMIN_FILE)), *_then(event, verdict, loaded)]
    _print(arguments, as_json(policy, verdict) | value, lines)
    return _code(verdict)


def _latest(journal: Journal) -> Event:
    for event in journal.backwards():
        if event.verdict in REFUSED:
            return event
    raise SafeModprobeError("no refusal is recorded; 'safe-modprobectl log' shows what is")


def _then(event: Event, verdict: Verdict, loaded: list[str]) -> list[str]:
    """What was recorded, where it differs from now, and why the verdict may not matter any more."""
    when = local_time(event.time)
    if (event.verdict, event.reason, event.origin) == (verdict.action, verdict.reason, str(verdict.origin)):
        lines = [f"then     the same, {when}"]
    else:
        lines = [f"then     {when}: {event.verdict}: {printable(event.reason)} [{printable(event.origin)}]"]
    if verdict.action is not event.verdict:
        lines.append(f"         it was {event.verdict} then, and would be {verdict.action} now")
    if loaded:
        lines.append(f"         {', '.join(loaded)} is in the kernel already, so nobody has to ask for it now")
    return lines


def _print(arguments: argparse.Namespace, value: dict[str, Any], lines: list[str]) -> None:
    if arguments.json:
        print_json(value)
    else:
        print("\n".join(lines))


def _code(verdict: Verdict) -> int:
    return 1 if verdict.action is Action.DENY else 0


def _callers(
    arguments: argparse.Namespace, request: Request, policy: Policy, on: machine.Machine
) -> tuple[Caller, ...]:
    if request.claim.unprivileged:
        return (kernel_args.claimed_caller(request.claim),)
    uid = arguments.uid if arguments.user is None else on.uid(arguments.user)
    mask = sum({1 << each for each in arguments.cap or ()})
    if uid is None:
        caller = read_caller("self", Source.PROC)
        mask = mask if arguments.cap else caller.capabilities
        return (caller._replace(capabilities=mask, initial_user_namespace=not arguments.user_namespace),)
    if uid == 0 and arguments.cap is None:
        mask = capability.ALL
    # Without a rule that asks for groups, an image needs no /etc/passwd.
    gids = on.accounts().gids(uid) if any(rule.groups for rule in policy.rules) else frozenset()
    return (Caller(Source.NONE, uid, uid, gids, mask, not arguments.user_namespace, no_new_privs=False),)
