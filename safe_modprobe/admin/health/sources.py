"""Which sources of the caller are in use, and why not the better ones."""

from enum import StrEnum

from safe_modprobe.admin.health.facts import INSPECTION_CAPABILITIES, Facts
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Source

MODHARDEN = "GRKERNSEC_MODHARDEN"
CALLER_ARGS = "MODPROBE_CALLER_ARGS"
"""The build options of the kernels that say in an argument who calls: grsecurity's, and packaging/kernel's."""


class Use(StrEnum):
    """What a source is good for now: it answers, it answers when a better one cannot, or it never does."""

    IN_USE = "in use"
    STANDS_BY = "stands by"
    UNUSED = "unused"


class SourceUse(NamedTuple):
    """A source, its use, and for an unused one why."""

    source: Source
    use: Use
    why: str = ""


def sources(facts: Facts) -> tuple[SourceUse, ...]:
    """All of them: in the policy's order, and then those that it leaves out."""
    settings = facts.policy.settings
    left_out = [each for each in Source if each not in (*settings.sources, Source.NONE)]
    found = []
    answered = False
    for source in settings.sources:
        why = _why_not(facts, source)
        use = Use.UNUSED if why else Use.STANDS_BY if answered else Use.IN_USE
        # A kernel's argument may be missing for a caller whom the next source then knows.
        answered |= not why and (source is not Source.KERNEL_ARGS or settings.kernel_args_always or facts.promised)
        found.append(SourceUse(source, use, why))
    where = settings.origin("sources")
    return (*found, *(SourceUse(each, Use.UNUSED, f"the policy leaves it out [{where}]") for each in left_out))


def passes_kernel_args(facts: Facts) -> bool | None:
    """Whether the kernel is one that passes arguments after the alias; None where nobody can say."""
    if facts.promised:
        return True
    return None if facts.options is None else facts.options.get(MODHARDEN) == "y"


def why_no_trace(facts: Facts) -> str:
    """Why tracefs cannot say who asks, as a part of a sentence; "" where it can."""
    tracing = facts.tracing
    if facts.lockdown == "confidentiality":
        return "lockdown=confidentiality closes tracefs"
    if not tracing.tracefs:
        return "tracefs is not mounted, or this kernel has none"
    if not tracing.there:
        return "its tracing instance is not there"
    if tracing.refused:
        return f"its tracing instance cannot be read ({tracing.refused})"
    if not tracing.recording:
        return "its tracing instance is stopped (tracing_on is 0)"
    if not tracing.event:
        return "the event module:module_request is off in its tracing instance"
    return ""


def _why_not(facts: Facts, source: Source) -> str:
    if source is Source.KERNEL_ARGS:
        if facts.policy.settings.kernel_args_always:
            return ""
        passes = passes_kernel_args(facts)
        if passes is None:
            return "nobody can say whether this kernel passes any: its build options are not to be found"
        return "" if passes else "this kernel passes none"
    if source is Source.BPF:
        return "no program that records callers is attached; this version has none"
    if not facts.stacks:
        return "/proc/TID/stack, which both tracefs and proc need, cannot be read here"
    if facts.lacking(*INSPECTION_CAPABILITIES):
        return "kernel.usermodehelper.bset leaves helpers without the capabilities to look"
    return why_no_trace(facts) if source is Source.TRACEFS else ""
