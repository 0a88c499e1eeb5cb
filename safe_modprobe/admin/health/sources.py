"""Which sources identify callers on this machine, and why the others do not. Pure."""

from enum import StrEnum

from safe_modprobe.admin.health.facts import INSPECTION_CAPABILITIES, Facts
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Source

MODHARDEN = "GRKERNSEC_MODHARDEN"
CALLER_ARGS = "MODPROBE_CALLER_ARGS"
"""Build options of kernels that pass the caller in arguments: grsecurity's, and that of packaging/kernel."""


class Use(StrEnum):
    """Whether a source answers, answers only if an earlier one cannot, or cannot answer at all."""

    IN_USE = "in use"
    STANDS_BY = "stands by"
    UNUSED = "unused"


class SourceUse(NamedTuple):
    """A source and its use. `why` is the reason for an unused one, "" otherwise."""

    source: Source
    use: Use
    why: str = ""


def sources(facts: Facts) -> tuple[SourceUse, ...]:
    """Return all sources: those of the policy in its order, then those that it omits."""
    settings = facts.policy.settings
    omitted = [each for each in Source if each not in (*settings.sources, Source.NONE)]
    found = []
    answered = False
    for source in settings.sources:
        why = _why_not(facts, source)
        use = Use.UNUSED if why else Use.STANDS_BY if answered else Use.IN_USE
        # Without a promise, the kernel may pass no argument for a caller. The next source then answers.
        answered |= not why and (
            source is not Source.KERNEL_ARGS or settings.kernel_args_always or facts.names_unprivileged
        )
        found.append(SourceUse(source, use, why))
    where = settings.origin("sources")
    return (*found, *(SourceUse(each, Use.UNUSED, f"the setting sources omits it [{where}]") for each in omitted))


def passes_kernel_args(facts: Facts) -> bool | None:
    """Return whether this kernel passes arguments after the alias, or None if unknown."""
    if facts.names_unprivileged:
        return True
    return None if facts.options is None else facts.options.get(MODHARDEN) == "y"


def why_no_trace(facts: Facts) -> str:
    """Return why tracefs cannot identify callers, as a clause, or "" if it can."""
    tracing = facts.tracing
    if facts.lockdown == "confidentiality":
        return "lockdown=confidentiality blocks tracefs"
    if not tracing.tracefs:
        return "tracefs is not mounted, or this kernel lacks it"
    if not tracing.there:
        return "the tracing instance does not exist"
    if tracing.refused:
        return f"the tracing instance cannot be read ({tracing.refused})"
    if not tracing.recording:
        return "the tracing instance is stopped (tracing_on is 0)"
    if not tracing.event:
        return "the event module:module_request is off in the tracing instance"
    return ""


def _why_not(facts: Facts, source: Source) -> str:
    if source is Source.KERNEL_ARGS:
        if facts.policy.settings.kernel_args_always:
            return ""
        passes = passes_kernel_args(facts)
        if passes is None:
            return "this kernel may pass none; its build options cannot be found"
        return "" if passes else "this kernel passes none"
    if source is Source.BPF:
        return "this version has no BPF program that records callers"
    if not facts.stacks:
        return "/proc/TID/stack cannot be read here, and both tracefs and proc need it"
    if facts.lacking(*INSPECTION_CAPABILITIES):
        return "kernel.usermodehelper.bset lacks the capabilities that helpers need to inspect callers"
    return why_no_trace(facts) if source is Source.TRACEFS else ""
