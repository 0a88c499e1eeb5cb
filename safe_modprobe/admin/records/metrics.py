"""Compute the metrics of a machine for Prometheus. Pure.

A caller must not be able to choose a label's value, so aliases, names and user ids are only in the log.
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
    """A metric family: name (a counter's without `_total`), help text, and (labels, value) samples."""

    name: str
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]
    counter: bool = False


def metrics(facts: Facts, health: Health, counts: Counts, changed: float | None, version: str) -> tuple[Metric, ...]:
    """Return all metrics that have samples. `changed`: latest mtime of the policy files in epoch seconds, or None."""
    return tuple(each for each in _all_metrics(facts, health, counts, changed, version) if each.samples)


def _all_metrics(facts: Facts, health: Health, counts: Counts, changed: float | None, version: str) -> Iterator[Metric]:
    yield from _request_metrics(counts)
    yield from _health_metrics(health)
    yield from _policy_metrics(facts, changed)
    if facts.tracing.there and not facts.tracing.refused:
        about = "Requests that the kernel overwrote in the tracing instance before a helper read them."
        yield _metric("trace_lost_events", about, ({}, facts.tracing.lost), counter=True)
    yield _metric("build_info", "The installed version.", ({"version": version}, 1))


def _request_metrics(counts: Counts) -> Iterator[Metric]:
    yield _metric(
        "requests",
        "Requests since boot, by verdict (none: nothing had to be loaded), source that identified the caller, and "
        "policy file that decided.",
        *(
            ({"verdict": verdict, "source": source, "origin": origin}, number)
            for (verdict, source, origin), number in counts.totals.items()
        ),
        counter=True,
    )
    yield _metric(
        "records_suppressed",
        "Records since boot that were only counted because a user exceeded the rate limit of that kind.",
        *(({"kind": kind}, counts.suppressed.get(kind, 0)) for kind in KINDS),
        counter=True,
    )
    if counts.refused_at:
        yield _metric("last_refusal_timestamp_seconds", "Time of the last refusal.", ({}, counts.refused_at))


def _health_metrics(health: Health) -> Iterator[Metric]:
    yield _metric(
        "enabled", "Whether safe-modprobe is the kernel's module helper.", ({}, health.state is not State.OFF)
    )
    yield _metric(
        "trial", "Whether safe-modprobe is on and a trial keeps it from refusing.", ({}, health.state is State.TRIAL)
    )
    yield _metric(
        "protecting", "Whether safe-modprobe is on and has no problem of severity moot.", ({}, health.protects)
    )
    yield _metric(
        "problems",
        "Number of problems that 'safe-modprobectl status' shows.",
        *(
            ({"severity": str(severity)}, sum(each.severity is severity for each in health.problems))
            for severity in Severity
        ),
    )
    yield _metric(
        "source_ready",
        "Whether this source can identify callers.",
        *(({"source": str(each.source)}, each.use is not Use.UNUSED) for each in health.sources),
    )
    yield _metric(
        "source_in_use",
        "Whether this source is used now, instead of standing by.",
        *(({"source": str(each.source)}, each.use is Use.IN_USE) for each in health.sources),
    )


def _policy_metrics(facts: Facts, changed: float | None) -> Iterator[Metric]:
    policy = facts.policy
    about = "Whether the policy files are in force instead of the built-in policy."
    yield _metric("policy_valid", about, ({}, not facts.policy_error))
    yield _metric("policy_files", "Number of files of the policy in force.", ({}, len(policy.files)))
    rows = {"rule": policy.rules, "mark": policy.marks, "call_site": policy.call_sites}
    about = "Number of rows of the policy in force."
    yield _metric("policy_rows", about, *(({"kind": kind}, len(each)) for kind, each in rows.items()))
    labels = {"mode": str(policy.settings.mode), "mismatch": str(policy.settings.mismatch), "digest": facts.digest}
    yield _metric("policy_info", "The settings, and the SHA-256 of the policy files as in 'status'.", (labels, 1))
    if changed is not None:
        yield _metric("policy_change_timestamp_seconds", "Time of the last change of a policy file.", ({}, changed))


def _metric(name: str, about: str, *samples: tuple[Mapping[str, str], float], counter: bool = False) -> Metric:
    return Metric(PREFIX + name, about, tuple((labels, float(value)) for labels, value in samples), counter)
