"""What a monitoring system wants to know of a machine: numbers, each with its name for Prometheus. Pure.

No label has a value that a caller can choose: aliases, names and user ids are the log's.
"""

from collections.abc import Iterator, Mapping

from safe_modprobe.admin.health.assess import Health, State
from safe_modprobe.admin.health.facts import Facts
from safe_modprobe.admin.health.problem import Severity
from safe_modprobe.admin.health.sources import Use
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.log.counts import KINDS, Counts

PREFIX = "safe_modprobe_"


class Metric(NamedTuple):
    """A family of numbers: its name, without `_total` for a counter, its help, and a value for each set of labels."""

    name: str
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]
    counter: bool = False


def metrics(facts: Facts, health: Health, counts: Counts, changed: float | None, version: str) -> tuple[Metric, ...]:
    """All of them; `changed` is when the policy's files did, in seconds of the epoch, None where there are none."""
    return tuple(each for each in _every(facts, health, counts, changed, version) if each.samples)


def _every(facts: Facts, health: Health, counts: Counts, changed: float | None, version: str) -> Iterator[Metric]:
    yield from _of_requests(counts)
    yield from _of_health(health)
    yield from _of_policy(facts, changed)
    if facts.tracing.there and not facts.tracing.refused:
        about = "Requests that the kernel overwrote in the tracing instance before a helper had read them."
        yield _metric("trace_lost_events", about, ({}, facts.tracing.lost), counter=True)
    yield _metric("build_info", "The version that is installed.", ({"version": version}, 1))


def _of_requests(counts: Counts) -> Iterator[Metric]:
    yield _metric(
        "requests",
        "Requests since boot, by the verdict (none: nothing had to be loaded), the source that said who asked, and the "
        "policy file that decided.",
        *(
            ({"verdict": verdict, "source": source, "origin": origin}, number)
            for (verdict, source, origin), number in counts.totals.items()
        ),
        counter=True,
    )
    yield _metric(
        "records_suppressed",
        "Records since boot that were only counted, since one user had too many of a kind in a minute.",
        *(({"kind": kind}, counts.suppressed.get(kind, 0)) for kind in KINDS),
        counter=True,
    )
    if counts.refused_at:
        yield _metric("last_refusal_timestamp_seconds", "When a request was refused last.", ({}, counts.refused_at))


def _of_health(health: Health) -> Iterator[Metric]:
    yield _metric("enabled", "Whether it is the kernel's module helper.", ({}, health.state is not State.OFF))
    yield _metric("trial", "Whether it is on, and refuses nothing.", ({}, health.state is State.TRIAL))
    yield _metric("protecting", "Whether it is on, and nothing makes it moot.", ({}, health.protects))
    yield _metric(
        "problems",
        "Problems that 'safe-modprobectl status' shows.",
        *(
            ({"severity": str(severity)}, sum(each.severity is severity for each in health.problems))
            for severity in Severity
        ),
    )
    yield _metric(
        "source_ready",
        "Whether this source can say who asks.",
        *(({"source": str(each.source)}, each.use is not Use.UNUSED) for each in health.sources),
    )
    yield _metric(
        "source_in_use",
        "Whether this source is the one that is asked, not one that stands by.",
        *(({"source": str(each.source)}, each.use is Use.IN_USE) for each in health.sources),
    )


def _of_policy(facts: Facts, changed: float | None) -> Iterator[Metric]:
    policy = facts.policy
    about = "Whether the policy's files are in force, not the built-in one."
    yield _metric("policy_valid", about, ({}, not facts.policy_error))
    yield _metric("policy_files", "Files of the policy that is in force.", ({}, len(policy.files)))
    rows = {"rule": policy.rules, "mark": policy.marks, "call_site": policy.call_sites}
    about = "Rows of the policy that is in force."
    yield _metric("policy_rows", about, *(({"kind": kind}, len(each)) for kind, each in rows.items()))
    labels = {"mode": str(policy.settings.mode), "mismatch": str(policy.settings.mismatch), "digest": facts.digest}
    yield _metric("policy_info", "The settings, and the SHA-256 of the files as 'status' has it.", (labels, 1))
    if changed is not None:
        yield _metric("policy_change_timestamp_seconds", "When a file of the policy changed last.", ({}, changed))


def _metric(name: str, about: str, *samples: tuple[Mapping[str, str], float], counter: bool = False) -> Metric:
    return Metric(PREFIX + name, about, tuple((labels, float(value)) for labels, value in samples), counter)
