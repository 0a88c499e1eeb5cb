"""Checks of the helper: the kernel runs it, it works, and it can load modules. Pure."""

from collections.abc import Iterator

from safe_modprobe.admin.health.facts import INSPECTION_CAPABILITIES, Facts, Lkrg, Program
from safe_modprobe.admin.health.problem import Problem, moot, note, weaker
from safe_modprobe.capability import NAMES, SYS_MODULE, Capability

_LKRG_ALLOWED = ("/sbin/modprobe", "/usr/sbin/modprobe")
"""Paths of modprobe in LKRG's built-in list of allowed helpers."""

_LABELS = ("kmod_exec_t", "insmod_exec_t")
"""SELinux types of modprobe's file in newer and in older policies."""

_REINSTALL = "reinstall the package"


def check_helper(facts: Facts) -> Iterator[Problem]:
    """Yield every problem with the helper itself."""
    yield from _check_active_helper(facts)
    yield from _check_helper_runs(facts)
    yield from _check_loading(facts)


def _check_active_helper(facts: Facts) -> Iterator[Problem]:
    """Check kernel.modprobe, what overrides it, and what would change it."""
    if facts.current is None:
        yield moot(
            "no-modules",
            "this kernel was built without loadable modules, so it never runs a module helper",
            "boot a kernel with CONFIG_MODULES, or remove safe-modprobe",
        )
    elif not facts.current:
        yield moot(
            "no-helper",
            "kernel.modprobe is empty, so the kernel runs no module helper and every request fails, even root's",
            "run 'safe-modprobectl enable --runtime' to switch safe-modprobe on",
        )
    elif facts.stood_down:
        yield moot(
            "stood-down",
            f"{facts.own} stopped working, so the watch set kernel.modprobe to {facts.current} until it works again",
            _REINSTALL,
        )
    elif not facts.ours:
        yield moot(
            "other-helper",
            f"kernel.modprobe is {facts.current}, so the kernel runs that program instead of safe-modprobe",
            "run 'safe-modprobectl enable --runtime'; if safe-modprobe was on before, find out what changed it",
        )
    if facts.rescue == "off":
        yield moot(
            "rescue-off",
            "the kernel command line has safe_modprobe=off, so the helper passes every request to modprobe",
            "boot without safe_modprobe=off",
        )
    options = facts.options or {}
    if options.get("STATIC_USERMODEHELPER") == "y":
        path = options.get("STATIC_USERMODEHELPER_PATH", "").strip('"')
        yield moot(
            "static-usermodehelper",
            f"this kernel ignores kernel.modprobe and runs {path or 'no program at all'}"
            " (CONFIG_STATIC_USERMODEHELPER)",
            f"make {path} run {facts.own} when its first argument is {facts.own}"
            if path
            else "boot a kernel without this option",
        )
    if facts.sysctl is not None and facts.sysctl.value != facts.own:
        yield weaker(
            "sysctl-file",
            f"{facts.sysctl.origin} sets kernel.modprobe to {facts.sysctl.value or 'an empty string'}"
            # At boot, the enabled unit sets kernel.modprobe after systemd-sysctl.
            f"{'' if facts.at_boot else ' at the next boot and'} whenever 'sysctl --system' runs",
            "remove that line",
        )


def _check_helper_runs(facts: Facts) -> Iterator[Problem]:
    """Check the helper's file, interpreter and code, and what else may keep the kernel from running it."""
    fails = f"every request {'fails' if facts.ours else 'would fail'}, even root's"
    for program in facts.programs:
        yield from _check_program(program, fails)
    if facts.dry_run:
        yield moot(
            "helper-fails",
            f"a dry run of {facts.own} failed ({facts.dry_run}), so at best modprobe serves root's requests and all"
            " others are refused",
            f"run '{facts.own} -n -- anything' to see why, then {_REINSTALL}",
        )
    if facts.lkrg is not None:
        yield from _check_lkrg(facts.own, facts.lkrg, fails)
    if (facts.options or {}).get("GRKERNSEC") == "y" and facts.own.startswith("/usr/sbin/"):
        yield note(
            "grsecurity-paths",
            f"some grsecurity kernels refuse to run a helper in /usr/sbin, such as {facts.own}",
            "look for 'denied exec of usermode helper' in the kernel log; if it is there, set kernel.modprobe to a link"
            " in /sbin that leads to the helper",
        )
    if facts.selinux.enforcing:
        yield from _check_selinux_label(facts.own, facts.selinux.label)


def _check_program(program: Program, fails: str) -> Iterator[Problem]:
    path = program.path
    if not program.there:
        yield moot("helper-missing", f"{path} does not exist, so {fails}", _REINSTALL)
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
            f"{path} is on a file system mounted noexec, so {fails}",
            "remount it without noexec, or install safe-modprobe on another file system",
        )
    for other, why in program.others:
        yield moot(
            "helper-writable",
            f"{other}: {why}, so a user other than root can become root with the next request",
            f"chown root {other}; chmod go-w {other}; then check that {path} is still the package's file",
        )


def _check_lkrg(own: str, lkrg: Lkrg, fails: str) -> Iterator[Problem]:
    allowed = lkrg.umh_validate == 1 and own in _LKRG_ALLOWED
    if lkrg.umh_validate and not allowed:
        which = "any helper" if lkrg.umh_validate > 1 else f"{own}, which is not on its list of allowed helpers"
        mend = "set lkrg.umh_validate=0 with sysctl and in sysctl.d; LKRG's list cannot be extended"
        if lkrg.umh_enforce == 1:
            yield moot("lkrg", f"LKRG kills {which}, so {fails}", mend)
        elif lkrg.umh_enforce > 1:
            yield moot("lkrg", f"LKRG stops the machine when the kernel runs {which}", mend)
        else:
            yield note("lkrg", f"LKRG fills the kernel log with messages about {which}", mend)
    if lkrg.block_modules:
        yield moot(
            "lkrg-block-modules",
            "LKRG blocks the loading of every module (lkrg.block_modules is 1)",
            "set lkrg.block_modules=0 with sysctl if modules should be loaded at all",
        )


def _check_selinux_label(path: str, label: str | None) -> Iterator[Problem]:
    mend = f"semanage fcontext -a -t {_LABELS[0]} {path}; restorecon -v {path}"
    selinux_type = (label or "").split(":")[2:3]
    if not selinux_type or selinux_type[0] == "unlabeled_t":
        yield moot(
            "selinux-label",
            f"SELinux is enforcing and {path} has no label, so the kernel may not be allowed to run it",
            mend,
        )
    elif selinux_type[0] not in _LABELS:
        yield weaker(
            "selinux-label",
            f"SELinux is enforcing and {path} is labelled {selinux_type[0]} instead of {_LABELS[0]} like modprobe, so"
            " it runs in the kernel's own domain",
            mend,
        )


def _check_loading(facts: Facts) -> Iterator[Problem]:
    """Check what keeps every module out, and which capabilities the kernel gives its helpers."""
    if facts.modules_disabled:
        yield moot(
            "modules-disabled",
            "kernel.modules_disabled is 1, so no module can be loaded until the next boot",
            "nothing if this is intended; otherwise find the line in sysctl.d that sets it, remove it and reboot",
        )
    if not facts.modules_folder and facts.current is not None:
        yield moot(
            "no-modules-folder",
            f"the modules of the running kernel ({facts.kernel}) are not installed, so no module can be loaded",
            "boot the kernel that was installed since, or reinstall the modules of the running one",
        )
    if lacking := facts.lacking(SYS_MODULE, *INSPECTION_CAPABILITIES):
        yield _missing_capabilities(lacking)


def _missing_capabilities(lacking: list[Capability]) -> Problem:
    names = " and ".join(NAMES[each] for each in lacking)
    mend = "find the line in sysctl.d that shrinks it, remove it and reboot; the kernel cannot extend it again"
    if SYS_MODULE in lacking:
        return moot("bset", f"kernel.usermodehelper.bset lacks {names}, so helpers cannot load modules", mend)
    return weaker("bset", f"kernel.usermodehelper.bset lacks {names}, so helpers cannot identify callers", mend)
