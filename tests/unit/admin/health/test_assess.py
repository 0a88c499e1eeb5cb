"""Facts -> problems: each alone, with its whole sentences; and what follows from them for the answer."""

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

BY_PROC = "so who asks is learnt by /proc alone, and root may be refused while users ask"
ANEW = "'safe-modprobectl enable --runtime' makes it anew"
BSET_MEND = "boot again, for it cannot grow; and look in sysctl.d for who shrinks it"
LKRG_MEND = "sysctl lkrg.umh_validate=0, in sysctl.d too; the kernel's own list cannot be extended"
LABEL_MEND = f"semanage fcontext -a -t kmod_exec_t {OWN}; restorecon -v {OWN}"
ALWAYS_MEND = (
    'set it to "optional"; only a kernel with CONFIG_GRKERNSEC_MODHARDEN or CONFIG_MODPROBE_CALLER_ARGS passes them'
)
BUILT_IN_MEND = (
    "boot with initcall_blacklist=NAME_init for each that is not needed, or a kernel that has it as a module"
)
LOADED_MEND = "'rmmod NAME' for each that is not needed; /etc/modules-load.d may say who wants it"
SOURCES_MEND = 'add "tracefs" and "proc" to sources'


ALONE_WHAT = (
    "the kernel's words alone say who asks, so that root is refused what is marked while a load for a user takes more than"
    " half a second, and for a minute after it what nobody waits for, which any user can bring about"
)
BY_UNIT = "[[rule]]\nunits = ['a.service']\naction = '{}'\n"


def facts(text: str = "", **changed: object) -> Facts:
    """A good machine but for these; `text` goes below [settings]."""
    base = GOOD if not text else GOOD._replace(policy=policy(f"[settings]\n{text}\n"))
    return base._replace(**changed)  # type: ignore[arg-type]


def without(*bits: int) -> int:
    return GOOD.bset & ~sum(1 << bit for bit in bits)


ALONE = [
    # who is asked
    (facts(current=None, ours=False), "no-modules", MOOT,
     "this kernel was built without loadable modules, so it asks nobody for any",
     "boot a kernel with modules, or remove safe-modprobe"),
    (facts(current="", ours=False), "no-helper", MOOT,
     "kernel.modprobe is empty, so the kernel asks nobody, and every request fails, root's too",
     "'safe-modprobectl enable --runtime' switches safe-modprobe on"),
    (facts(current="/sbin/modprobe", ours=False), "other-helper", MOOT,
     "kernel.modprobe is /sbin/modprobe, so the kernel asks that program and not safe-modprobe",
     "'safe-modprobectl enable --runtime' switches it on; if it was on, look for who changed it"),
    (facts(options={"STATIC_USERMODEHELPER": "y", "STATIC_USERMODEHELPER_PATH": '"/sbin/usermode-helper"'}),
     "static-usermodehelper", MOOT,
     "this kernel runs /sbin/usermode-helper whatever kernel.modprobe is (CONFIG_STATIC_USERMODEHELPER)",
     f"let /sbin/usermode-helper run {OWN} where its first argument is that"),
    (facts(current="/sbin/modprobe", ours=False, stood_down=True), "stood-down", MOOT,
     f"{OWN} did not run any more, so the watch has put /sbin/modprobe in its place until it does",
     "install the package anew"),
    (facts(rescue="off"), "rescue-off", MOOT,
     "the kernel's command line says safe_modprobe=off, by which the helper leaves every request to modprobe",
     "boot without it"),
    (facts(options={"STATIC_USERMODEHELPER": "y", "STATIC_USERMODEHELPER_PATH": '""'}), "static-usermodehelper", MOOT,
     "this kernel runs no program at all whatever kernel.modprobe is (CONFIG_STATIC_USERMODEHELPER)",
     "boot a kernel without it"),
    (facts(sysctl=Setting(Origin("/etc/sysctl.d/a.conf", 3), "/bin/false")), "sysctl-file", WEAKER,
     "/etc/sysctl.d/a.conf:3 sets kernel.modprobe to /bin/false whenever 'sysctl --system' is run",
     "remove that line"),
    (facts(sysctl=Setting(Origin("/etc/sysctl.conf", 1), ""), at_boot=False), "sysctl-file", WEAKER,
     "/etc/sysctl.conf:1 sets kernel.modprobe to nothing at the next boot, and whenever 'sysctl --system' is run",
     "remove that line"),
    # whether it runs
    (facts(programs=(Program(OWN, there=False),)), "helper-missing", MOOT,
     f"{OWN} is not there, so every request fails, root's too", "install the package anew"),
    (facts(programs=(Program(OWN), Program("/usr/bin/python3", there=False))), "helper-missing", MOOT,
     "/usr/bin/python3 is not there, so every request fails, root's too", "install the package anew"),
    (facts(programs=(Program(OWN, executable=False),)), "helper-not-executable", MOOT,
     f"{OWN} is not executable, so every request fails, root's too", f"chmod 755 {OWN}"),
    (facts(programs=(Program(OWN, noexec=True),)), "helper-noexec", MOOT,
     f"{OWN} is on a file system that is mounted noexec, so every request fails, root's too",
     "mount it without noexec, or install safe-modprobe elsewhere"),
    (facts(programs=(Program(OWN, others=(("/usr", "it belongs to uid 5"),)),)), "helper-writable", MOOT,
     "/usr: it belongs to uid 5, so that somebody else than root can become root by the next request",
     f"chown root /usr; chmod go-w /usr; and see whether {OWN} is still the package's"),
    (facts(dry_run="it ended with 1 and 'x'"), "helper-fails", MOOT,
     f"a dry run of {OWN} failed (it ended with 1 and 'x'), so that at best root's requests are left to modprobe"
     " and all others refused",
     f"run '{OWN} -n -- anything' to see why, and install the package anew"),
    (facts(lkrg=Lkrg(1, 1)), "lkrg", MOOT,
     f"LKRG kills {OWN}, which is not in its list of helpers, so every request fails, root's too", LKRG_MEND),
    (facts(lkrg=Lkrg(2, 1)), "lkrg", MOOT, "LKRG kills every helper, so every request fails, root's too", LKRG_MEND),
    (facts(lkrg=Lkrg(1, 2)), "lkrg", MOOT,
     f"LKRG stops the machine for {OWN}, which is not in its list of helpers", LKRG_MEND),
    (facts(lkrg=Lkrg(1, 0)), "lkrg", NOTE,
     f"LKRG fills the kernel's log for {OWN}, which is not in its list of helpers", LKRG_MEND),
    (facts(lkrg=Lkrg(0, 0, 1)), "lkrg-block-modules", MOOT,
     "LKRG lets no module in, for anybody (lkrg.block_modules is 1)",
     "sysctl lkrg.block_modules=0, if modules are to be loaded at all"),
    (facts(options={"GRKERNSEC": "y"}), "grsecurity-paths", NOTE,
     f"some grsecurity kernels run no helper in /usr/sbin, where {OWN} is",
     "look for 'denied exec of usermode helper' in the kernel's log; then a link in /sbin to it is what to set"),
    (facts(selinux=Selinux(True, None)), "selinux-label", MOOT,
     f"SELinux enforces and {OWN} has no label, so the kernel may not run it", LABEL_MEND),
    (facts(selinux=Selinux(True, "system_u:object_r:unlabeled_t:s0")), "selinux-label", MOOT,
     f"SELinux enforces and {OWN} has no label, so the kernel may not run it", LABEL_MEND),
    (facts(selinux=Selinux(True, "nonsense")), "selinux-label", MOOT,
     f"SELinux enforces and {OWN} has no label, so the kernel may not run it", LABEL_MEND),
    (facts(selinux=Selinux(True, "system_u:object_r:bin_t:s0")), "selinux-label", WEAKER,
     f"SELinux enforces and {OWN} is labelled bin_t, not kmod_exec_t as modprobe is, so the kernel's own domain has to do"
     " for it", LABEL_MEND),
    # whether it can load
    (facts(modules_disabled=True), "modules-disabled", MOOT,
     "kernel.modules_disabled is 1, so nothing is loaded for anybody until the next boot",
     "nothing, if it is meant; otherwise look in sysctl.d for who sets it, and boot again"),
    (facts(modules_folder=False), "no-modules-folder", MOOT,
     "the modules of the running kernel, 6.1, are not there, so nothing can be loaded",
     "boot the kernel that was installed since, or install this one's modules again"),
    (facts(bset=without(16)), "bset", MOOT,
     "kernel.usermodehelper.bset leaves helpers without CAP_SYS_MODULE, so nothing is loaded for anybody", BSET_MEND),
    (facts(bset=0), "bset", MOOT,
     "kernel.usermodehelper.bset leaves helpers without CAP_SYS_MODULE and CAP_SYS_ADMIN and CAP_SYS_PTRACE, so nothing"
     " is loaded for anybody", BSET_MEND),
    (facts(bset=without(19), tracing=Tracing(there=False)), "bset", WEAKER,
     "kernel.usermodehelper.bset leaves helpers without CAP_SYS_PTRACE, so they cannot see who asks", BSET_MEND),
    (facts(bset=without(21)), "bset", WEAKER,
     "kernel.usermodehelper.bset leaves helpers without CAP_SYS_ADMIN, so they cannot see who asks", BSET_MEND),
    # what is refused
    (facts(policy=BUILTIN_POLICY, policy_error="a.toml:1: mode: it is wrong"), "policy-broken", WEAKER,
     "the policy is broken, so that the built-in one is in force, mode privileged (a.toml:1: mode: it is wrong)",
     "mend that, and see what 'safe-modprobectl reload' says"),
    (facts(policy=BUILTIN_POLICY), "no-policy", WEAKER,
     "there is no policy file, so that the built-in policy is in force, mode privileged",
     "install the package anew, or write one in /etc/safe-modprobe/policy.d"),
    (facts("trial = true"), "trial", MOOT,
     "a trial is on, so that nothing is refused, and what would be is recorded [50-test.toml:2]",
     "set it to false"),
    (facts()._replace(policy=GOOD.policy.in_trial(COMMAND_LINE)), "trial", MOOT,
     "a trial is on, so that nothing is refused, and what would be is recorded [safe_modprobe=log on the kernel's command"
     " line]",
     "boot without it"),
    (facts("mode = 'disabled'"), "mode-disabled", NOTE,
     "mode is disabled, so that every module is refused to everybody, root too [50-test.toml:2]",
     "nothing, if it is meant; mode marked refuses marked modules to those without privilege"),
    (facts("mode = 'disabled'\nmismatch = 'allow'\nunknown_caller = 'privileged'"), "mode-disabled", NOTE,
     "mode is disabled, so that every module is refused to everybody, root too [50-test.toml:2]",
     "nothing, if it is meant; mode marked refuses marked modules to those without privilege"),
    (facts("mode = 'allowed'"), "mode-allowed", MOOT,
     "mode is allowed, so that nothing is refused [50-test.toml:2]", 'set mode to "marked"'),
    (facts("mismatch = 'log'"), "mismatch", MOOT,
     "mismatch is log, so that nothing is refused [50-test.toml:2]", 'set mismatch to "deny"'),
    (facts("mismatch = 'allow'\n[[rule]]\nmodules = ['x']\naction = 'deny'"), "mismatch", WEAKER,
     "mismatch is allow, so that but for the rules that deny, nothing is refused [50-test.toml:2]",
     'set mismatch to "deny"'),
    (facts("[[mark]]\nmodules = ['algif_*']\nprivileged = true", built_in=frozenset({"algif_aead"})),
     "marked-built-in", NOTE,
     "algif_aead is marked and built into this kernel, so that users need no module for it", BUILT_IN_MEND),
    (facts("[[mark]]\nmodules = ['af_alg', 'algif_*']\nprivileged = true", built_in=frozenset({"algif_aead", "af_alg"})),
     "marked-built-in", WEAKER,
     "af_alg, algif_aead are marked and built into this kernel, so that users need no module for it", BUILT_IN_MEND),
    (facts("[[mark]]\nmodules = ['m-*', 'm_z']\nprivileged = true", loaded=frozenset(f"m_{x}" for x in "abcdefghz")),
     "marked-loaded", NOTE,
     "m_a, m_b, m_c, m_d, m_e, m_f and 3 more are marked and loaded already, so that users need not ask for it",
     LOADED_MEND),
    (facts("", ldisc_autoload=True), "line-disciplines", NOTE,
     "dev.tty.ldisc_autoload is 1 and no mark keeps line disciplines from users",
     "sysctl dev.tty.ldisc_autoload=0, in sysctl.d too, or a mark on tty-ldisc-*"),
    # who asks
    (facts(stacks=False), "no-source", WEAKER,
     "nobody can say who asks, so everybody is unprivileged, root too: /proc/TID/stack cannot be read",
     "boot a kernel with CONFIG_STACKTRACE and CONFIG_KALLSYMS"),
    (facts("sources = ['kernel-args']"), "no-source", WEAKER,
     "nobody can say who asks, so everybody is unprivileged, root too: sources leave out those that could"
     " [50-test.toml:2]", SOURCES_MEND),
    (facts("sources = ['tracefs']", tracing=Tracing(there=False)), "no-source", WEAKER,
     "nobody can say who asks, so everybody is unprivileged, root too: its tracing instance is not there, and sources"
     " leave out those that could [50-test.toml:2]", SOURCES_MEND),
    (facts("sources = ['kernel-args']", options={"GRKERNSEC_MODHARDEN": "y"}), "no-source", WEAKER,
     "nobody can say who asks, so everybody is unprivileged, root too: sources leave out those that could"
     " [50-test.toml:2]", SOURCES_MEND),
    (facts("sources = ['tracefs']", promised=True, tracing=Tracing(there=False)), "no-source", WEAKER,
     "nobody can say who asks, so everybody is unprivileged, root too: its tracing instance is not there, and sources"
     " leave out those that could [50-test.toml:2]", SOURCES_MEND),
    (facts("sources = ['proc']"), "tracefs", WEAKER, f"sources leave tracefs out, {BY_PROC} [50-test.toml:2]",
     'add "tracefs" to sources, before "proc"'),
    (facts(lockdown="confidentiality"), "tracefs", WEAKER, f"lockdown=confidentiality closes tracefs, {BY_PROC}",
     "boot with lockdown=integrity, which leaves tracefs open, if that is enough for you"),
    (facts(tracing=Tracing(tracefs=False)), "tracefs", WEAKER,
     f"tracefs is not mounted, or this kernel has none, {BY_PROC}",
     "mount it on /sys/kernel/tracing, or boot a kernel with CONFIG_FTRACE"),
    (facts(tracing=Tracing(there=False)), "tracefs", WEAKER, f"its tracing instance is not there, {BY_PROC}", ANEW),
    (facts(tracing=Tracing(event=False)), "tracefs", WEAKER,
     f"the event module:module_request is off in its tracing instance, {BY_PROC}", ANEW),
    (facts(tracing=Tracing(recording=False)), "tracefs", WEAKER,
     f"its tracing instance is stopped (tracing_on is 0), {BY_PROC}", ANEW),
    (facts(tracing=Tracing(refused="Operation not permitted")), "tracefs", WEAKER,
     f"its tracing instance cannot be read (Operation not permitted), {BY_PROC}", ANEW),
    (facts(tracing=Tracing(clock=False)), "trace-clock", WEAKER,
     "the tracing instance uses another clock than boot, so an event cannot be compared with a task's start",
     "'safe-modprobectl enable --runtime' sets it"),
    (facts(tracing=Tracing(lost=7)), "trace-loss", NOTE, "the ring has lost requests (7) since it was made",
     "look who floods it; a larger ring: echo 1024 >/sys/kernel/tracing/instances/safe-modprobe/buffer_size_kb"),
    (facts(tracing=Tracing(lost=7, doubt=True)), "trace-loss", WEAKER,
     f"the ring lost requests (7) within the last minute, {BY_PROC}",
     "look who floods it; a larger ring: echo 1024 >/sys/kernel/tracing/instances/safe-modprobe/buffer_size_kb"),
    (facts("sources = ['kernel-args']", promised=True), "words-alone", WEAKER,
     f"{ALONE_WHAT}: sources leave out those that could [50-test.toml:2]", SOURCES_MEND),
    (facts(promised=True, stacks=False), "words-alone", WEAKER,
     f"{ALONE_WHAT}: /proc/TID/stack cannot be read", "boot a kernel with CONFIG_STACKTRACE and CONFIG_KALLSYMS"),
    (facts("sources = ['kernel-args', 'tracefs']", promised=True, tracing=Tracing(there=False)), "words-alone", WEAKER,
     f"{ALONE_WHAT}: its tracing instance is not there, and sources leave out those that could [50-test.toml:2]",
     SOURCES_MEND),
    (facts("kernel_args = 'always'\nsources = ['bpf', 'kernel-args']", options={"GRKERNSEC_MODHARDEN": "y"}),
     "words-alone", WEAKER, f"{ALONE_WHAT}: sources leave out those that could [50-test.toml:3]", SOURCES_MEND),
    (facts("unknown_caller = 'privileged'"), "unknown-caller", MOOT,
     'unknown_caller is "privileged" and any user can become unknown (by killing its own request), so any user gets any'
     " module [50-test.toml:2]", 'set it to "unprivileged"'),
    (facts("kernel_args = 'always'"), "kernel-args", MOOT,
     'kernel_args is "always" and this kernel passes none, so everybody counts as root [50-test.toml:2]', ALWAYS_MEND),
    (facts("kernel_args = 'always'\nsources = ['tracefs', 'proc']"), "kernel-args", NOTE,
     'kernel_args is "always", and sources leave kernel-args out, so that it has no effect [50-test.toml:2]',
     'remove it, or add "kernel-args" to sources'),
    (facts(options={"MODULE_DEBUG_AUTOLOAD_DUPS": "y"}), "shared-refusals", WEAKER,
     "this kernel shares an answer for 60 s with all who ask for the same name, so that what is refused to a user is"
     " refused to root, too (CONFIG_MODULE_DEBUG_AUTOLOAD_DUPS)",
     "boot a kernel without it, which is for debugging; until then root uses modprobe"),
    (facts(options=None), "no-build-options", NOTE,
     "this kernel's build options are not to be found (/proc/config.gz, /boot/config-VERSION), so that what depends on"
     " them was not looked at", "install the kernel package's config file"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "key", "severity", "what", "mend"), ALONE)
def test_each_problem_alone(given: Facts, key: str, severity: Severity, what: str, mend: str) -> None:
    assert assess(given).problems == (Problem(key, severity, what, mend),)


SHORT = [
    # Rules on a machine where the kernel's words are all that is known; what is said of them.
    ("", None),
    ("modules = ['m']\naction = 'deny'", None),
    ("users = [1000]\naction = 'allow'", None),
    ("capabilities = ['CAP_SYS_MODULE']\naction = 'deny'", None),
    ("callers = 'unknown'\naction = 'deny'", None),
    ("capabilities = ['CAP_NET_ADMIN']\naction = 'allow'", None),
    ("users = [1000]\naction = 'deny'", "what refuses does so in doubt, root as well"),
    ("capabilities = ['CAP_NET_ADMIN']\naction = 'deny'", "what refuses does so in doubt, root as well"),
    ("groups = [29]\naction = 'deny'", "what refuses does so in doubt, root as well"),
    ("groups = [29]\naction = 'log'", "what lets through is for nobody"),
    ("user_namespace = 'other'\naction = 'allow'", "what lets through is for nobody"),
    ("no_new_privs = false\naction = 'allow'", "what lets through is for nobody"),
    ("executables = ['/x']\naction = 'allow'", "what lets through is for nobody"),
    ("call_sites = ['f']\naction = 'allow'", "what lets through is for nobody"),
]


@pytest.mark.parametrize(("rule", "then"), SHORT)
def test_rules_that_ask_for_more_than_the_words_say(rule: str, then: str | None) -> None:
    text = "sources = ['kernel-args']\n" + (f"[[rule]]\n{rule}" if rule else "")
    found = [each for each in assess(facts(text, promised=True)).problems if each.key != "words-alone"]
    what = f"rules ask for more than the kernel's words say, so that {then}: sources leave out those that could"
    expected = [] if then is None else [
        Problem("words-short", WEAKER, f"{what} [50-test.toml:2] [50-test.toml:3]", SOURCES_MEND)
    ]  # fmt: skip
    assert found == expected


def test_such_rules_are_named_together() -> None:
    given = facts(
        "sources = ['kernel-args']\n" + BY_UNIT.format("deny") + BY_UNIT.format("allow") + BY_UNIT.format("deny"),
        promised=True,
    )
    (found,) = [each for each in assess(given).problems if each.key == "words-short"]
    assert found.what.startswith(
        "rules ask for more than the kernel's words say, so that what refuses does so in doubt, root as well and what lets"
        " through is for nobody: "
    )
    assert found.what.endswith(" [50-test.toml:3, 50-test.toml:6, 50-test.toml:9]")


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
    facts("kernel_args = 'always'", promised=True),
    facts(promised=True, tracing=Tracing(tracefs=False, there=False)),
    facts("sources = ['kernel-args', 'proc']\n" + BY_UNIT.format("deny"), promised=True),
    facts("sources = ['kernel-args', 'tracefs']\n" + BY_UNIT.format("deny"), promised=True),
]


@pytest.mark.parametrize("given", FINE, ids=range(len(FINE)))
def test_no_problem(given: Facts) -> None:
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
def test_the_answer(given: Facts, state: State, protects: bool) -> None:
    health = assess(given)
    assert (health.state, health.protects) == (state, protects)


def test_the_weightiest_comes_first() -> None:
    given = facts("mode = 'allowed'", options=None, tracing=Tracing(there=False), current="", ours=False)
    assert [(each.key, each.severity) for each in assess(given).problems] == [
        ("no-helper", MOOT), ("mode-allowed", MOOT), ("tracefs", WEAKER), ("no-build-options", NOTE),
    ]  # fmt: skip


def test_what_would_fail_is_not_said_to_fail() -> None:
    """While another helper is the kernel's, ours does no harm."""
    given = facts(ours=False, current="/sbin/modprobe", programs=(Program(OWN, there=False),), lkrg=Lkrg(1, 1))
    said = [each.what for each in assess(given).problems][1:]
    assert said == [
        f"{OWN} is not there, so every request would fail, root's too",
        f"LKRG kills {OWN}, which is not in its list of helpers, so every request would fail, root's too",
    ]


def test_a_broken_policy_in_a_trial_goes_on() -> None:
    broken = BUILTIN_POLICY._replace(settings=BUILTIN_POLICY.settings._replace(trial=True))
    given = facts(policy=broken, policy_error="why")
    assert assess(given).problems[0].mend == "'rm /run/safe-modprobe/policy.d/00-trial.toml' ends it"
    assert [each.what for each in assess(given).problems] == [
        "a trial is on, so that nothing is refused, and what would be is recorded [built-in]",
        "the policy is broken, so that the trial goes on (why)",
    ]


def test_an_unknown_kernel_may_pass_arguments() -> None:
    found = assess(facts("kernel_args = 'always'", options=None)).problems
    assert [(each.key, each.severity) for each in found] == [("kernel-args", WEAKER), ("no-build-options", NOTE)]
    assert found[0].what == (
        'kernel_args is "always" and this kernel may pass none (its build options are not to be found), so everybody'
        " counts as root [50-test.toml:2]"
    )


NO_BPF = "no program that records callers is attached; this version has none"
NO_ARGS = "this kernel passes none"
UNKNOWN_ARGS = "nobody can say whether this kernel passes any: its build options are not to be found"
NO_STACKS = "/proc/TID/stack, which both tracefs and proc need, cannot be read here"
NO_POWER = "kernel.usermodehelper.bset leaves helpers without the capabilities to look"
LEFT_OUT = "the policy leaves it out [50-test.toml:2]"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (facts(), "kernel-args - this; bpf - none; tracefs in use; proc stands by"),
        (facts(options=None), "kernel-args - unknown; bpf - none; tracefs in use; proc stands by"),
        (facts(options={"GRKERNSEC_MODHARDEN": "y"}), "kernel-args in use; bpf - none; tracefs in use; proc stands by"),
        (facts("kernel_args = 'always'"), "kernel-args in use; bpf - none; tracefs stands by; proc stands by"),
        (facts(promised=True), "kernel-args in use; bpf - none; tracefs stands by; proc stands by"),
        (facts(promised=True, options=None), "kernel-args in use; bpf - none; tracefs stands by; proc stands by"),
        (facts(bset=without(19)), "kernel-args - this; bpf - none; tracefs - bset; proc - bset"),
        (facts(bset=without(16)), "kernel-args - this; bpf - none; tracefs in use; proc stands by"),
        (facts(stacks=False), "kernel-args - this; bpf - none; tracefs - stacks; proc - stacks"),
        (facts("sources = ['proc', 'tracefs']"), "proc in use; tracefs stands by; kernel-args - left; bpf - left"),
        (facts("sources = ['bpf']"), "bpf - none; kernel-args - left; tracefs - left; proc - left"),
    ],
)
def test_sources(given: Facts, expected: str) -> None:
    whys = {
        "this": NO_ARGS,
        "unknown": UNKNOWN_ARGS,
        "none": NO_BPF,
        "stacks": NO_STACKS,
        "bset": NO_POWER,
        "left": LEFT_OUT,
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


def test_every_key_has_a_row() -> None:
    """A problem that no row shows could say anything."""
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
    assert keys == {key for _, key, *_ in ALONE} | {"words-short"}  # which is never alone: SHORT


def test_the_modes_and_actions_are_the_ones_that_were_thought_of() -> None:
    assert len(Mode) == 4 and len(Action) == 3 and len(Source) == 5
