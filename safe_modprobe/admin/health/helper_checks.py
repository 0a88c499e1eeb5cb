"""What can go wrong between the kernel's request and a module: the helper is not asked, cannot run, cannot load."""

from collections.abc import Iterator

from safe_modprobe.admin.health.facts import INSPECTION_CAPABILITIES, Facts, Lkrg, Program
from safe_modprobe.admin.health.problem import Problem, moot, note, weaker
from safe_modprobe.capability import NAMES, SYS_MODULE, Capability

_LKRG_KNOWS = ("/sbin/modprobe", "/usr/sbin/modprobe")
_LABELS = ("kmod_exec_t", "insmod_exec_t")
"""The types of modprobe's own file, in newer and in older policies."""


def check_helper(facts: Facts) -> Iterator[Problem]:
    """All of it."""
    yield from _who_is_asked(facts)
    yield from _whether_it_runs(facts)
    yield from _whether_it_can_load(facts)


def _who_is_asked(facts: Facts) -> Iterator[Problem]:
    """kernel.modprobe, what may stand in its place, and what would change it."""
    if facts.current is None:
        yield moot(
            "no-modules",
            "this kernel was built without loadable modules, so it asks nobody for any",
            "boot a kernel with modules, or remove safe-modprobe",
        )
    elif not facts.current:
        yield moot(
            "no-helper",
            "kernel.modprobe is empty, so the kernel asks nobody, and every request fails, root's too",
            "'safe-modprobectl enable --runtime' switches safe-modprobe on",
        )
    elif facts.stood_down:
        yield moot(
            "stood-down",
            f"{facts.own} did not run any more, so the watch has put {facts.current} in its place until it does",
            "install the package anew",
        )
    elif not facts.ours:
        yield moot(
            "other-helper",
            f"kernel.modprobe is {facts.current}, so the kernel asks that program and not safe-modprobe",
            "'safe-modprobectl enable --runtime' switches it on; if it was on, look for who changed it",
        )
    if facts.rescue == "off":
        yield moot(
            "rescue-off",
            "the kernel's command line says safe_modprobe=off, by which the helper leaves every request to modprobe",
            "boot without it",
        )
    options = facts.options or {}
    if options.get("STATIC_USERMODEHELPER") == "y":
        path = options.get("STATIC_USERMODEHELPER_PATH", "").strip('"')
        yield moot(
            "static-usermodehelper",
            f"this kernel runs {path or 'no program at all'} whatever kernel.modprobe is"
            " (CONFIG_STATIC_USERMODEHELPER)",
            f"let {path} run {facts.own} where its first argument is that" if path else "boot a kernel without it",
        )
    if facts.sysctl is not None and facts.sysctl.value != facts.own:
        yield weaker(
            "sysctl-file",
            f"{facts.sysctl.origin} sets kernel.modprobe to {facts.sysctl.value or 'nothing'}"
            # The unit has the last word at boot.
            f"{'' if facts.at_boot else ' at the next boot, and'} whenever 'sysctl --system' is run",
            "remove that line",
        )


def _whether_it_runs(facts: Facts) -> Iterator[Problem]:
    """The helper's file, its interpreter and its code; what else may forbid the kernel to run it."""
    fails = f"every request {'fails' if facts.ours else 'would fail'}, root's too"
    for program in facts.programs:
        yield from _of_program(program, fails)
    if facts.dry_run:
        yield moot(
            "helper-fails",
            f"a dry run of {facts.own} failed ({facts.dry_run}), so that at best root's requests are left to modprobe"
            " and all others refused",
            f"run '{facts.own} -n -- anything' to see why, and install the package anew",
        )
    if facts.lkrg is not None:
        yield from _of_lkrg(facts.own, facts.lkrg, fails)
    if (facts.options or {}).get("GRKERNSEC") == "y" and facts.own.startswith("/usr/sbin/"):
        yield note(
            "grsecurity-paths",
            f"some grsecurity kernels run no helper in /usr/sbin, where {facts.own} is",
            "look for 'denied exec of usermode helper' in the kernel's log; then a link in /sbin to it is what to set",
        )
    if facts.selinux.enforcing:
        yield from _of_label(facts.own, facts.selinux.label)


def _of_program(program: Program, fails: str) -> Iterator[Problem]:
    path = program.path
    again = "install the package anew"
    if not program.there:
        yield moot("helper-missing", f"{path} is not there, so {fails}", again)
        return
    if not program.executable:
        yield moot(
            "helper-not-executable",
            f"{path} is not executable, so {fails}",
            f"chmod 755 {path}",
        )
    if program.noexec:
        yield moot(
            "helper-noexec",
            f"{path} is on a file system that is mounted noexec, so {fails}",
            "mount it without noexec, or install safe-modprobe elsewhere",
        )
    for other, why in program.others:
        yield moot(
            "helper-writable",
            f"{other}: {why}, so that somebody else than root can become root by the next request",
            f"chown root {other}; chmod go-w {other}; and see whether {path} is still the package's",
        )


def _of_lkrg(own: str, lkrg: Lkrg, fails: str) -> Iterator[Problem]:
    knows = lkrg.umh_validate == 1 and own in _LKRG_KNOWS
    if lkrg.umh_validate and not knows:
        every = "every helper" if lkrg.umh_validate > 1 else f"{own}, which is not in its list of helpers"
        mend = "sysctl lkrg.umh_validate=0, in sysctl.d too; the kernel's own list cannot be extended"
        if lkrg.umh_enforce == 1:
            yield moot("lkrg", f"LKRG kills {every}, so {fails}", mend)
        elif lkrg.umh_enforce > 1:
            yield moot("lkrg", f"LKRG stops the machine for {every}", mend)
        else:
            yield note("lkrg", f"LKRG fills the kernel's log for {every}", mend)
    if lkrg.block_modules:
        yield moot(
            "lkrg-block-modules",
            "LKRG lets no module in, for anybody (lkrg.block_modules is 1)",
            "sysctl lkrg.block_modules=0, if modules are to be loaded at all",
        )


def _of_label(path: str, label: str | None) -> Iterator[Problem]:
    mend = f"semanage fcontext -a -t {_LABELS[0]} {path}; restorecon -v {path}"
    kind = (label or "").split(":")[2:3]
    if not kind or kind[0] == "unlabeled_t":
        yield moot(
            "selinux-label",
            f"SELinux enforces and {path} has no label, so the kernel may not run it",
            mend,
        )
    elif kind[0] not in _LABELS:
        yield weaker(
            "selinux-label",
            f"SELinux enforces and {path} is labelled {kind[0]}, not {_LABELS[0]} as modprobe is, so the kernel's own"
            " domain has to do for it",
            mend,
        )


def _whether_it_can_load(facts: Facts) -> Iterator[Problem]:
    """The switches that keep every module out, and the powers that the kernel leaves its helpers."""
    if facts.modules_disabled:
        yield moot(
            "modules-disabled",
            "kernel.modules_disabled is 1, so nothing is loaded for anybody until the next boot",
            "nothing, if it is meant; otherwise look in sysctl.d for who sets it, and boot again",
        )
    if not facts.modules_folder and facts.current is not None:
        yield moot(
            "no-modules-folder",
            f"the modules of the running kernel, {facts.kernel}, are not there, so nothing can be loaded",
            "boot the kernel that was installed since, or install this one's modules again",
        )
    if lacking := facts.lacking(SYS_MODULE, *INSPECTION_CAPABILITIES):
        yield _of_bset(lacking)


def _of_bset(lacking: list[Capability]) -> Problem:
    names = " and ".join(NAMES[each] for each in lacking)
    mend = "boot again, for it cannot grow; and look in sysctl.d for who shrinks it"
    if SYS_MODULE in lacking:
        what = f"kernel.usermodehelper.bset leaves helpers without {names}, so nothing is loaded for anybody"
        return moot("bset", what, mend)
    what = f"kernel.usermodehelper.bset leaves helpers without {names}, so they cannot see who asks"
    return weaker("bset", what, mend)
