"""What can go wrong with the first question: who wants the module."""

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
    """What keeps a source from answering, or makes the policy believe too much."""
    settings = facts.policy.settings
    by_kernel = (settings.kernel_args_always or facts.promised) and Source.KERNEL_ARGS in settings.sources
    # Without `always` or the kernel's promise, its argument tells of users alone.
    tells = any(each.use is Use.IN_USE and each.source is not Source.KERNEL_ARGS for each in sources(facts))
    # Without the capabilities to look, nothing else about the sources matters; whether_it_can_load() says that.
    if not facts.lacking(*INSPECTION_CAPABILITIES):
        if not by_kernel:
            yield from _of_trace(facts) if tells else (_nobody_tells(facts),)
        elif all(each.why for each in sources(facts) if each.source is not Source.KERNEL_ARGS):
            yield from _of_words_alone(facts)
    if settings.unknown_caller_privileged and settings.mode is not Mode.DISABLED:
        yield moot(
            "unknown-caller",
            'unknown_caller is "privileged" and any user can become unknown (by killing its own request), so any user'
            f" gets any module [{settings.origin('unknown_caller')}]",
            'set it to "unprivileged"',
        )
    if settings.kernel_args_always:
        yield from _of_kernel_args(facts)
    yield from _of_shared_refusals(facts)


def _nobody_tells(facts: Facts) -> Problem:
    whom = "counts as privileged" if facts.policy.settings.unknown_caller_privileged else "is unprivileged, root too"
    why, mend = _why_nobody_looks(facts)
    return weaker("no-source", f"nobody can say who asks, so everybody {whom}: {why}", mend)


def _why_nobody_looks(facts: Facts) -> tuple[str, str]:
    """Why neither tracefs nor proc can say who asks, as a part of a sentence, and what mends it."""
    if not facts.stacks:
        return "/proc/TID/stack cannot be read", "boot a kernel with CONFIG_STACKTRACE and CONFIG_KALLSYMS"
    without = f"{why_no_trace(facts)}, and " if Source.TRACEFS in facts.policy.settings.sources else ""
    origin = facts.policy.settings.origin("sources")
    return f"{without}sources leave out those that could [{origin}]", 'add "tracefs" and "proc" to sources'


def _of_words_alone(facts: Facts) -> Iterator[Problem]:
    """The kernel's words and its silence, and nobody who looks at the task."""
    why, mend = _why_nobody_looks(facts)
    yield weaker(
        "words-alone",
        "the kernel's words alone say who asks, so that root is refused what is marked while a load for a user takes"
        " more than half a second, and for a minute after it what nobody waits for, which any user can bring about:"
        f" {why}",
        mend,
    )
    rules = [each for each in facts.policy.rules if keys_beyond_kernel_args(each)]
    if rules:
        deny = any(each.action is Action.DENY for each in rules)
        others = any(each.action is not Action.DENY for each in rules)
        then = ["what refuses does so in doubt, root as well"] * deny + ["what lets through is for nobody"] * others
        yield weaker(
            "words-short",
            f"rules ask for more than the kernel's words say, so that {' and '.join(then)}: {why}"
            f" [{join_names([str(each.origin) for each in rules])}]",
            mend,
        )


def _of_trace(facts: Facts) -> Iterator[Problem]:
    tracing, settings = facts.tracing, facts.policy.settings
    poorer = "so who asks is learnt by /proc alone, and root may be refused while users ask"
    if Source.TRACEFS not in settings.sources:
        what = f"sources leave tracefs out, {poorer} [{settings.origin('sources')}]"
        yield weaker("tracefs", what, 'add "tracefs" to sources, before "proc"')
        return
    if why := why_no_trace(facts):
        again = "'safe-modprobectl enable --runtime' makes it anew"
        boot = "boot with lockdown=integrity, which leaves tracefs open, if that is enough for you"
        kernel = "mount it on /sys/kernel/tracing, or boot a kernel with CONFIG_FTRACE"
        mend = boot if facts.lockdown == "confidentiality" else again if tracing.tracefs else kernel
        yield weaker("tracefs", f"{why}, {poorer}", mend)
        return
    if not tracing.clock:
        yield weaker(
            "trace-clock",
            "the tracing instance uses another clock than boot, so an event cannot be compared with a task's start",
            "'safe-modprobectl enable --runtime' sets it",
        )
    mend = f"look who floods it; a larger ring: echo 1024 >/sys/kernel/tracing/{_INSTANCE}/buffer_size_kb"
    if tracing.doubt:
        yield weaker("trace-loss", f"the ring lost requests ({tracing.lost}) within the last minute, {poorer}", mend)
    elif tracing.lost:
        yield note("trace-loss", f"the ring has lost requests ({tracing.lost}) since it was made", mend)


def _of_kernel_args(facts: Facts) -> Iterator[Problem]:
    where = facts.policy.settings.origin("kernel_args")
    if Source.KERNEL_ARGS not in facts.policy.settings.sources:
        yield note(
            "kernel-args",
            f'kernel_args is "always", and sources leave kernel-args out, so that it has no effect [{where}]',
            'remove it, or add "kernel-args" to sources',
        )
    elif not passes_kernel_args(facts):
        how = "passes none" if facts.options is not None else "may pass none (its build options are not to be found)"
        problem = moot if facts.options is not None else weaker
        yield problem(
            "kernel-args",
            f'kernel_args is "always" and this kernel {how}, so everybody counts as root [{where}]',
            f'set it to "optional"; only a kernel with CONFIG_{MODHARDEN} or CONFIG_{CALLER_ARGS} passes them',
        )


def _of_shared_refusals(facts: Facts) -> Iterator[Problem]:
    if (facts.options or {}).get(AUTOLOAD_DUPS) == "y":
        yield weaker(
            "shared-refusals",
            "this kernel shares an answer for 60 s with all who ask for the same name, so that what is refused to a"
            f" user is refused to root, too (CONFIG_{AUTOLOAD_DUPS})",
            "boot a kernel without it, which is for debugging; until then root uses modprobe",
        )
    if facts.options is None:
        yield note(
            "no-build-options",
            "this kernel's build options are not to be found (/proc/config.gz, /boot/config-VERSION), so that"
            " what depends on them was not looked at",
            "install the kernel package's config file",
        )
