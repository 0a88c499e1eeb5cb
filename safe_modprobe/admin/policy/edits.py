"""Plan the drop-in edit for `mark`, `unmark` or `allow`, and check its result. Pure.

The check asks decide() for every alias of a module. It never relies on the row that was written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from safe_modprobe.admin.policy import edit
from safe_modprobe.admin.policy.reach import unprivileged_uid
from safe_modprobe.capability import ALL, Capability
from safe_modprobe.decide import decide
from safe_modprobe.errors import UsageError
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import (
    Action,
    Caller,
    Mode,
    Origin,
    Plan,
    Policy,
    Request,
    Source,
    StepVerdict,
    Target,
    Verdict,
)


class Verb(StrEnum):
    """The subcommand that requests the edit."""

    MARK = "mark"
    UNMARK = "unmark"
    ALLOW = "allow"


class RequestedEdit(NamedTuple):
    """What the administrator requests. `row` is the row to write, without its `modules`.

    `need` is the capability that a mark must require, None for any. `uids` and `units` are the callers to allow; if
    both are given, a caller must match both.
    """

    verb: Verb
    row: Mapping[str, Any]
    need: Capability | None = None
    uids: tuple[int, ...] = ()
    units: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        """The policy table of the row."""
        return "rule" if self.verb is Verb.ALLOW else "mark"


class Candidate(NamedTuple):
    """A module, planned as if it and its dependencies were not loaded, and every alias that loads it."""

    target: Target
    aliases: tuple[str, ...]

    @property
    def name(self) -> str:
        """The module's name."""
        return self.target.module


class PlannedEdit(NamedTuple):
    """A drop-in's next text.

    `line` is the line of the new row, 0 if no row was needed. `modules` are the requested modules in that row, `added`
    the dependencies in it. `taken_out` are modules removed from earlier marks.
    """

    text: str
    line: int = 0
    modules: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    taken_out: tuple[str, ...] = ()


def plan_edit(
    text: str, name: str, requested: RequestedEdit, candidates: Sequence[Candidate], in_force: Callable[[str], Policy]
) -> PlannedEdit:
    """Return the edit of the drop-in `name`, now with this text, that fulfills `requested` for all candidates.

    `in_force` returns the whole policy with another text in the drop-in. Raises UsageError if no row of this drop-in
    can fulfill it, and what `in_force` raises.
    """
    policy = in_force(text)
    unfulfilled = [each for each in candidates if not is_fulfilled(policy, requested, each)]
    if not unfulfilled:
        check_result(policy, requested, candidates)
        return PlannedEdit(text)
    text, taken_out = _without_opposites(text, requested, [each.name for each in unfulfilled])
    policy = in_force(text)
    modules = [each.name for each in unfulfilled if not is_fulfilled(policy, requested, each)]
    if not modules:
        check_result(policy, requested, unfulfilled)
        return PlannedEdit(text, taken_out=taken_out)
    requested_count = len(modules)
    at = len(edit.rows_of(text, requested.table))
    while True:
        after = edit.with_row(text, requested.table, {"modules": modules, **requested.row}, at)
        policy = in_force(after)
        verdict = _first_unfulfilled(policy, requested, unfulfilled)
        if verdict is None:
            line = edit.line_of(after, requested.table, at)
            return PlannedEdit(
                after, line, tuple(modules[:requested_count]), tuple(modules[requested_count:]), taken_out
            )
        if missing := _refused_needs(verdict, modules):
            modules += missing
            continue
        earlier = edit.row_at(after, requested.table, verdict.origin.line) if verdict.origin.file == name else None
        if earlier is None or earlier >= at:
            raise UsageError(_why_not(requested, policy, verdict))
        at = earlier


def check_result(policy: Policy, requested: RequestedEdit, candidates: Sequence[Candidate]) -> None:
    """Raise UsageError if the policy does not fulfill `requested`. The error says what decides instead."""
    verdict = _first_unfulfilled(policy, requested, candidates)
    if verdict is not None:
        raise UsageError(_why_not(requested, policy, verdict))


def is_fulfilled(policy: Policy, requested: RequestedEdit, candidate: Candidate) -> bool:
    """Whether the policy fulfills `requested` already. The same command twice writes one row."""
    if requested.verb is Verb.MARK:
        # Judge marks and markers alone: a rule or mode that refuses the module today may be removed later.
        policy = policy._replace(rules=(), settings=policy.settings._replace(mode=Mode.MARKED))
    return _first_unfulfilled(policy, requested, [candidate]) is None


def verdicts(policy: Policy, requested: RequestedEdit, candidate: Candidate) -> Iterator[Verdict]:
    """Yield the verdict for each caller to judge and each alias, without a trial and with mismatches refused."""
    policy = policy._replace(settings=policy.settings._replace(trial=False, mismatch=Action.DENY))
    target = candidate.target
    if requested.verb is Verb.MARK:
        own = [step._replace(needs=()) for step in target.steps if step.module == target.module]
        target = target._replace(steps=tuple(own))
    for caller in callers(policy, requested):
        for alias in candidate.aliases:
            yield decide(policy, Request(alias), caller, Plan(alias, (target,)))


def callers(policy: Policy, requested: RequestedEdit) -> list[Caller]:
    """Return the callers to judge: the allowed uids and units. Without uids, an unprivileged uid that no rule names."""
    uids = requested.uids or (unprivileged_uid(policy),)
    return [
        Caller(Source.NONE, uid, uid, frozenset(), 0 if uid else ALL, True, no_new_privs=False, unit=unit)
        for uid in uids
        for unit in requested.units or (None,)
    ]


def _first_unfulfilled(policy: Policy, requested: RequestedEdit, candidates: Sequence[Candidate]) -> Verdict | None:
    found = (verdict for candidate in candidates for verdict in verdicts(policy, requested, candidate))
    return next((verdict for verdict in found if not _fulfills(verdict, requested)), None)


def _fulfills(verdict: Verdict, requested: RequestedEdit) -> bool:
    if requested.verb is not Verb.MARK:
        return verdict.action is Action.ALLOW
    (judged,) = verdict.targets[0].steps
    return judged.action is Action.DENY and requested.need in (None, judged.need)


def _without_opposites(text: str, requested: RequestedEdit, modules: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Remove these modules from contradicting marks without `aliases`; return the text and the modules removed."""
    found = []
    for module in modules:
        for index in reversed(range(len(edit.rows_of(text, "mark")))):
            row = edit.rows_of(text, "mark")[index]
            if requested.verb is Verb.ALLOW or "aliases" in row or row["privileged"] == requested.row["privileged"]:
                continue
            if any(edit.same_name(name, module) for name in row["modules"]):
                text = edit.without_module(text, "mark", index, module)
                found.append(module)
    return text, tuple(dict.fromkeys(found))


def _refused_needs(verdict: Verdict, modules: Sequence[str]) -> list[str]:
    """Return the required steps of the target that are refused for their own sake. Soft dependencies need no row."""
    judged = {each.step.module: each for each in verdict.targets[0].steps}
    needed = _closure(verdict.targets[0].target.module, judged)
    refused = {name for name in needed if judged[name].action is not Action.ALLOW}
    first = [name for name in judged if name in refused and not refused.intersection(judged[name].step.needs)]
    return [name for name in first if name not in modules]


def _closure(module: str, judged: Mapping[str, StepVerdict]) -> set[str]:
    found, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in judged and name not in found:
            found.add(name)
            todo += judged[name].step.needs
    return found


def _why_not(requested: RequestedEdit, policy: Policy, verdict: Verdict) -> str:
    """Return the error: what decides first, and where the administrator can change it."""
    origin, reason = verdict.origin, verdict.reason
    if requested.verb is Verb.MARK and policy.settings.mode is Mode.ALLOWED:
        return f"{origin}: {reason}, so marks have no effect"
    if requested.verb is Verb.UNMARK and requested.row["privileged"] is not False and not _is_from_row(policy, origin):
        return f"{origin}: {reason}; no mark is the cause; add --over-marker to open the module to everyone"
    return f"{origin}: {reason}; that decides first, so change it there"


def _is_from_row(policy: Policy, origin: Origin) -> bool:
    """Whether a rule, a mark or mode = "disabled" decided. --over-marker overrules a marker or another mode only."""
    settings = policy.settings
    if settings.mode is Mode.DISABLED:
        return True
    return origin in {rule.origin for rule in policy.rules} | {mark.origin for mark in policy.marks}
