"""Compute a small set of rules that would allow the recorded refusals, with evidence for each. Pure."""

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
    """Recorded requests of one caller: the reason for a proposed rule, or for none."""

    requester: str
    times: int
    first: datetime
    last: datetime
    aliases: tuple[str, ...]
    comms: tuple[str, ...]


class Proposal(NamedTuple):
    """A rule, and the recorded requests that it would allow."""

    rule: Rule
    evidence: tuple[Evidence, ...]


class Refusal(NamedTuple):
    """Modules for which no rule is proposed, and why."""

    modules: tuple[str, ...]
    why: str
    evidence: Evidence


class Suggestion(NamedTuple):
    """The result. `settled` counts the recorded refusals that the current policy allows."""

    proposals: tuple[Proposal, ...]
    refusals: tuple[Refusal, ...]
    settled: int


def suggest(events: Iterable[Event], policy: Policy, names: Mapping[int, str] = {}) -> Suggestion:
    """Propose rules for the events, oldest first, that the policy outside a trial would still refuse.

    There is no rule for unknown callers, or where no new rule can help. `names` maps uids to user names.
    """
    strict = policy._replace(settings=policy.settings._replace(trial=False, mismatch=Action.DENY))
    wanted: list[tuple[RuleSubject, _MergedRefusal]] = []
    refusals: dict[tuple[object, ...], Refusal] = {}
    settled = 0
    for merged in _merge_refusals(events):
        event = merged.event
        now = decide(strict, request_of(event), caller_of(event), plan_of(event))
        if now.action is not Action.DENY:
            settled += merged.times
            continue
        subject = subject_of(caller_of(event))
        if why := _why_no_rule(event, now, subject):
            key = (why, describe_requester(event, names), event.refused)
            before = refusals.get(key)
            refusals[key] = Refusal(event.refused, why, _evidence(before and before.evidence, merged, names))
        else:
            wanted.append((subject, merged))
    proposals = tuple(_proposal(block, wanted, names) for block in _smallest(wanted))
    return Suggestion(proposals, tuple(refusals.values()), settled)


class _MergedRefusal(NamedTuple):
    """Refusals that differ only in time, task and program name."""

    event: Event
    times: int
    first: datetime
    last: datetime
    comms: tuple[str, ...]


def _merge_refusals(events: Iterable[Event]) -> list[_MergedRefusal]:
    """Merge equal refusals, so that a request repeated every second for a week is decided only once."""
    found: dict[Event, _MergedRefusal] = {}
    for event in events:
        if event.verdict in REFUSED and event.refused:
            same = event._replace(cursor="", time=datetime.min, tid=None, comm=None, message="")
            before = found.get(same, _MergedRefusal(event, 0, event.time, event.time, ()))
            times, comms = before.times + 1, with_name(before.comms, event.comm)
            found[same] = before._replace(times=times, last=event.time, comms=comms)
    return list(found.values())


def _why_no_rule(event: Event, now: Verdict, subject: RuleSubject) -> str:
    """Return why no rule is proposed, or "" if one is."""
    if bar := event.barred or barred(now):
        place = event.origin if event.barred else str(now.origin)
        return f"a new rule cannot override this refusal; change {escape(bar)} [{escape(place)}]"
    if not all(map(str.isprintable, event.refused)):
        return "a policy cannot contain this name"
    if not subject.known:
        return f"any caller can become unknown, so a rule would cover all users; instead, {MODULES_LOAD}"
    if subject.unit is None and any(uid in DYNAMIC for uid in subject.users):
        return "the unit is unknown, and the uid is one of DynamicUser=, which systemd may give to another service"
    return ""


class _Block(NamedTuple):
    """Each of these users, in this unit and namespace, requested each of these modules."""

    unit: str | None
    namespace: str | None
    users: frozenset[int]
    modules: frozenset[str]

    def holds(self, unit: str | None, namespace: str | None, users: frozenset[int]) -> bool:
        """Return whether the block's rule covers them. A block without a unit covers its users in any unit."""
        unit_matches = self.unit == unit or (self.unit is None and bool(self.users))
        return (
            unit_matches
            and self.namespace in (None, namespace)
            and users <= self.users
            and bool(users) is bool(self.users)
        )

    def covers(self, other: "_Block") -> bool:
        """Return whether the other block's rule would add nothing."""
        return self != other and self.holds(other.unit, other.namespace, other.users)


def _smallest(wanted: Sequence[tuple[RuleSubject, _MergedRefusal]]) -> list[_Block]:
    """Return the fewest blocks that four ways of joining give. No block allows a user a module that was not recorded.

    The true minimum is a biclique cover, an unbounded search, and its rules would be harder to read.
    """
    single = dict.fromkeys(
        _Block(subject.unit, subject.namespace, subject.users, frozenset({module}))
        for subject, merged in wanted
        for module in merged.event.refused
    )
    ways = []
    for blocks in (_join_namespaces(single), list(single)):
        cells = _without_covered(blocks)
        ways += [_join_users(_join_modules(cells)), _join_modules(_join_users(cells))]
    return min(ways, key=len)


def _join_namespaces(blocks: Iterable[_Block]) -> list[_Block]:
    """Replace two blocks that differ only in the namespace by one for both."""
    joined: dict[_Block, _Block] = {}
    for block in blocks:
        both = block._replace(namespace=None)
        joined[both] = block if both not in joined else both
    return list(joined.values())


def _without_covered(blocks: Sequence[_Block]) -> list[_Block]:
    """Drop blocks that another one covers. Each block has one module, so compare only blocks of the same one."""
    by_module: dict[frozenset[str], list[_Block]] = {}
    for block in blocks:
        by_module.setdefault(block.modules, []).append(block)
    return [block for block in blocks if not any(other.covers(block) for other in by_module[block.modules])]


def _join_modules(blocks: Iterable[_Block]) -> list[_Block]:
    return _join(blocks, lambda block: block._replace(modules=frozenset()))


def _join_users(blocks: Iterable[_Block]) -> list[_Block]:
    """Join users, but not those of a set-user-ID program: with a third uid, they would form other pairs too."""
    return _join(blocks, lambda block: block._replace(users=frozenset()) if len(block.users) == 1 else block)


def _join(blocks: Iterable[_Block], alike: Callable[[_Block], _Block]) -> list[_Block]:
    joined: dict[tuple[_Block, int], _Block] = {}
    for block in blocks:
        key = (alike(block), min(len(block.users), 2))  # never join a block without users to one with users
        before = joined.get(key, block)
        joined[key] = block._replace(users=before.users | block.users, modules=before.modules | block.modules)
    return list(joined.values())


def _proposal(
    block: _Block, wanted: Iterable[tuple[RuleSubject, _MergedRefusal]], names: Mapping[int, str]
) -> Proposal:
    found: dict[tuple[object, ...], Evidence] = {}
    for subject, merged in wanted:
        covered = block.holds(subject.unit, subject.namespace, subject.users)
        if covered and not block.modules.isdisjoint(merged.event.refused):
            key = (merged.event.uid, merged.event.euid, subject.unit, subject.namespace)
            found[key] = _evidence(found.get(key), merged, names)
    evidence = tuple(found.values())
    last = max(each.last for each in evidence)
    times = sum(each.times for each in evidence)
    reason = f"suggested: requested {_times(times)}, last on {last:%Y-%m-%d}"
    return Proposal(rule_for(RuleSubject(block.unit, block.users, block.namespace), block.modules, reason), evidence)


def _evidence(before: Evidence | None, merged: _MergedRefusal, names: Mapping[int, str]) -> Evidence:
    if before is None:
        before = Evidence(describe_requester(merged.event, names), 0, merged.first, merged.last, (), ())
    comms = before.comms
    for comm in merged.comms:
        comms = with_name(comms, comm)
    return before._replace(
        times=before.times + merged.times,
        first=min(before.first, merged.first),
        last=max(before.last, merged.last),
        aliases=with_name(before.aliases, merged.event.alias),
        comms=comms,
    )


def as_toml(suggestion: Suggestion) -> str:
    """Return a drop-in: each rule below its evidence, then comments about what is not proposed."""
    lines = []
    if suggestion.proposals:
        lines += comment(
            "Suggested by safe-modprobectl from recorded refusals. Some may come from an attacker, so keep only rules"
            f" for requests that you recognize, and save them as {FILE}."
        )
        lines += comment(f"Instead of adding a rule, you can {MODULES_LOAD} (modules-load.d(5)).")
    else:
        lines += comment("No rule is proposed.")
    if suggestion.settled:
        lines += comment(f"The current policy already allows {suggestion.settled} of the recorded refusals.")
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
    return f"{evidence.requester}{by}, {when}, for {', '.join(map(escape, evidence.aliases))}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
