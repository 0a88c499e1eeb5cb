"""What an admin wants of modules, whether a policy gives it, and the edit of a drop-in that makes it so. Pure.

Whether it does is asked of decide() itself, for every alias that a module answers: never of the row that was written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from safe_modprobe.admin.policy import edit
from safe_modprobe.admin.policy.reach import unprivileged_caller
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
    """The subcommand."""

    MARK = "mark"
    UNMARK = "unmark"
    ALLOW = "allow"


class RequestedEdit(NamedTuple):
    """`row` is the row that it takes, but for its modules.

    `need` is the capability that a mark is to ask for, None for any. `uids` and `units` are whom to allow; with
    both, whoever is one of each.
    """

    verb: Verb
    row: Mapping[str, Any]
    need: Capability | None = None
    uids: tuple[int, ...] = ()
    units: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        """The policy's table that the row goes to."""
        return "rule" if self.verb is Verb.ALLOW else "mark"


class Candidate(NamedTuple):
    """A module as if nothing of it were in the kernel, and all that it can be asked for by."""

    target: Target
    aliases: tuple[str, ...]

    @property
    def name(self) -> str:
        """The module's."""
        return self.target.module


class PlannedEdit(NamedTuple):
    """A drop-in's next text. `line` is the new row's, 0 where none was needed; `added` are modules that others need."""

    text: str
    line: int = 0
    modules: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    taken_out: tuple[str, ...] = ()


def plan_edit(
    text: str, name: str, wish: RequestedEdit, candidates: Sequence[Candidate], in_force: Callable[[str], Policy]
) -> PlannedEdit:
    """The edit of the drop-in `name`, which holds this text, after which all candidates are as wished.

    `in_force` is the whole policy with another text in the drop-in's place. Raises UsageError where no row of this
    drop-in could do it, and what `in_force` raises.
    """
    policy = in_force(text)
    wanting = [each for each in candidates if not is_fulfilled(policy, wish, each)]
    if not wanting:
        check_result(policy, wish, candidates)
        return PlannedEdit(text)
    text, taken_out = _without_opposites(text, wish, [each.name for each in wanting])
    policy = in_force(text)
    modules = [each.name for each in wanting if not is_fulfilled(policy, wish, each)]
    if not modules:
        check_result(policy, wish, wanting)
        return PlannedEdit(text, taken_out=taken_out)
    asked = len(modules)
    at = len(edit.rows_of(text, wish.table))
    while True:
        after = edit.with_row(text, wish.table, {"modules": modules, **wish.row}, at)
        policy = in_force(after)
        verdict = _first_other(policy, wish, wanting)
        if verdict is None:
            line = edit.line_of(after, wish.table, at)
            return PlannedEdit(after, line, tuple(modules[:asked]), tuple(modules[asked:]), taken_out)
        if missing := _refused_needs(verdict, modules):
            modules += missing
            continue
        earlier = edit.row_at(after, wish.table, verdict.origin.line) if verdict.origin.file == name else None
        if earlier is None or earlier >= at:
            raise UsageError(_why_not(wish, policy, verdict))
        at = earlier


def check_result(policy: Policy, wish: RequestedEdit, candidates: Sequence[Candidate]) -> None:
    """Raises UsageError with what decides otherwise, where the candidates are not as wished."""
    verdict = _first_other(policy, wish, candidates)
    if verdict is not None:
        raise UsageError(_why_not(wish, policy, verdict))


def is_fulfilled(policy: Policy, wish: RequestedEdit, candidate: Candidate) -> bool:
    """Whether it is as wished already, so that the same wish twice writes one row."""
    if wish.verb is Verb.MARK:
        # Of the marks and markers themselves: a rule or the mode that refuses today may be gone tomorrow.
        policy = policy._replace(rules=(), settings=policy.settings._replace(mode=Mode.MARKED))
    return _first_other(policy, wish, [candidate]) is None


def verdicts(policy: Policy, wish: RequestedEdit, candidate: Candidate) -> Iterator[Verdict]:
    """What the callers that are meant get, for each alias: as if there were no trial, and mismatches were refused."""
    policy = policy._replace(settings=policy.settings._replace(trial=False, mismatch=Action.DENY))
    target = candidate.target
    if wish.verb is Verb.MARK:
        own = [step._replace(needs=()) for step in target.steps if step.module == target.module]
        target = target._replace(steps=tuple(own))
    for caller in callers(policy, wish):
        for alias in candidate.aliases:
            yield decide(policy, Request(alias), caller, Plan(alias, (target,)))


def callers(policy: Policy, wish: RequestedEdit) -> list[Caller]:
    """Those who are allowed; for a mark and where only units are, somebody without privilege whom no rule names."""
    uids = wish.uids or (unprivileged_caller(policy),)
    return [
        Caller(Source.NONE, uid, uid, frozenset(), 0 if uid else ALL, True, no_new_privs=False, unit=unit)
        for uid in uids
        for unit in wish.units or (None,)
    ]


def _first_other(policy: Policy, wish: RequestedEdit, candidates: Sequence[Candidate]) -> Verdict | None:
    every = (verdict for candidate in candidates for verdict in verdicts(policy, wish, candidate))
    return next((verdict for verdict in every if not _is_as_wished(wish, verdict)), None)


def _is_as_wished(wish: RequestedEdit, verdict: Verdict) -> bool:
    if wish.verb is not Verb.MARK:
        return verdict.action is Action.ALLOW
    (judged,) = verdict.targets[0].steps
    return judged.action is Action.DENY and wish.need in (None, judged.need)


def _without_opposites(text: str, wish: RequestedEdit, modules: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Without these names in marks that say something else of them and nothing of an alias; and those found."""
    found = []
    for module in modules:
        for index in reversed(range(len(edit.rows_of(text, "mark")))):
            row = edit.rows_of(text, "mark")[index]
            if wish.verb is Verb.ALLOW or "aliases" in row or row["privileged"] == wish.row["privileged"]:
                continue
            if any(edit.same_name(name, module) for name in row["modules"]):
                text = edit.without_module(text, "mark", index, module)
                found.append(module)
    return text, tuple(dict.fromkeys(found))


def _refused_needs(verdict: Verdict, modules: Sequence[str]) -> list[str]:
    """What the target needs, and what is refused for its own sake; a soft dependency is skipped by itself."""
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


def _why_not(wish: RequestedEdit, policy: Policy, verdict: Verdict) -> str:
    """What decides first, and where that can be changed."""
    where, why = verdict.origin, verdict.reason
    if wish.verb is Verb.MARK and policy.settings.mode is Mode.ALLOWED:
        return f"{where}: {why}, so no mark counts"
    if wish.verb is Verb.UNMARK and wish.row["privileged"] is not False and not _by_a_row(policy, where):
        return f"{where}: {why}; no mark says so: --over-marker opens it to everyone all the same"
    return f"{where}: {why}; that decides first, so change it there"


def _by_a_row(policy: Policy, where: Origin) -> bool:
    """Whether a rule or a mark said it, or the mode of which nothing is above; not a marker, nor another mode."""
    settings = policy.settings
    if settings.mode is Mode.DISABLED:
        return True
    return where in {rule.origin for rule in policy.rules} | {mark.origin for mark in policy.marks}
