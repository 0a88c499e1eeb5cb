"""The smallest set of rules that lets through what was refused, with its reasons, from recorded verdicts. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from safe_modprobe.admin.records.history import (
    REFUSED,
    Event,
    caller_of,
    describe_requester,
    plan_of,
    request_of,
    with_name,
)
from safe_modprobe.admin.records.remedy import (
    DYNAMIC,
    MODULES_LOAD,
    RuleSubject,
    comment,
    rule_for,
    subject_of,
    warnings,
)
from safe_modprobe.decide import decide
from safe_modprobe.escape import escape
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.log.report import barred
from safe_modprobe.model import Action, Policy, Rule, Verdict
from safe_modprobe.policy.dropins import FOLDERS
from safe_modprobe.policy.text import rule_table

FILE = f"{FOLDERS[2]}/20-suggested.toml"

_WHEN = "%Y-%m-%d %H:%M"


class Evidence(NamedTuple):
    """The recorded requests of one caller that a rule is for, or that none is proposed for."""

    who: str
    times: int
    first: datetime
    last: datetime
    aliases: tuple[str, ...]
    comms: tuple[str, ...]


class Proposal(NamedTuple):
    """A rule, and who asked for what it would let through."""

    rule: Rule
    evidence: tuple[Evidence, ...]


class Refusal(NamedTuple):
    """What no rule is proposed for, and why."""

    modules: tuple[str, ...]
    why: str
    evidence: Evidence


class Suggestion(NamedTuple):
    """The smallest set of rules; `settled` counts the requests that the policy lets through by now."""

    proposals: tuple[Proposal, ...]
    refusals: tuple[Refusal, ...]
    settled: int


def suggest(events: Iterable[Event], policy: Policy, names: Mapping[int, str] = {}) -> Suggestion:
    """From events in the order of time: what the policy, were it no trial, would refuse now.

    Nothing for unknown callers and for what no new rule changes. `names` are those of users, for people.
    """
    strict = policy._replace(settings=policy.settings._replace(trial=False, mismatch=Action.DENY))
    wanted: list[tuple[RuleSubject, _Asked]] = []
    refusals: dict[tuple[object, ...], Refusal] = {}
    settled = 0
    for asked in _asked(events):
        event = asked.event
        now = decide(strict, request_of(event), caller_of(event), plan_of(event))
        if now.action is not Action.DENY:
            settled += asked.times
            continue
        for_whom = subject_of(caller_of(event))
        if why := _against(event, now, for_whom):
            key = (why, describe_requester(event, names), event.refused)
            before = refusals.get(key)
            refusals[key] = Refusal(event.refused, why, _evidence(before and before.evidence, asked, names))
        else:
            wanted.append((for_whom, asked))
    proposals = tuple(_proposal(block, wanted, names) for block in _smallest(wanted))
    return Suggestion(proposals, tuple(refusals.values()), settled)


class _Asked(NamedTuple):
    """The refusals that are the same but for when, by which task and program."""

    event: Event
    times: int
    first: datetime
    last: datetime
    comms: tuple[str, ...]


def _asked(events: Iterable[Event]) -> list[_Asked]:
    """A program may have asked once a second for a week, so that each is decided about but once."""
    found: dict[Event, _Asked] = {}
    for event in events:
        if event.verdict in REFUSED and event.refused:
            same = event._replace(cursor="", time=datetime.min, tid=None, comm=None, message="")
            before = found.get(same, _Asked(event, 0, event.time, event.time, ()))
            times, comms = before.times + 1, with_name(before.comms, event.comm)
            found[same] = before._replace(times=times, last=event.time, comms=comms)
    return list(found.values())


def _against(event: Event, now: Verdict, for_whom: RuleSubject) -> str:
    """Why no rule is proposed; "" where one is."""
    if bar := event.barred or barred(now):
        place = event.origin if event.barred else str(now.origin)
        return f"no new rule comes before what refused it; change {escape(bar)} [{escape(place)}]"
    if not all(map(str.isprintable, event.refused)):
        return "a policy cannot hold this name"
    if not for_whom.known:
        return f"a rule would be for everybody, since anybody can be unknown; {MODULES_LOAD}"
    if for_whom.unit is None and any(uid in DYNAMIC for uid in for_whom.users):
        return "the uid is one of DynamicUser=, which another service may have tomorrow, and the unit is not known"
    return ""


class _Block(NamedTuple):
    """Every one of these users, in this unit and namespace, wanted every one of these modules."""

    unit: str | None
    namespace: str | None
    users: frozenset[int]
    modules: frozenset[str]

    def holds(self, unit: str | None, namespace: str | None, users: frozenset[int]) -> bool:
        """Whether the rule made of it is for them; one without a unit is for its users everywhere."""
        there = self.unit == unit or (self.unit is None and bool(self.users))
        return there and self.namespace in (None, namespace) and users <= self.users and bool(users) is bool(self.users)

    def covers(self, other: "_Block") -> bool:
        """Whether the other's rule would add nothing."""
        return self != other and self.holds(other.unit, other.namespace, other.users)


def _smallest(wanted: Sequence[tuple[RuleSubject, _Asked]]) -> list[_Block]:
    """As few blocks as any way gives, each without a user or module that was not recorded together with the others.

    The fewest of all would be a search without a bound (a biclique cover), and these read more easily.
    """
    apart = dict.fromkeys(
        _Block(for_whom.unit, for_whom.namespace, for_whom.users, frozenset({module}))
        for for_whom, asked in wanted
        for module in asked.event.refused
    )
    ways = []
    for blocks in (_namespaces_joined(apart), list(apart)):
        cells = _needed(blocks)
        ways += [_users_joined(_modules_joined(cells)), _modules_joined(_users_joined(cells))]
    return min(ways, key=len)


def _namespaces_joined(blocks: Iterable[_Block]) -> list[_Block]:
    """What was asked for in either namespace is for both."""
    joined: dict[_Block, _Block] = {}
    for block in blocks:
        both = block._replace(namespace=None)
        joined[both] = block if both not in joined else both
    return list(joined.values())


def _needed(blocks: Sequence[_Block]) -> list[_Block]:
    """Without those that another covers. Each has one module, so only those of the same one need comparing."""
    by_module: dict[frozenset[str], list[_Block]] = {}
    for block in blocks:
        by_module.setdefault(block.modules, []).append(block)
    return [block for block in blocks if not any(other.covers(block) for other in by_module[block.modules])]


def _modules_joined(blocks: Iterable[_Block]) -> list[_Block]:
    return _joined(blocks, lambda block: block._replace(modules=frozenset()))


def _users_joined(blocks: Iterable[_Block]) -> list[_Block]:
    """But not a set-user-ID program's two: with a third, they would be other pairs as well."""
    return _joined(blocks, lambda block: block._replace(users=frozenset()) if len(block.users) == 1 else block)


def _joined(blocks: Iterable[_Block], alike: Callable[[_Block], _Block]) -> list[_Block]:
    joined: dict[tuple[_Block, int], _Block] = {}
    for block in blocks:
        key = (alike(block), min(len(block.users), 2))  # a unit without users is not one with any
        before = joined.get(key, block)
        joined[key] = block._replace(users=before.users | block.users, modules=before.modules | block.modules)
    return list(joined.values())


def _proposal(block: _Block, wanted: Iterable[tuple[RuleSubject, _Asked]], names: Mapping[int, str]) -> Proposal:
    found: dict[tuple[object, ...], Evidence] = {}
    for for_whom, asked in wanted:
        there = block.holds(for_whom.unit, for_whom.namespace, for_whom.users)
        if there and not block.modules.isdisjoint(asked.event.refused):
            key = (asked.event.uid, asked.event.euid, for_whom.unit, for_whom.namespace)
            found[key] = _evidence(found.get(key), asked, names)
    evidence = tuple(found.values())
    last = max(each.last for each in evidence)
    times = sum(each.times for each in evidence)
    reason = f"suggested: asked for {_times(times)}, last on {last:%Y-%m-%d}"
    return Proposal(rule_for(RuleSubject(block.unit, block.users, block.namespace), block.modules, reason), evidence)


def _evidence(before: Evidence | None, asked: _Asked, names: Mapping[int, str]) -> Evidence:
    if before is None:
        before = Evidence(describe_requester(asked.event, names), 0, asked.first, asked.last, (), ())
    comms = before.comms
    for comm in asked.comms:
        comms = with_name(comms, comm)
    return before._replace(
        times=before.times + asked.times,
        first=min(before.first, asked.first),
        last=max(before.last, asked.last),
        aliases=with_name(before.aliases, asked.event.alias),
        comms=comms,
    )


def as_toml(suggestion: Suggestion) -> str:
    """A drop-in: every rule below its reasons, and what is not proposed as a comment."""
    lines = []
    if suggestion.proposals:
        lines += comment(
            "Suggested by safe-modprobectl from what was asked for. An attacker asks, too: keep the rules whose reasons"
            f" you know, and save them as {FILE}."
        )
        lines += comment(f"Instead of a rule: {MODULES_LOAD}, see modules-load.d(5).")
    else:
        lines += comment("No rule is proposed.")
    if suggestion.settled:
        lines += comment(f"{_times(suggestion.settled).capitalize()} more, what was refused is let through by now.")
    for proposal in suggestion.proposals:
        lines.append("\n")
        lines += [line for each in proposal.evidence for line in comment(_evidence_comment(each))]
        lines += warnings(proposal.rule)
        lines.append(rule_table(proposal.rule))
    if suggestion.refusals:
        lines.append("\n")
        lines += comment("Not proposed:")
    for each in suggestion.refusals:
        lines += comment(f"- {', '.join(map(escape, each.modules))} to {_evidence_comment(each.evidence)}: {each.why}")
    return "".join(lines)


def _evidence_comment(evidence: Evidence) -> str:
    by = f" ({', '.join(map(escape, evidence.comms))})" if evidence.comms else ""
    first, last = evidence.first.strftime(_WHEN), evidence.last.strftime(_WHEN)
    when = f"{_times(evidence.times)}, {first}" if first == last else f"{_times(evidence.times)}, {first} to {last}"
    return f"{evidence.who}{by}, {when}, for {', '.join(map(escape, evidence.aliases))}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
