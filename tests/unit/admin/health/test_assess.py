"""assess(): each problem alone with its complete sentences, and the resulting state."""

import pytest

from safe_modprobe.admin.health.assess import State, assess
from safe_modprobe.admin.health.facts import Facts, Lkrg, Program, Selinux, Setting, Tracing
from safe_modprobe.admin.health.policy_checks import marked_by_name
from safe_modprobe.admin.health.problem import Problem, Severity
from safe_modprobe.admin.health.sources import SourceUse, Use, sources
from safe_modprobe.model import COMMAND_LINE, Action, Mode, Origin, Source
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from tests.unit.make import policy

GOOD = Facts(policy("[settings]\nmode = 'marked'\n"), kernel="6.1")
OWN = "/usr/sbin/safe-modprobe"
MOOT, WEAKER, NOTE = Severity

BY_PROC = "so only /proc identifies callers, and root may be refused while users make requests"
CREATE_AGAIN = "run 'safe-modprobectl enable --runtime' to create it again"
BSET_MEND = "find the line in sysctl.d that shrinks it, remove it and reboot; the kernel cannot extend it again"
LKRG_MEND = "set lkrg.umh_validate=0 with sysctl and in sysctl.d; LKRG's list cannot be extended"
LABEL_MEND = f"semanage fcontext -a -t kmod_exec_t {OWN}; restorecon -v {OWN}"
ALWAYS_MEND = 'set it to "optional"; only a kernel with CONFIG_GRKERNSEC_MODHARDEN or CONFIG_MODPROBE_CALLER_ARGS passes arguments'
BUILT_IN_MEND = (
    "boot with initcall_blacklist=NAME_init for each one you do not need, or boot a kernel with it as a module"
)
LOADED_MEND = "run 'rmmod NAME' for each one you do not need; /etc/modules-load.d may show what loads it"
SOURCES_MEND = 'add "tracefs" and "proc" to sources'
OMITTED = "the setting sources omits a source that works here"
ALONE_WHAT = (
    "only kernel arguments identify callers ({}), so root may be refused marked modules while a load for a user takes"
    " over 0.5 s, and for 60 s after it if no task waits for the request; any user can cause this"
)
BY_UNIT = "[[rule]]\nunits = ['a.service']\naction = '{}'\n"


def facts(text: str = "", **changed: object) -> Facts:
    """Return the facts of a machine without problems, except for these changes. `text` goes below [settings]."""
    base = GOOD if not text else GOOD._replace(policy=policy(f"[settings]\n{text}\n"))
    return base._replace(**changed)  # type: ignore[arg-type]


def without(*bits: int) -> int:
    return GOOD.bset & ~sum(1 << bit for bit in bits)


ALONE = [
    # kernel.modprobe
    (facts(current=None, ours=False), "no-modules", MOOT,
     "this kernel was built without loadable modules, so it never runs a module helper",
     "boot a kernel with CONFIG_MODULES, or remove safe-modprobe"),
    (facts(current="", ours=False), "no-helper", MOOT,
     "kernel.modprobe is empty, so the kernel runs no module helper and every request fails, even root's",
     "run 'safe-modprobectl enable --runtime' to switch safe-modprobe on"),
    (facts(current="/sbin/modprobe", ours=False), "other-helper", MOOT,
     "kernel.modprobe is /sbin/modprobe, so the kernel runs that program instead of safe-modprobe",
     "run 'safe-modprobectl enable --runtime'; if safe-modprobe was on before, find out what changed it"),
    (facts(options={"STATIC_USERMODEHELPER": "y", "STATIC_USERMODEHELPER_PATH": '"/sbin/usermode-helper"'}),
     "static-usermodehelper", MOOT,
     "this kernel ignores kernel.modprobe and runs /sbin/usermode-helper (CONFIG_STATIC_USERMODEHELPER)",
     f"make /sbin/usermode-helper run {OWN} when its first argument is {OWN}"),
    (facts(current="/sbin/modprobe", ours=False, stood_down=True), "stood-down", MOOT,
     f"{OWN} stopped working, so the watch set kernel.modprobe to /sbin/modprobe until it works again",
     "reinstall the package"),
    (facts(rescue="off"), "rescue-off", MOOT,
     "the kernel command line has safe_modprobe=off, so the helper passes every request to modprobe",
     "boot without safe_modprobe=off"),
    (facts(options={"STATIC_USERMODEHELPER": "y", "STATIC_USERMODEHELPER_PATH": '""'}), "static-usermodehelper", MOOT,
     "this kernel ignores kernel.modprobe and runs no program at all (CONFIG_STATIC_USERMODEHELPER)",
     "boot a kernel without this option"),
    (facts(sysctl=Setting(Origin("/etc/sysctl.d/a.conf", 3), "/bin/false")), "sysctl-file", WEAKER,
     "/etc/sysctl.d/a.conf:3 sets kernel.modprobe to /bin/false whenever 'sysctl --system' runs",
     "remove that line"),
    (facts(sysctl=Setting(Origin("/etc/sysctl.conf", 1), ""), at_boot=False), "sysctl-file", WEAKER,
     "/etc/sysctl.conf:1 sets kernel.modprobe to an empty string at the next boot and whenever 'sysctl --system' runs",
     "remove that line"),
    # the helper runs
    (facts(programs=(Program(OWN, there=False),)), "helper-missing", MOOT,
     f"{OWN} does not exist, so every request fails, even root's", "reinstall the package"),
    (facts(programs=(Program(OWN), Program("/usr/bin/python3", there=False))), "helper-missing", MOOT,
     "/usr/bin/python3 does not exist, so every request fails, even root's", "reinstall the package"),
    (facts(programs=(Program(OWN, executable=False),)), "helper-not-executable", MOOT,
     f"{OWN} is not executable, so every request fails, even root's", f"chmod 755 {OWN}"),
    (facts(programs=(Program(OWN, noexec=True),)), "helper-noexec", MOOT,
     f"{OWN} is on a file system mounted noexec, so every request fails, even root's",
     "remount it without noexec, or install safe-modprobe on another file system"),
    (facts(programs=(Program(OWN, others=(("/usr", "it belongs to uid 5"),)),)), "helper-writable", MOOT,
     "/usr: it belongs to uid 5, so a user other than root can become root with the next request",
     f"chown root /usr; chmod go-w /usr; then check that {OWN} is still the package's file"),
    (facts(dry_run="it ended with 1 and 'x'"), "helper-fails", MOOT,
     f"a dry run of {OWN} failed (it ended with 1 and 'x'), so at best modprobe serves root's requests and all others"
     " are refused",
     f"run '{OWN} -n -- anything' to see why, then reinstall the package"),
    (facts(lkrg=Lkrg(1, 1)), "lkrg", MOOT,
     f"LKRG kills {OWN}, which is not on its list of allowed helpers, so every request fails, even root's", LKRG_MEND),
    (facts(lkrg=Lkrg(2, 1)), "lkrg", MOOT, "LKRG kills any helper, so every request fails, even root's", LKRG_MEND),
    (facts(lkrg=Lkrg(1, 2)), "lkrg", MOOT,
     f"LKRG stops the machine when the kernel runs {OWN}, which is not on its list of allowed helpers", LKRG_MEND),
    (facts(lkrg=Lkrg(1, 0)), "lkrg", NOTE,
     f"LKRG fills the kernel log with messages about {OWN}, which is not on its list of allowed helpers", LKRG_MEND),
    (facts(lkrg=Lkrg(0, 0, 1)), "lkrg-block-modules", MOOT,
     "LKRG blocks the loading of every module (lkrg.block_modules is 1)",
     "set lkrg.block_modules=0 with sysctl if modules should be loaded at all"),
    (facts(options={"GRKERNSEC": "y"}), "grsecurity-paths", NOTE,
     f"some grsecurity kernels refuse to run a helper in /usr/sbin, such as {OWN}",
     "look for 'denied exec of usermode helper' in the kernel log; if it is there, set kernel.modprobe to a link in /sbin"
     " that leads to the helper"),
    (facts(selinux=Selinux(True, None)), "selinux-label", MOOT,
     f"SELinux is enforcing and {OWN} has no label, so the kernel may not be allowed to run it", LABEL_MEND),
    (facts(selinux=Selinux(True, "system_u:object_r:unlabeled_t:s0")), "selinux-label", MOOT,
     f"SELinux is enforcing and {OWN} has no label, so the kernel may not be allowed to run it", LABEL_MEND),
    (facts(selinux=Selinux(True, "nonsense")), "selinux-label", MOOT,
     f"SELinux is enforcing and {OWN} has no label, so the kernel may not be allowed to run it", LABEL_MEND),
    (facts(selinux=Selinux(True, "system_u:object_r:bin_t:s0")), "selinux-label", WEAKER,
     f"SELinux is enforcing and {OWN} is labelled bin_t instead of kmod_exec_t like modprobe, so it runs in the kernel's own"
     " domain", LABEL_MEND),
    # the helper can load modules
    (facts(modules_disabled=True), "modules-disabled", MOOT,
     "kernel.modules_disabled is 1, so no module can be loaded until the next boot",
     "nothing if this is intended; otherwise find the line in sysctl.d that sets it, remove it and reboot"),
    (facts(modules_folder=False), "no-modules-folder", MOOT,
     "the modules of the running kernel (6.1) are not installed, so no module can be loaded",
     "boot the kernel that was installed since, or reinstall the modules of the running one"),
    (facts(bset=without(16)), "bset", MOOT,
     "kernel.usermodehelper.bset lacks CAP_SYS_MODULE, so helpers cannot load modules", BSET_MEND),
    (facts(bset=0), "bset", MOOT,
     "kernel.usermodehelper.bset lacks CAP_SYS_MODULE and CAP_SYS_ADMIN and CAP_SYS_PTRACE, so helpers cannot load"
     " modules", BSET_MEND),
    (facts(bset=without(19), tracing=Tracing(there=False)), "bset", WEAKER,
     "kernel.usermodehelper.bset lacks CAP_SYS_PTRACE, so helpers cannot identify callers", BSET_MEND),
    (facts(bset=without(21)), "bset", WEAKER,
     "kernel.usermodehelper.bset lacks CAP_SYS_ADMIN, so helpers cannot identify callers", BSET_MEND),
    # the policy refuses
    (facts(policy=BUILTIN_POLICY, policy_error="a.toml:1: mode: it is wrong"), "policy-broken", WEAKER,
     "the policy is broken, so the built-in policy is in force, with mode privileged (a.toml:1: mode: it is wrong)",
     "fix the error, then run 'safe-modprobectl reload'"),
    (facts(policy=BUILTIN_POLICY), "no-policy", WEAKER,
     "there is no policy file, so the built-in policy is in force, with mode privileged",
     "reinstall the package, or write a policy file in /etc/safe-modprobe/policy.d"),
    (facts("trial = true"), "trial", MOOT,
     "a trial is on, so the helper refuses nothing and only records what it would refuse [50-test.toml:2]",
     "set trial to false"),
    (facts()._replace(policy=GOOD.policy.in_trial(COMMAND_LINE)), "trial", MOOT,
     "a trial is on, so the helper refuses nothing and only records what it would refuse [safe_modprobe=log on the"
     " kernel's command line]",
     "boot without safe_modprobe=log"),
    (facts("mode = 'disabled'"), "mode-disabled", NOTE,
     "mode is disabled, so every module is refused to every caller, even root [50-test.toml:2]",
     "nothing if this is intended; mode marked refuses only marked modules, and only to unprivileged callers"),
    (facts("mode = 'disabled'\nmismatch = 'allow'\nunknown_caller = 'privileged'"), "mode-disabled", NOTE,
     "mode is disabled, so every module is refused to every caller, even root [50-test.toml:2]",
     "nothing if this is intended; mode marked refuses only marked modules, and only to unprivileged callers"),
    (facts("mode = 'allowed'"), "mode-allowed", MOOT,
     "mode is allowed, so nothing is refused [50-test.toml:2]", 'set mode to "marked"'),
    (facts("mismatch = 'log'"), "mismatch", MOOT,
     "mismatch is log, so nothing is refused [50-test.toml:2]", 'set mismatch to "deny"'),
    (facts("mismatch = 'allow'\n[[rule]]\nmodules = ['x']\naction = 'deny'"), "mismatch", WEAKER,
     "mismatch is allow, so only deny rules refuse anything [50-test.toml:2]",
     'set mismatch to "deny"'),
    (facts("[[mark]]\nmodules = ['algif_*']\nprivileged = true", built_in=frozenset({"algif_aead"})),
     "marked-built-in", NOTE,
     "algif_aead is marked but built into this kernel, so users reach the code without a request", BUILT_IN_MEND),
    (facts("[[mark]]\nmodules = ['af_alg', 'algif_*']\nprivileged = true", built_in=frozenset({"algif_aead", "af_alg"})),
     "marked-built-in", WEAKER,
     "af_alg, algif_aead are marked but built into this kernel, so users reach the code without a request", BUILT_IN_MEND),
    (facts("[[mark]]\nmodules = ['m-*', 'm_z']\nprivileged = true", loaded=frozenset(f"m_{x}" for x in "abcdefghz")),
     "marked-loaded", NOTE,
     "m_a, m_b, m_c, m_d, m_e, m_f and 3 more are marked but already loaded, so users reach the code without a request",
     LOADED_MEND),
    (facts("", ldisc_autoload=True), "line-disciplines", NOTE,
     "dev.tty.ldisc_autoload is 1 and no mark covers line disciplines, so any user can have one loaded",
     "set dev.tty.ldisc_autoload=0 with sysctl and in sysctl.d, or add a mark for the aliases tty-ldisc-*"),
    # callers are identified
    (facts(stacks=False), "no-source", WEAKER,
     "no source can identify callers (/proc/TID/stack cannot be read), so every caller counts as unprivileged, even root",
     "boot a kernel with CONFIG_STACKTRACE and CONFIG_KALLSYMS"),
    (facts("sources = ['kernel-args']"), "no-source", WEAKER,
     f"no source can identify callers ({OMITTED} [50-test.toml:2]), so every caller counts as unprivileged, even root",
     SOURCES_MEND),
    (facts("sources = ['tracefs']", tracing=Tracing(there=False)), "no-source", WEAKER,
     f"no source can identify callers (the tracing instance does not exist, and {OMITTED} [50-test.toml:2]), so every"
     " caller counts as unprivileged, even root", SOURCES_MEND),
    (facts("sources = ['kernel-args']", options={"GRKERNSEC_MODHARDEN": "y"}), "no-source", WEAKER,
     f"no source can identify callers ({OMITTED} [50-test.toml:2]), so every caller counts as unprivileged, even root",
     SOURCES_MEND),
    (facts("sources = ['tracefs']", names_unprivileged=True, tracing=Tracing(there=False)), "no-source", WEAKER,
     f"no source can identify callers (the tracing instance does not exist, and {OMITTED} [50-test.toml:2]), so every"
     " caller counts as unprivileged, even root", SOURCES_MEND),
    (facts("sources = ['proc']"), "tracefs", WEAKER, f"the setting sources omits tracefs, {BY_PROC} [50-test.toml:2]",
     'add "tracefs" to sources, before "proc"'),
    (facts(lockdown="confidentiality"), "tracefs", WEAKER, f"lockdown=confidentiality blocks tracefs, {BY_PROC}",
     "boot with lockdown=integrity, which allows tracefs, if that is strict enough"),
    (facts(tracing=Tracing(tracefs=False)), "tracefs", WEAKER,
     f"tracefs is not mounted, or this kernel lacks it, {BY_PROC}",
     "mount tracefs on /sys/kernel/tracing, or boot a kernel with CONFIG_FTRACE"),
    (facts(tracing=Tracing(there=False)), "tracefs", WEAKER, f"the tracing instance does not exist, {BY_PROC}", CREATE_AGAIN),
    (facts(tracing=Tracing(event=False)), "tracefs", WEAKER,
     f"the event module:module_request is off in the tracing instance, {BY_PROC}", CREATE_AGAIN),
    (facts(tracing=Tracing(recording=False)), "tracefs", WEAKER,
     f"the tracing instance is stopped (tracing_on is 0), {BY_PROC}", CREATE_AGAIN),
    (facts(tracing=Tracing(refused="Operation not permitted")), "tracefs", WEAKER,
     f"the tracing instance cannot be read (Operation not permitted), {BY_PROC}", CREATE_AGAIN),
    (facts(tracing=Tracing(clock=False)), "trace-clock", WEAKER,
     "the tracing instance does not use the clock boot, so helpers cannot compare an event with a task's start",
     "run 'safe-modprobectl enable --runtime' to set the clock"),
    (facts(tracing=Tracing(lost=7)), "trace-loss", NOTE, "the trace ring has lost requests (7) since it was created",
     "find out which user floods it, or enlarge it with 'echo 1024"
     " >/sys/kernel/tracing/instances/safe-modprobe/buffer_size_kb'"),
    (facts(tracing=Tracing(lost=7, doubt=True)), "trace-loss", WEAKER,
     f"the trace ring lost requests (7 so far) within the last minute, {BY_PROC}",
     "find out which user floods it, or enlarge it with 'echo 1024"
     " >/sys/kernel/tracing/instances/safe-modprobe/buffer_size_kb'"),
    (facts("sources = ['kernel-args']", names_unprivileged=True), "words-alone", WEAKER,
     ALONE_WHAT.format(f"{OMITTED} [50-test.toml:2]"), SOURCES_MEND),
    (facts(names_unprivileged=True, stacks=False), "words-alone", WEAKER,
     ALONE_WHAT.format("/proc/TID/stack cannot be read"), "boot a kernel with CONFIG_STACKTRACE and CONFIG_KALLSYMS"),
    (facts("sources = ['kernel-args', 'tracefs']", names_unprivileged=True, tracing=Tracing(there=False)), "words-alone", WEAKER,
     ALONE_WHAT.format(f"the tracing instance does not exist, and {OMITTED} [50-test.toml:2]"),
     SOURCES_MEND),
    (facts("kernel_args = 'always'\nsources = ['bpf', 'kernel-args']", options={"GRKERNSEC_MODHARDEN": "y"}),
     "words-alone", WEAKER, ALONE_WHAT.format(f"{OMITTED} [50-test.toml:3]"), SOURCES_MEND),
    (facts("unknown_caller = 'privileged'"), "unknown-caller", MOOT,
     'unknown_caller is "privileged" and a user becomes an unknown caller by killing their own request, so any user can'
     " load any module [50-test.toml:2]", 'set unknown_caller to "unprivileged"'),
    (facts("kernel_args = 'always'"), "kernel-args", MOOT,
     'kernel_args is "always", but this kernel passes none, so every caller counts as root [50-test.toml:2]', ALWAYS_MEND),
    (facts("kernel_args = 'always'\nsources = ['tracefs', 'proc']"), "kernel-args", NOTE,
     'kernel_args is "always", but the setting sources omits kernel-args, so it has no effect [50-test.toml:2]',
     'remove kernel_args, or add "kernel-args" to sources'),
    (facts(options={"MODULE_DEBUG_AUTOLOAD_DUPS": "y"}), "shared-refusals", WEAKER,
     "this kernel gives the same answer to all requests for a name within 60 s, so a refusal to a user is also one to"
     " root (CONFIG_MODULE_DEBUG_AUTOLOAD_DUPS)",
     "boot a kernel without this debugging option; until then, load modules as root with modprobe"),
    (facts(options=None), "no-build-options", NOTE,
     "this kernel's build options cannot be found in /proc/config.gz or /boot/config-VERSION, so checks that depend on"
     " them were skipped", "install the kernel package's config file"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "key", "severity", "what", "mend"), ALONE)
def test_each_problem_alone(given: Facts, key: str, severity: Severity, what: str, mend: str) -> None:
    assert assess(given).problems == (Problem(key, severity, what, mend),)


SHORT = [
    # Rules on a machine whose only source is kernel arguments, and what `status` says about them.
    ("", None),
    ("modules = ['m']\naction = 'deny'", None),
    ("users = [1000]\naction = 'allow'", None),
    ("capabilities = ['CAP_SYS_MODULE']\naction = 'deny'", None),
    ("callers = 'unknown'\naction = 'deny'", None),
    ("capabilities = ['CAP_NET_ADMIN']\naction = 'allow'", None),
    ("users = [1000]\naction = 'deny'", "deny rules match in doubt (even root)"),
    ("capabilities = ['CAP_NET_ADMIN']\naction = 'deny'", "deny rules match in doubt (even root)"),
    ("groups = [29]\naction = 'deny'", "deny rules match in doubt (even root)"),
    ("groups = [29]\naction = 'log'", "allow and log rules match nobody"),
    ("user_namespace = 'other'\naction = 'allow'", "allow and log rules match nobody"),
    ("no_new_privs = false\naction = 'allow'", "allow and log rules match nobody"),
    ("executables = ['/x']\naction = 'allow'", "allow and log rules match nobody"),
    ("call_sites = ['f']\naction = 'allow'", "allow and log rules match nobody"),
]


@pytest.mark.parametrize(("rule", "then"), SHORT)
def test_rules_with_keys_that_kernel_arguments_cannot_answer(rule: str, then: str | None) -> None:
    text = "sources = ['kernel-args']\n" + (f"[[rule]]\n{rule}" if rule else "")
    found = [each for each in assess(facts(text, names_unprivileged=True)).problems if each.key != "words-alone"]
    what = f"rules use keys that kernel arguments cannot answer ({OMITTED} [50-test.toml:2]), so {then}"
    expected = [] if then is None else [
        Problem("words-short", WEAKER, f"{what} [50-test.toml:3]", SOURCES_MEND)
    ]  # fmt: skip
    assert found == expected


def test_all_such_rules_are_in_one_problem() -> None:
    given = facts(
        "sources = ['kernel-args']\n" + BY_UNIT.format("deny") + BY_UNIT.format("allow") + BY_UNIT.format("deny"),
        names_unprivileged=True,
    )
    (found,) = [each for each in assess(given).problems if each.key == "words-short"]
    assert found.what.startswith("rules use keys that kernel arguments cannot answer (")
    assert found.what.endswith(
        "), so deny rules match in doubt (even root) and allow and log rules match nobody"
        " [50-test.toml:3, 50-test.toml:6, 50-test.toml:9]"
    )


FINE = [
    facts(),
    facts(sysctl=Setting(Origin("/etc/sysctl.conf", 1), OWN)),
    facts(options={"STATIC_USERMODEHELPER_PATH": '"/x"', "MODULES": "y", "GRKERNSEC": "n"}),
    facts(options={"MODULE_DEBUG_AUTOLOAD_DUPS": "n", "STATIC_USERMODEHELPER": "n"}),
    facts(programs=(Program(OWN), Program("/usr/bin/python3"), Program("/usr/lib/safe-modprobe"))),
    facts(lkrg=Lkrg(0, 1)),
    facts(lkrg=Lkrg(0, 2)),
    facts(own="/usr/sbin/modprobe", lkrg=Lkrg(1, 1)),
    facts(selinux=Selinux(False, None)),
    facts(selinux=Selinux(True, "system_u:object_r:kmod_exec_t:s0")),
    facts(selinux=Selinux(True, "system_u:object_r:insmod_exec_t:s0:c0.c1023")),
    facts(bset=0x1FFFFFFFFFF),
    facts(bset=without(1, 5, 22)),
    facts("mode = 'privileged'"),
    facts("mode = 'privileged'", ldisc_autoload=True),
    facts(ldisc_autoload=False),
    facts("[[mark]]\naliases = ['tty-ldisc-*']\nprivileged = true", ldisc_autoload=True),
    facts("[[mark]]\nmodules = ['n-gsm']\nprivileged = 'CAP_SYS_TTY_CONFIG'", ldisc_autoload=True),
    facts(built_in=frozenset({"ext4"}), loaded=frozenset({"xfs"})),
    facts("[[mark]]\naliases = ['fs-*']\nprivileged = true", loaded=frozenset({"xfs"})),
    facts("[[mark]]\nmodules = ['xfs']\nprivileged = false", loaded=frozenset({"xfs"})),
    facts(lockdown="integrity"),
    facts(lockdown="none"),
    facts("sources = ['tracefs']"),
    facts("kernel_args = 'always'", options={"GRKERNSEC_MODHARDEN": "y"}),
    facts("kernel_args = 'always'", names_unprivileged=True),
    facts(names_unprivileged=True, tracing=Tracing(tracefs=False, there=False)),
    facts("sources = ['kernel-args', 'proc']\n" + BY_UNIT.format("deny"), names_unprivileged=True),
    facts("sources = ['kernel-args', 'tracefs']\n" + BY_UNIT.format("deny"), names_unprivileged=True),
]


@pytest.mark.parametrize("given", FINE, ids=range(len(FINE)))
def test_a_machine_without_problems(given: Facts) -> None:
    health = assess(given)
    assert (health.state, health.protects, health.problems) == (State.ON, True, ())


@pytest.mark.parametrize(
    ("given", "state", "protects"),
    [
        (facts(ours=False, current="/sbin/modprobe"), State.OFF, False),
        (facts("trial = true", ours=False, current=""), State.OFF, False),
        (facts("trial = true"), State.TRIAL, False),
        (facts(modules_disabled=True), State.ON, False),
        (facts(modules_disabled=True, options=None), State.ON, False),
        (facts(policy=BUILTIN_POLICY, policy_error="x"), State.ON, True),
        (facts(stacks=False), State.ON, True),
    ],
)
def test_state_and_protection(given: Facts, state: State, protects: bool) -> None:
    health = assess(given)
    assert (health.state, health.protects) == (state, protects)


def test_problems_are_sorted_by_severity() -> None:
    given = facts("mode = 'allowed'", options=None, tracing=Tracing(there=False), current="", ours=False)
    assert [(each.key, each.severity) for each in assess(given).problems] == [
        ("no-helper", MOOT), ("mode-allowed", MOOT), ("tracefs", WEAKER), ("no-build-options", NOTE),
    ]  # fmt: skip


def test_problems_of_an_inactive_helper_say_would_fail() -> None:
    """While the kernel runs another helper, ours can do no harm."""
    given = facts(ours=False, current="/sbin/modprobe", programs=(Program(OWN, there=False),), lkrg=Lkrg(1, 1))
    sentences = [each.what for each in assess(given).problems][1:]
    assert sentences == [
        f"{OWN} does not exist, so every request would fail, even root's",
        f"LKRG kills {OWN}, which is not on its list of allowed helpers, so every request would fail, even root's",
    ]


def test_a_trial_continues_with_a_broken_policy() -> None:
    broken = BUILTIN_POLICY._replace(settings=BUILTIN_POLICY.settings._replace(trial=True))
    given = facts(policy=broken, policy_error="why")
    assert assess(given).problems[0].mend == "run 'rm /run/safe-modprobe/policy.d/00-trial.toml' to end it"
    assert [each.what for each in assess(given).problems] == [
        "a trial is on, so the helper refuses nothing and only records what it would refuse [built-in]",
        "the policy is broken, so the trial continues (why)",
    ]


def test_kernel_args_always_on_a_kernel_with_unknown_options() -> None:
    found = assess(facts("kernel_args = 'always'", options=None)).problems
    assert [(each.key, each.severity) for each in found] == [("kernel-args", WEAKER), ("no-build-options", NOTE)]
    assert found[0].what == (
        'kernel_args is "always", but this kernel may pass none (its build options cannot be found), so every caller'
        " counts as root [50-test.toml:2]"
    )


NO_BPF = "this version has no BPF program that records callers"
NO_ARGS = "this kernel passes none"
UNKNOWN_ARGS = "this kernel may pass none; its build options cannot be found"
NO_STACKS = "/proc/TID/stack cannot be read here, and both tracefs and proc need it"
BSET_LACKS = "kernel.usermodehelper.bset lacks the capabilities that helpers need to inspect callers"
NOT_LISTED = "the setting sources omits it [50-test.toml:2]"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (facts(), "kernel-args - this; bpf - none; tracefs in use; proc stands by"),
        (facts(options=None), "kernel-args - unknown; bpf - none; tracefs in use; proc stands by"),
        (facts(options={"GRKERNSEC_MODHARDEN": "y"}), "kernel-args in use; bpf - none; tracefs in use; proc stands by"),
        (facts("kernel_args = 'always'"), "kernel-args in use; bpf - none; tracefs stands by; proc stands by"),
        (facts(names_unprivileged=True), "kernel-args in use; bpf - none; tracefs stands by; proc stands by"),
        (
            facts(names_unprivileged=True, options=None),
            "kernel-args in use; bpf - none; tracefs stands by; proc stands by",
        ),
        (facts(bset=without(19)), "kernel-args - this; bpf - none; tracefs - bset; proc - bset"),
        (facts(bset=without(16)), "kernel-args - this; bpf - none; tracefs in use; proc stands by"),
        (facts(stacks=False), "kernel-args - this; bpf - none; tracefs - stacks; proc - stacks"),
        (
            facts("sources = ['proc', 'tracefs']"),
            "proc in use; tracefs stands by; kernel-args - omitted; bpf - omitted",
        ),
        (facts("sources = ['bpf']"), "bpf - none; kernel-args - omitted; tracefs - omitted; proc - omitted"),
    ],
)
def test_sources(given: Facts, expected: str) -> None:
    whys = {
        "this": NO_ARGS,
        "unknown": UNKNOWN_ARGS,
        "none": NO_BPF,
        "stacks": NO_STACKS,
        "bset": BSET_LACKS,
        "omitted": NOT_LISTED,
    }
    wanted = []
    for part in expected.split("; "):
        name, _, rest = part.partition(" ")
        why = whys[rest[2:]] if rest.startswith("- ") else ""
        wanted.append(SourceUse(Source(name), Use.UNUSED if why else Use(rest), why))
    assert sources(given) == tuple(wanted)


@pytest.mark.parametrize(
    ("text", "modules", "found"),
    [
        ("", "a b", {}),
        ("[[mark]]\nmodules = ['a']\nprivileged = true", "a b", {"a": True}),
        ("[[mark]]\nmodules = ['a*']\nprivileged = true", "ab b", {"ab": False}),
        ("[[mark]]\nmodules = ['a-b']\nprivileged = true", "a_b", {"a_b": True}),
        ("[[mark]]\nmodules = ['a-*', 'a-b']\nprivileged = true", "a_b", {"a_b": False}),
        ("[[mark]]\nmodules = ['a-b', 'a-*']\nprivileged = true", "a_b a_c", {"a_b": True, "a_c": False}),
        ("[[mark]]\nmodules = ['a*']\nprivileged = false\n[[mark]]\nmodules = ['ab', '*c']\nprivileged = true", "ab bc ac", {"bc": False}),
        ("[[mark]]\nmodules = ['a']\nprivileged = 'CAP_NET_ADMIN'", "a", {"a": True}),
        ("[[mark]]\nmodules = ['a']\nprivileged = false\n[[mark]]\nmodules = ['*']\nprivileged = true", "a b", {"b": False}),
        ("[[mark]]\nmodules = ['a']\nprivileged = 'marker'\n[[mark]]\nmodules = ['a']\nprivileged = true", "a", {}),
        ("[[mark]]\nmodules = ['a']\naliases = ['x']\nprivileged = true", "a", {}),
        ("[[mark]]\naliases = ['a']\nprivileged = true", "a", {}),
        ("[[mark]]\nmodules = ['a']\naliases = ['x']\nprivileged = false\n[[mark]]\nmodules = ['a']\nprivileged = true",
         "a", {"a": True}),
    ],
)  # fmt: skip
def test_marked_by_name(text: str, modules: str, found: dict[str, bool]) -> None:
    assert marked_by_name(policy(text), modules.split()) == found


def test_every_problem_has_a_row() -> None:
    """Without a row, no test reads the sentences of a problem."""
    import ast
    from pathlib import Path

    import safe_modprobe.admin.health as health

    keys = set()
    for path in Path(health.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("moot", "weaker", "note", "problem")
                and isinstance(node.args[0], ast.Constant)
            ):
                keys.add(node.args[0].value)
    assert len(keys) > 20
    assert keys == {key for _, key, *_ in ALONE} | {"words-short"}  # it never comes alone, see SHORT


def test_the_rows_know_all_modes_actions_and_sources() -> None:
    assert len(Mode) == 4 and len(Action) == 3 and len(Source) == 5
