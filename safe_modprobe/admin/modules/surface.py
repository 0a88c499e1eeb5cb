"""Which modules a kind of caller can make a kernel load: before the policy, and with it. Pure.

Nothing is estimated: every request that the caller gets through to is planned as modprobe would, and decided as the
helper would, dependencies and all.
"""

from collections.abc import Iterable, Iterator, Mapping

from safe_modprobe.admin.policy.reach import (
    FAMILIES,
    ORDER,
    Family,
    Reach,
    Reached,
    may_ask,
    unprivileged_caller,
    weaker,
)
from safe_modprobe.capability import ALL, NAMES
from safe_modprobe.decide import decide
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import (
    Action,
    Caller,
    Origin,
    Plan,
    Policy,
    Request,
    Source,
    StepVerdict,
    TargetState,
    TargetVerdict,
)

_NET_ADMIN = 1 << NAMES.index("CAP_NET_ADMIN")


class Kind(NamedTuple):
    """A kind of caller, and one who stands for all of them: of no unit, no group, and named by no rule."""

    key: str
    title: str
    means: str
    caller: Caller


def kinds(policy: Policy) -> tuple[Kind, ...]:
    """The three that an audit asks for, the weakest first."""
    uid = unprivileged_caller(policy)
    caller = Caller(Source.NONE, uid, uid, frozenset(), initial_user_namespace=True, no_new_privs=False)
    return (
        Kind("user", "Any user", "a process without a capability, in the initial namespaces", caller),
        Kind(
            "userns-root",
            "Root of a user namespace",
            "every capability, but only in a user namespace of its own: what unshare -r gives to any user",
            caller._replace(capabilities=ALL, initial_user_namespace=False),
        ),
        Kind(
            "network-admin",
            "A network admin",
            "CAP_NET_ADMIN in the initial user namespace, and nothing else: a network daemon's service",
            caller._replace(capabilities=_NET_ADMIN),
        ),
    )


class Outcome(NamedTuple):
    """The best that a kind of caller gets for a module: by which request, and which line of the policy says so."""

    action: Action
    asked: Reached
    reason: str
    origin: Origin


class Row(NamedTuple):
    """A module that could newly be loaded. `outcomes` has those kinds, by their keys, who could before the policy."""

    module: str
    reach: Reach
    outcomes: Mapping[str, Outcome]


class Tally(NamedTuple):
    """How many modules: before the policy, and with it."""

    before: int
    after: int


class FamilyRow(NamedTuple):
    """The modules that one family of requests brings in, dependencies included, by the keys of the kinds."""

    family: Family
    tallies: Mapping[str, Tally]


class Present(NamedTuple):
    """A module that they ask for and that needs no load: built in, or loaded. No policy can take it away."""

    module: str
    state: TargetState
    reach: Reach


class Surface(NamedTuple):
    """All of it, by the modules' names; the families in the order of reach.FAMILIES."""

    kinds: tuple[Kind, ...]
    rows: tuple[Row, ...]
    families: tuple[FamilyRow, ...]
    present: tuple[Present, ...]

    def tally(self, kind: Kind, reach: Reach | None = None) -> Tally:
        """The modules of a class, of all classes without one."""
        actions = [
            row.outcomes[kind.key].action
            for row in self.rows
            if kind.key in row.outcomes and reach in (None, row.reach)
        ]
        return Tally(len(actions), len(actions) - actions.count(Action.DENY))

    def classes(self) -> tuple[Reach, ...]:
        """Those that have a module, the widest reach first."""
        return tuple(reach for reach in ORDER if any(row.reach is reach for row in self.rows))


def reachable_requests(reached: Iterable[Reached], kinds: Iterable[Kind]) -> tuple[Reached, ...]:
    """The requests that any of these callers gets through to, each once."""
    callers = [kind.caller for kind in kinds]
    found = {each.request: each for each in reached if any(may_ask(caller, each.family) for caller in callers)}
    return tuple(found.values())


def survey(policy: Policy, kinds: tuple[Kind, ...], planned: Iterable[tuple[Reached, Plan]]) -> Surface:
    """What these callers bring in by these requests."""
    best: dict[str, dict[str, Outcome]] = {}
    reach: dict[str, Reach] = {}
    brought: dict[Family, dict[str, tuple[set[str], set[str]]]] = {}
    present: dict[str, Present] = {}
    for asked, plan in planned:
        family = asked.family
        for target in plan.targets:
            if target.state in (TargetState.BUILT_IN, TargetState.LIVE):
                known = present.get(target.module)
                widest = weaker(known.reach, family.reach) if known is not None else family.reach
                present[target.module] = Present(target.module, target.state, widest)
        for kind in kinds:
            if not may_ask(kind.caller, family):
                continue
            before, after = brought.setdefault(family, {}).setdefault(kind.key, (set(), set()))
            for module, outcome in _outcomes(policy, kind.caller, asked, plan):
                before.add(module)
                if outcome.action is not Action.DENY:
                    after.add(module)
                reach[module] = weaker(reach.get(module, family.reach), family.reach)
                outcomes = best.setdefault(module, {})
                outcomes[kind.key] = min(outcomes.get(kind.key, outcome), outcome, key=_severity)
    return Surface(
        kinds,
        tuple(Row(module, reach[module], best[module]) for module in sorted(best)),
        tuple(_family_row(family, brought[family]) for family in FAMILIES if any(_befores(brought.get(family, {})))),
        tuple(present[module] for module in sorted(present)),
    )


_Sets = Mapping[str, tuple[set[str], set[str]]]


def _befores(sets: _Sets) -> list[set[str]]:
    return [before for before, _ in sets.values()]


_SEVERITY = (Action.ALLOW, Action.LOG, Action.DENY)


def _severity(outcome: Outcome) -> int:
    return _SEVERITY.index(outcome.action)


def _family_row(family: Family, sets: _Sets) -> FamilyRow:
    return FamilyRow(family, {key: Tally(len(before), len(after)) for key, (before, after) in sets.items()})


def _outcomes(policy: Policy, caller: Caller, asked: Reached, plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """Every module that would newly be inserted, with what becomes of it."""
    verdict = decide(policy, Request(asked.request), caller, plan)
    for target in verdict.targets:
        for judged in target.steps:
            telling = judged
            if judged.action is not Action.DENY and target.action is Action.DENY:
                # Nothing of a refused target is inserted, and its last word is about the target itself.
                telling = _refusal(target)
            action, reason = telling.action, telling.reason
            if telling is not judged:
                reason = f"only with {target.target.module}, which is refused: {reason}"
            yield judged.step.module, Outcome(action, asked, reason, telling.origin)


def _refusal(target: TargetVerdict) -> StepVerdict:
    return next(each for each in target.steps if each.step.module == target.target.module)
