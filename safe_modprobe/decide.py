"""The decision: answer three questions (Kees Cook, LKML, 29 Nov 2017) from the arguments alone. Pure.

Was this load considered privileged? Is this module marked privileged-only? What are we configured
to do in the case of mismatches?
"""

from safe_modprobe.callers.kernel_args import UNNAMED_CALLER, claimed_caller, crypto_asks_as_user
from safe_modprobe.capability import SYS_MODULE, Capability, holds, name_of
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import (
    UNKNOWN_CALLER,
    Action,
    Caller,
    CallerQuery,
    CallSite,
    Mode,
    Origin,
    Plan,
    Policy,
    Request,
    Rule,
    Source,
    Step,
    StepVerdict,
    Target,
    TargetState,
    TargetVerdict,
    Verdict,
)
from safe_modprobe.policy.match import (
    call_site,
    first_mark,
    first_rule,
    matches_alias,
    matches_caller,
    normalize,
)

MODULE_FILE = "the module's .modinfo"

IN_DOUBT = "details about the caller are missing, so this deny rule applies"
"""Suffix of the reason when a deny rule matches only because details about the caller are missing."""

IN_TRIAL = "it would be denied without the trial"
"""Suffix of the reason when only the trial lets a step through."""


def decide(policy: Policy, request: Request, caller: Caller, plan: Plan) -> Verdict:
    """Return the verdict on a request: the first matching rule decides, otherwise the mismatch setting.

    The request gets the strictest action of its targets, since the kernel asked for all of them. The
    reason and the origin are those of the step that caused this action.
    """
    on_behalf_of = principals(policy, request, caller)
    if on_behalf_of != (caller,):
        return combine(tuple(decide(policy, request, principal, plan) for principal in on_behalf_of))
    site = call_site(policy, request.alias)
    targets = tuple(_judge_target(policy, request, caller, target, site) for target in plan.targets)
    action = _strictest(tuple(target.action for target in targets))
    steps = [step for target in targets if target.action is action for step in target.steps if step.action is action]
    # The reason shown is that of an allowed step which needed privilege, or of a refused step which is not quiet.
    relevant = [step for step in steps if (step.need is not None if action is Action.ALLOW else not step.quiet)]
    deciding = next(iter(relevant or steps), None)
    if deciding is None:
        reason, origin = _reason_without_steps(plan), policy.settings.origin("mode")
        return Verdict(action, reason, origin, request, caller, targets)
    return Verdict(
        action,
        f"{deciding.step.module}: {deciding.reason}",
        deciding.origin,
        request,
        caller,
        targets,
        all(step.quiet for step in steps),
    )


def combine(verdicts: tuple[Verdict, ...]) -> Verdict:
    """Return the verdict to act on when several tasks wait.

    If all wait for this alias, each could have asked alone, so the most permissive verdict counts. The source
    `proc` cannot tell which task wants this alias, so there the strictest counts.
    """
    ordered: list[Verdict] = sorted(verdicts, key=_sort_key)
    return ordered[-1 if any(verdict.caller.source is Source.PROC for verdict in verdicts) else 0]


def _sort_key(verdict: Verdict) -> tuple[int, int, int]:
    """Order verdicts from permissive to strict: action, skipped soft dependencies, then the caller's capabilities.

    The capabilities count because requests of a module's init are judged for the verdict's caller.
    """
    skipped = sum(step.action is Action.DENY for target in verdict.targets for step in target.steps)
    caller = verdict.caller
    held = caller.capabilities.bit_count() if caller.initial_user_namespace else 0
    return _SEVERITY.index(verdict.action), skipped, -held


def principals(policy: Policy, request: Request, caller: Caller) -> tuple[Caller, ...]:
    """Return the principals behind a caller: the caller itself, or the tasks that a deputy kernel thread works for.

    A deputy's uid and capabilities are the kernel's, so neither rules nor markers may use them. If no task is known
    to wait for the deputy, the principal is an unknown caller.
    """
    # Without kernel arguments the caller may be a kernel thread. The exception is the crypto deputy of a patched
    # kernel, which passes on its principal's credentials.
    unnamed = caller.source is Source.KERNEL_ARGS and holds(caller.capabilities, SYS_MODULE)
    deputy = caller.kernel_thread or (unnamed and not crypto_asks_as_user(request.alias))
    site = call_site(policy, request.alias) if deputy else None
    if site is None or not site.deputy:
        return (caller,)
    return caller.working_for or (UNKNOWN_CALLER._replace(source=caller.source),)


def caller_query(policy: Policy, request: Request) -> CallerQuery:
    """Return the parts of the policy that the search for this request's callers needs."""
    answer = claimed_caller(request.claim) if request.claim.unprivileged else UNNAMED_CALLER
    return CallerQuery(
        policy.settings.sources,
        policy.settings.kernel_args_always,
        deputy=principals(policy, request, answer) != (answer,),
        needs_details=needs_details(policy, request, answer),
    )


def needs_details(policy: Policy, request: Request, caller: Caller) -> bool:
    """Return whether a rule for this alias could decide differently if every detail of the caller were known.

    A caller with CAP_SYS_MODULE is allowed by default. For it an allow rule matters only above a different rule.
    """
    alias = normalize(request.alias)
    needs_no_grant = bool(caller.initial_user_namespace) and holds(caller.capabilities, SYS_MODULE)
    undecided_grant = False
    for rule in policy.rules:
        if not matches_alias(rule, alias):
            continue
        undecided = _is_undecided(rule, caller)
        if needs_no_grant and rule.action is Action.ALLOW and not rule.quiet:
            undecided_grant = undecided_grant or undecided
        elif undecided or (undecided_grant and matches_caller(rule, caller)):
            return True
    return False


def _is_undecided(rule: Rule, caller: Caller) -> bool:
    matches = matches_caller(rule, caller)
    return matches is None or (matches and rule.users is not None and caller.euid is None)


_SEVERITY = (Action.ALLOW, Action.LOG, Action.DENY)


def _strictest(actions: tuple[Action, ...]) -> Action:
    return max(actions, key=_SEVERITY.index, default=Action.ALLOW)


def _reason_without_steps(plan: Plan) -> str:
    if not plan.targets:
        return "no module matches this alias"
    return ", ".join(f"{target.module} is {target.state}" for target in plan.targets)


def _judge_target(
    policy: Policy, request: Request, caller: Caller, target: Target, site: CallSite | None
) -> TargetVerdict:
    """Judge every step on its own. A refused step refuses the steps that need it, and so possibly the target."""
    if target.state is not TargetState.NEW:
        return TargetVerdict(target, Action.ALLOW)
    judged: list[StepVerdict] = []
    refused: dict[str, StepVerdict] = {}
    for step in target.steps:
        verdict = _judge_step(policy, request, caller, step, target, site)
        if policy.settings.trial and verdict.action is Action.DENY:
            # All refusals pass here: by mode, rule, mismatch and kernel argument. The setting `mismatch = "log"` would
            # cover only one of them. This comes before refusals spread to other steps, because a trial has none.
            # A trial also records what is quiet, so that the administrator sees each refusal to come.
            verdict = verdict._replace(action=Action.LOG, reason=f"{verdict.reason}; {IN_TRIAL}", quiet=False)
        blocker = next((refused[name] for name in step.needs if name in refused), None)
        if verdict.action is not Action.DENY and blocker is not None:
            reason = f"needs {blocker.step.module}, which is refused ({blocker.reason})"
            verdict = blocker._replace(step=step, reason=reason)
        if verdict.action is Action.DENY:
            refused[step.module] = verdict
        judged.append(verdict)
    if target.module in refused:
        return TargetVerdict(target, Action.DENY, tuple(judged))
    kept = tuple(verdict.action for verdict in judged if verdict.action is not Action.DENY)
    return TargetVerdict(target, _strictest(kept), tuple(judged))


def _judge_step(
    policy: Policy,
    request: Request,
    caller: Caller,
    step: Step,
    target: Target,
    site: CallSite | None,
) -> StepVerdict:
    settings = policy.settings
    if settings.mode is Mode.DISABLED:
        return _refuse(step, "mode is disabled, so no caller may load a module", settings.origin("mode"), "the mode")
    if request.claim.netdev:
        reason = "a network device is requested by its bare name; only netdev-NAME with CAP_NET_ADMIN may load it"
        return _refuse(step, reason, KERNEL, "the requested name")
    if request.claim.filesystem and step.module == target.module and not step.registers_filesystem:
        return _refuse(step, "requested as a file system, but the module registers none", KERNEL, "the module")
    rule = first_rule(policy, request, caller, step.module)
    if rule is not None:
        reason = rule.reason or (f"rule {rule.name}" if rule.name else f"a rule says {rule.action}")
        reason = reason if matches_caller(rule, caller) else f"{reason}; {IN_DOUBT}"
        barred = "that rule" if rule.action is Action.DENY else ""
        return StepVerdict(step, rule.action, reason, rule.origin, None, rule.quiet, barred)
    need, reason, origin, quiet = _need(policy, request, step)
    if need is None:
        return StepVerdict(step, Action.ALLOW, reason, origin)
    if suffices(policy, caller, need, site):
        return StepVerdict(step, Action.ALLOW, f"{reason}; the caller has sufficient privilege", origin, need)
    sufficient = " or ".join(name_of(each) for each in _sufficient(need, site))
    reason = f"{reason}; the caller lacks the required capability ({sufficient})"
    return StepVerdict(step, settings.mismatch, reason, origin, need, quiet)


KERNEL = Origin("grsecurity's kernel argument")


def _refuse(step: Step, reason: str, origin: Origin, barred: str) -> StepVerdict:
    return StepVerdict(step, Action.DENY, reason, origin, barred=barred)


class _Need(NamedTuple):
    """The capability that a step requires, None for no privilege, and the row or marker that requires it."""

    capability: Capability | None
    reason: str
    origin: Origin
    quiet: bool = False


def _need(policy: Policy, request: Request, step: Step) -> _Need:
    mode, mode_origin = policy.settings.mode, policy.settings.origin("mode")
    if mode is Mode.ALLOWED:
        return _Need(None, "mode is allowed", mode_origin)
    mark = first_mark(policy, request.alias, step.module)
    if mark is not None and not mark.by_marker:
        return _Need(mark.capability, mark.reason or "marked", mark.origin, mark.quiet)
    if step.marker.written is not None:
        origin = Origin(step.path) if step.path else Origin(MODULE_FILE)
        return _Need(step.marker.capability, f"its marker is privileged={step.marker.written}", origin)
    if mode is Mode.PRIVILEGED:
        return _Need(SYS_MODULE, "mode is privileged, so every module needs privilege", mode_origin)
    if mark is not None:
        return _Need(
            None, mark.reason or "the mark defers to the module's marker, and the module has none", mark.origin
        )
    return _Need(None, "not marked", mode_origin)


def suffices(policy: Policy, caller: Caller, need: Capability, site: CallSite | None) -> bool:
    """Return whether the caller holds CAP_SYS_MODULE, the needed capability, or the call site's.

    Capabilities count only in the initial user namespace (capable(), not ns_capable()). For a deputy, call this
    for each of its principals().
    """
    if not caller.known:
        # A kernel argument that the helper cannot parse still means that the kernel found no privilege.
        return policy.settings.unknown_caller_privileged and caller.source is not Source.KERNEL_ARGS
    if not caller.initial_user_namespace:
        return False
    return any(holds(caller.capabilities, capability) for capability in _sufficient(need, site))


def _sufficient(need: Capability, site: CallSite | None) -> list[Capability]:
    """Return the capabilities of which one suffices: the needed one, the call site's and CAP_SYS_MODULE."""
    others = [] if site is None or site.capability is None else [site.capability]
    return list(dict.fromkeys([need, *others, SYS_MODULE]))
