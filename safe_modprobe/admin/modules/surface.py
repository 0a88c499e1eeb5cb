"""Which modules a kind of caller can make the kernel load, without the policy and with it. Pure.

Nothing is estimated. Every request that the caller can reach is planned as modprobe would plan it, with dependencies,
and decided as the helper would decide it.
"""

from collections.abc import Iterable, Iterator, Mapping

from safe_modprobe.admin.policy.reach import (
    FAMILIES,
    ORDER,
    Family,
    Reach,
    Reached,
    may_ask,
    unprivileged_uid,
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
    """A kind of caller, with a representative `caller` that has no unit or group and that no rule names."""

    key: str
    title: str
    means: str
    caller: Caller


def kinds(policy: Policy) -> tuple[Kind, ...]:
    """Return the three kinds that an audit reports, the weakest first."""
    uid = unprivileged_uid(policy)
    caller = Caller(Source.NONE, uid, uid, frozenset(), initial_user_namespace=True, no_new_privs=False)
    return (
        Kind("user", "Any user", "a process without capabilities, in the initial namespaces", caller),
        Kind(
            "userns-root",
            "Root of a user namespace",
            "every capability, but only in its own user namespace; unshare -r gives this to any user",
            caller._replace(capabilities=ALL, initial_user_namespace=False),
        ),
        Kind(
            "network-admin",
            "A network admin",
            "CAP_NET_ADMIN in the initial user namespace and no other capability, as for a network daemon",
            caller._replace(capabilities=_NET_ADMIN),
        ),
    )


class Outcome(NamedTuple):
    """The best result for a kind of caller and a module: the action, the request, and what in the policy decided."""

    action: Action
    reached: Reached
    reason: str
    origin: Origin


class Row(NamedTuple):
    """A loadable module. `outcomes` has, by key, the kinds of callers that can load it without the policy."""

    module: str
    reach: Reach
    outcomes: Mapping[str, Outcome]


class Tally(NamedTuple):
    """The number of modules without the policy and with it."""

    before: int
    after: int


class FamilyRow(NamedTuple):
    """How many modules one family of requests loads, dependencies included, by the key of each kind."""

    family: Family
    tallies: Mapping[str, Tally]


class Present(NamedTuple):
    """A requested module that is built in or loaded already, so that no policy can refuse it."""

    module: str
    state: TargetState
    reach: Reach


class Surface(NamedTuple):
    """The whole result. Modules are sorted by name, families are in the order of reach.FAMILIES."""

    kinds: tuple[Kind, ...]
    rows: tuple[Row, ...]
    families: tuple[FamilyRow, ...]
    present: tuple[Present, ...]

    def tally(self, kind: Kind, reach: Reach | None = None) -> Tally:
        """Count the modules of one class, or of all classes."""
        actions = [
            row.outcomes[kind.key].action
            for row in self.rows
            if kind.key in row.outcomes and reach in (None, row.reach)
        ]
        return Tally(len(actions), len(actions) - actions.count(Action.DENY))

    def classes(self) -> tuple[Reach, ...]:
        """Return the classes that have a module, the widest reach first."""
        return tuple(reach for reach in ORDER if any(row.reach is reach for row in self.rows))


def reachable_requests(reached: Iterable[Reached], kinds: Iterable[Kind]) -> tuple[Reached, ...]:
    """Return the requests that at least one of these callers can reach, each once."""
    callers = [kind.caller for kind in kinds]
    found = {each.request: each for each in reached if any(may_ask(caller, each.family) for caller in callers)}
    return tuple(found.values())


def survey(policy: Policy, kinds: tuple[Kind, ...], planned: Iterable[tuple[Reached, Plan]]) -> Surface:
    """Decide every planned request for every kind of caller, and collect the results by module and family."""
    best: dict[str, dict[str, Outcome]] = {}
    reach: dict[str, Reach] = {}
    loaded: dict[Family, dict[str, tuple[set[str], set[str]]]] = {}
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
            before, after = loaded.setdefault(family, {}).setdefault(kind.key, (set(), set()))
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
        tuple(
            _family_row(family, loaded[family]) for family in FAMILIES if any(_without_policy(loaded.get(family, {})))
        ),
        tuple(present[module] for module in sorted(present)),
    )


_Sets = Mapping[str, tuple[set[str], set[str]]]


def _without_policy(sets: _Sets) -> list[set[str]]:
    return [before for before, _ in sets.values()]


_SEVERITY = (Action.ALLOW, Action.LOG, Action.DENY)


def _severity(outcome: Outcome) -> int:
    return _SEVERITY.index(outcome.action)


def _family_row(family: Family, sets: _Sets) -> FamilyRow:
    return FamilyRow(family, {key: Tally(len(before), len(after)) for key, (before, after) in sets.items()})


def _outcomes(policy: Policy, caller: Caller, asked: Reached, plan: Plan) -> Iterator[tuple[str, Outcome]]:
    """Yield every module that the plan would insert, with its outcome."""
    verdict = decide(policy, Request(asked.request), caller, plan)
    for target in verdict.targets:
        for judged in target.steps:
            deciding = judged
            if judged.action is not Action.DENY and target.action is Action.DENY:
                # Nothing of a refused target is inserted, so the target's own refusal decides.
                deciding = _refusal(target)
            action, reason = deciding.action, deciding.reason
            if deciding is not judged:
                reason = f"loaded only with {target.target.module}, which is refused: {reason}"
            yield judged.step.module, Outcome(action, asked, reason, deciding.origin)


def _refusal(target: TargetVerdict) -> StepVerdict:
    return next(each for each in target.steps if each.step.module == target.target.module)
