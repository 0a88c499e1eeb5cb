"""The decision: three questions (Kees Cook, LKML, 29 Nov 2017), answered without looking at anything.

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

IN_DOUBT = "too little is known of the caller to say that it is not meant"
"""How the reason ends of what a rule refuses to somebody of whom too little is known."""

IN_TRIAL = "it would be refused, but for the trial"
"""How the reason ends of what a trial let through."""


def decide(policy: Policy, request: Request, caller: Caller, plan: Plan) -> Verdict:
    """First matching rule wins; then the mismatch. Silence is a refusal.

    The request's action is that of its worst target, since the kernel asked for all of them; the
    reason and the origin are those of the step that made it so.
    """
    asking = principals(policy, request, caller)
    if asking != (caller,):
        return combine(tuple(decide(policy, request, asker, plan) for asker in asking))
    site = call_site(policy, request.alias)
    targets = tuple(_judge_target(policy, request, caller, target, site) for target in plan.targets)
    action = _worst(tuple(target.action for target in targets))
    steps = [step for target in targets if target.action is action for step in target.steps if step.action is action]
    # What a person wants to read about: of what was granted, what asked for most; else what is not noise.
    telling = [step for step in steps if (step.need is not None if action is Action.ALLOW else not step.quiet)]
    deciding = next(iter(telling or steps), None)
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
    """The verdict to act on when several tasks wait.

    All for this very alias: each might have asked alone, so the most permissive. By /proc alone nobody knows who
    asked for what, so the strictest.
    """
    ordered: list[Verdict] = sorted(verdicts, key=_sort_key)
    return ordered[-1 if any(verdict.caller.source is Source.PROC for verdict in verdicts) else 0]


def _sort_key(verdict: Verdict) -> tuple[int, int, int]:
    """Of two that let the target in: which skips more soft dependencies, and whose caller holds less.

    The latter since the caller is also the one for whom the modules' own inits are judged.
    """
    skipped = sum(step.action is Action.DENY for target in verdict.targets for step in target.steps)
    caller = verdict.caller
    held = caller.capabilities.bit_count() if caller.initial_user_namespace else 0
    return _SEVERITY.index(verdict.action), skipped, -held


def principals(policy: Policy, request: Request, caller: Caller) -> tuple[Caller, ...]:
    """For whom the caller asks: for itself, or at a deputy's call site, as a kernel thread, for those behind it.

    Its own uid and capabilities are the kernel's and say nothing, to rules either. Each behind it might have
    asked alone, so one that may is enough; where nobody waits, nobody is known. Whoever the kernel says nothing of may
    be a kernel thread, but for the deputy that asks as who it works for.
    """
    silent = caller.source is Source.KERNEL_ARGS and holds(caller.capabilities, SYS_MODULE)
    deputy = caller.kernel_thread or (silent and not crypto_asks_as_user(request.alias))
    site = call_site(policy, request.alias) if deputy else None
    if site is None or not site.deputy:
        return (caller,)
    return caller.working_for or (UNKNOWN_CALLER._replace(source=caller.source),)


def caller_query(policy: Policy, request: Request) -> CallerQuery:
    """Return what the search for this request's callers must know of the policy."""
    answer = claimed_caller(request.claim) if request.claim.unprivileged else UNNAMED_CALLER
    return CallerQuery(
        policy.settings.sources,
        policy.settings.kernel_args_always,
        deputy=principals(policy, request, answer) != (answer,),
        needs_details=needs_details(policy, request, answer),
    )


def needs_details(policy: Policy, request: Request, caller: Caller) -> bool:
    """Return whether a rule for this alias could decide otherwise if everything were known about the caller.

    A caller with CAP_SYS_MODULE is allowed anyway: for it an allow rule matters only above a row that says otherwise.
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


def _worst(actions: tuple[Action, ...]) -> Action:
    return max(actions, key=_SEVERITY.index, default=Action.ALLOW)


def _reason_without_steps(plan: Plan) -> str:
    if not plan.targets:
        return "no module answers"
    return ", ".join(f"{target.module} is {target.state}" for target in plan.targets)


def _judge_target(
    policy: Policy, request: Request, caller: Caller, target: Target, site: CallSite | None
) -> TargetVerdict:
    """Every step by itself; a step without which the target cannot load refuses the target."""
    if target.state is not TargetState.NEW:
        return TargetVerdict(target, Action.ALLOW)
    judged: list[StepVerdict] = []
    refused: dict[str, StepVerdict] = {}
    for step in target.steps:
        verdict = _judge_step(policy, request, caller, step, target, site)
        if policy.settings.trial and verdict.action is Action.DENY:
            # The one place that every refusal comes through, whoever said it: mode, rule, mismatch, the kernel's
            # argument. Not `mismatch = "log"`, above which the first two and the last would still stand; and before
            # a refused dependency takes others with it, since in a trial none does. Never quiet: whoever is refused
            # without a word today has to be seen once, and what no module answers is not recorded in any case.
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
    return TargetVerdict(target, _worst(kept), tuple(judged))


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
        return _refuse(step, "mode is disabled, for everyone", settings.origin("mode"), "the mode")
    if request.claim.netdev:
        return _refuse(
            step, "the kernel asks for netdev-NAME with CAP_NET_ADMIN instead", KERNEL, "the name that is asked for"
        )
    if request.claim.filesystem and step.module == target.module and not step.registers_filesystem:
        return _refuse(step, "asked for as a file system, and registers none", KERNEL, "the module")
    rule = first_rule(policy, request, caller, step.module)
    if rule is not None:
        why = rule.reason or (f"rule {rule.name}" if rule.name else f"a rule says {rule.action}")
        why = why if matches_caller(rule, caller) else f"{why}; {IN_DOUBT}"
        barred = "that rule" if rule.action is Action.DENY else ""
        return StepVerdict(step, rule.action, why, rule.origin, None, rule.quiet, barred)
    need, why, origin, quiet = _need(policy, request, step)
    if need is None:
        return StepVerdict(step, Action.ALLOW, why, origin)
    if suffices(policy, caller, need, site):
        return StepVerdict(step, Action.ALLOW, f"{why}; the caller may", origin, need)
    enough = " or ".join(name_of(each) for each in _sufficient(need, site))
    why = f"{why}; the caller holds no capability that suffices ({enough})"
    return StepVerdict(step, settings.mismatch, why, origin, need, quiet)


KERNEL = Origin("grsecurity's kernel argument")


def _refuse(step: Step, why: str, origin: Origin, barred: str) -> StepVerdict:
    return StepVerdict(step, Action.DENY, why, origin, barred=barred)


class _Need(NamedTuple):
    """The capability that a step asks for, if any, with the reason and its place."""

    capability: Capability | None
    why: str
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
        return _Need(SYS_MODULE, "mode is privileged, for all modules", mode_origin)
    if mark is not None:
        return _Need(None, mark.reason or "left to its marker, and it has none", mark.origin)
    return _Need(None, "not marked", mode_origin)


def suffices(policy: Policy, caller: Caller, need: Capability, site: CallSite | None) -> bool:
    """Whether the caller holds CAP_SYS_MODULE, the capability needed, or the call site's.

    Only in the initial user namespace (capable(), not ns_capable()). For a deputy ask for its principals().
    """
    if not caller.known:
        # A kernel argument that we do not understand is an answer, and the answer is no.
        return policy.settings.unknown_caller_privileged and caller.source is not Source.KERNEL_ARGS
    if not caller.initial_user_namespace:
        return False
    return any(holds(caller.capabilities, capability) for capability in _sufficient(need, site))


def _sufficient(need: Capability, site: CallSite | None) -> list[Capability]:
    """Any of these, each once: the one needed, the call site's, and CAP_SYS_MODULE always."""
    others = [] if site is None or site.capability is None else [site.capability]
    return list(dict.fromkeys([need, *others, SYS_MODULE]))
