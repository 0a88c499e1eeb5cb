"""Checks of the first question, who called: what keeps a source from identifying the caller. Pure."""

from collections.abc import Iterator

from safe_modprobe.admin.health.facts import INSPECTION_CAPABILITIES, Facts
from safe_modprobe.admin.health.problem import Problem, moot, note, weaker
from safe_modprobe.admin.health.sources import CALLER_ARGS, MODHARDEN, Use, passes_kernel_args, sources, why_no_trace
from safe_modprobe.admin.policy.sentence import join_names
from safe_modprobe.model import Action, Mode, Source
from safe_modprobe.policy.match import keys_beyond_kernel_args

AUTOLOAD_DUPS = "MODULE_DEBUG_AUTOLOAD_DUPS"
_INSTANCE = "instances/safe-modprobe"


def check_callers(facts: Facts) -> Iterator[Problem]:
    """Yield problems that make callers unknown, or that make the policy trust them too much."""
    settings = facts.policy.settings
    named_by_kernel = (
        settings.kernel_args_always or facts.names_unprivileged
    ) and Source.KERNEL_ARGS in settings.sources
    # Without `always` or the kernel's promise, kernel arguments identify only unprivileged callers.
    inspects = any(each.use is Use.IN_USE and each.source is not Source.KERNEL_ARGS for each in sources(facts))
    # helper_checks reports missing capabilities. Without them, no other problem of these sources matters.
    if not facts.lacking(*INSPECTION_CAPABILITIES):
        if not named_by_kernel:
            yield from _check_tracing(facts) if inspects else (_no_source(facts),)
        elif all(each.why for each in sources(facts) if each.source is not Source.KERNEL_ARGS):
            yield from _check_kernel_args_alone(facts)
    if settings.unknown_caller_privileged and settings.mode is not Mode.DISABLED:
        yield moot(
            "unknown-caller",
            'unknown_caller is "privileged" and a user becomes an unknown caller by killing their own request, so any'
            f" user can load any module [{settings.origin('unknown_caller')}]",
            'set unknown_caller to "unprivileged"',
        )
    if settings.kernel_args_always:
        yield from _check_kernel_args_always(facts)
    yield from _check_shared_refusals(facts)


def _no_source(facts: Facts) -> Problem:
    counts_as = "privileged" if facts.policy.settings.unknown_caller_privileged else "unprivileged, even root"
    why, mend = _why_no_inspection(facts)
    return weaker("no-source", f"no source can identify callers ({why}), so every caller counts as {counts_as}", mend)


def _why_no_inspection(facts: Facts) -> tuple[str, str]:
    """Return why neither tracefs nor proc can identify callers, as a clause, and what to do about it."""
    if not facts.stacks:
        return "/proc/TID/stack cannot be read", "boot a kernel with CONFIG_STACKTRACE and CONFIG_KALLSYMS"
    no_trace = f"{why_no_trace(facts)}, and " if Source.TRACEFS in facts.policy.settings.sources else ""
    origin = facts.policy.settings.origin("sources")
    return (
        f"{no_trace}the setting sources omits a source that works here [{origin}]",
        'add "tracefs" and "proc" to sources',
    )


def _check_kernel_args_alone(facts: Facts) -> Iterator[Problem]:
    """Yield what a machine loses where kernel arguments are the only source that answers."""
    why, mend = _why_no_inspection(facts)
    yield weaker(
        "words-alone",
        f"only kernel arguments identify callers ({why}), so root may be refused marked modules while a load for a user"
        " takes over 0.5 s, and for 60 s after it if no task waits for the request; any user can cause this",
        mend,
    )
    rules = [each for each in facts.policy.rules if keys_beyond_kernel_args(each)]
    if rules:
        deny = any(each.action is Action.DENY for each in rules)
        grant = any(each.action is not Action.DENY for each in rules)
        then = ["deny rules match in doubt (even root)"] * deny + ["allow and log rules match nobody"] * grant
        yield weaker(
            "words-short",
            f"rules use keys that kernel arguments cannot answer ({why}), so {' and '.join(then)}"
            f" [{join_names([str(each.origin) for each in rules])}]",
            mend,
        )


def _check_tracing(facts: Facts) -> Iterator[Problem]:
    tracing, settings = facts.tracing, facts.policy.settings
    proc_alone = "so only /proc identifies callers, and root may be refused while users make requests"
    if Source.TRACEFS not in settings.sources:
        what = f"the setting sources omits tracefs, {proc_alone} [{settings.origin('sources')}]"
        yield weaker("tracefs", what, 'add "tracefs" to sources, before "proc"')
        return
    if why := why_no_trace(facts):
        create = "run 'safe-modprobectl enable --runtime' to create it again"
        boot = "boot with lockdown=integrity, which allows tracefs, if that is strict enough"
        mount = "mount tracefs on /sys/kernel/tracing, or boot a kernel with CONFIG_FTRACE"
        mend = boot if facts.lockdown == "confidentiality" else create if tracing.tracefs else mount
        yield weaker("tracefs", f"{why}, {proc_alone}", mend)
        return
    if not tracing.clock:
        yield weaker(
            "trace-clock",
            "the tracing instance does not use the clock boot, so helpers cannot compare an event with a task's start",
            "run 'safe-modprobectl enable --runtime' to set the clock",
        )
    size = f"/sys/kernel/tracing/{_INSTANCE}/buffer_size_kb"
    mend = f"find out which user floods it, or enlarge it with 'echo 1024 >{size}'"
    if tracing.doubt:
        what = f"the trace ring lost requests ({tracing.lost} so far) within the last minute, {proc_alone}"
        yield weaker("trace-loss", what, mend)
    elif tracing.lost:
        yield note("trace-loss", f"the trace ring has lost requests ({tracing.lost}) since it was created", mend)


def _check_kernel_args_always(facts: Facts) -> Iterator[Problem]:
    where = facts.policy.settings.origin("kernel_args")
    if Source.KERNEL_ARGS not in facts.policy.settings.sources:
        yield note(
            "kernel-args",
            f'kernel_args is "always", but the setting sources omits kernel-args, so it has no effect [{where}]',
            'remove kernel_args, or add "kernel-args" to sources',
        )
    elif not passes_kernel_args(facts):
        how = "passes none" if facts.options is not None else "may pass none (its build options cannot be found)"
        problem = moot if facts.options is not None else weaker
        yield problem(
            "kernel-args",
            f'kernel_args is "always", but this kernel {how}, so every caller counts as root [{where}]',
            f'set it to "optional"; only a kernel with CONFIG_{MODHARDEN} or CONFIG_{CALLER_ARGS} passes arguments',
        )


def _check_shared_refusals(facts: Facts) -> Iterator[Problem]:
    if (facts.options or {}).get(AUTOLOAD_DUPS) == "y":
        yield weaker(
            "shared-refusals",
            "this kernel gives the same answer to all requests for a name within 60 s, so a refusal to a user is also"
            f" one to root (CONFIG_{AUTOLOAD_DUPS})",
            "boot a kernel without this debugging option; until then, load modules as root with modprobe",
        )
    if facts.options is None:
        yield note(
            "no-build-options",
            "this kernel's build options cannot be found in /proc/config.gz or /boot/config-VERSION, so checks that"
            " depend on them were skipped",
            "install the kernel package's config file",
        )
