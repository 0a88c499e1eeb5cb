"""Decisions of the helper on a kernel without tracing, where kernel arguments are the only source. One row a test."""

import errno
import os
import time

from guest import Guest
from requesters import (
    ADMIN,
    CLONE_NEWNET,
    CLONE_NEWNS,
    MODULE,
    NET,
    RAW,
    adds_link,
    and_then,
    assert_kernel_healthy,
    chooses_congestion_control,
    console,
    declares,
    enters_without_a_map,
    looks_at_interface,
    mounts,
    wait_for_helpers,
)

MODULES = (
    "smp_nested", "smp_nested_nowait", "smp_nested_marked", "smp_softdep", "smp_needs_marked", "smp_net_admin",
    "smp_marked", "smp_open", "smp_no_fs", "configfs", "ipip", "tunnel4", "ip_tunnel", "tcp_vegas", "dummy",
    "algif_aead", "algif_hash", "af_alg", "authencesn", "authenc",
)  # fmt: skip
POLICY = "/etc/safe-modprobe/policy.d"
MARKED, OPEN, NET_ADMIN, NESTED, NESTED_NOWAIT, SOFTDEP = 21, 42, 37, 33, 34, 36


def setup(guest: Guest) -> None:
    """Before each test: switch safe-modprobe on with kernel arguments as the only source, and unload test modules."""
    guest.sh("modprobe -q smp_declare; umount /mnt; ip link del dummy0")
    guest.unload(*MODULES)
    guest.sh(f"rm -f {POLICY}/20-site.toml /run/safe-modprobe/loads.ended")
    guest.write(f"{POLICY}/10-kernel.toml", '[settings]\nsources = ["kernel-args"]\n')
    guest.write("/proc/sys/kernel/modprobe", "/usr/sbin/safe-modprobe\n")


def socket(family: int, kind: int = 1):
    return lambda guest: guest.ask_socket(family, kind)


# name: (uid, caps, in a user namespace, request, module, whether it must be loaded afterwards)
ROWS = {
    "a user, a marked module": (1000, (), False, socket(MARKED), "smp_marked", False),
    "a user, a module that is not marked": (1000, (), False, socket(OPEN), "smp_open", True),
    "root, a marked module": (0, None, False, socket(MARKED), "smp_marked", True),
    "uid 0 without capabilities": (0, (), False, socket(MARKED), "smp_marked", False),
    "uid 0 with other capabilities": (0, NET + ADMIN + RAW, False, socket(MARKED), "smp_marked", False),
    "a user with CAP_SYS_MODULE": (1000, MODULE, False, socket(MARKED), "smp_marked", True),
    "root in a user namespace that a user made": (1000, (), True, socket(MARKED), "smp_marked", False),
    "root in a user namespace that root made": (0, None, True, socket(MARKED), "smp_marked", False),
    "a uid that the namespace does not map": (
        1000, (), False, and_then(enters_without_a_map, socket(MARKED)), "smp_marked", False
    ),
    "the highest uid": (4294967294, (), False, socket(MARKED), "smp_marked", False),
    "request_module_nowait() by root": (0, None, False, lambda guest: guest.ask_nowait(b"smp_marked"), "smp_marked", True),
    "request_module_nowait() by a user": (1000, (), False, lambda guest: guest.ask_nowait(b"smp_marked"), "smp_marked", False),
    "request_module_nowait() by a user, a module that is not marked": (1000, (), False, lambda guest: guest.ask_nowait(b"smp_open"), "smp_open", True),
    "request_module_nowait() by uid 0 without capabilities": (0, (), False, lambda guest: guest.ask_nowait(b"smp_marked"), "smp_marked", False),
    "a kernel thread of the kernel's own": (1000, (), False, lambda guest: guest.ask_kthread(b"k", b"smp_marked"), "smp_marked", True),
    # Call sites.
    "CAP_NET_ADMIN looks at an interface": (1000, NET, False, lambda _: looks_at_interface(b"tunl0"), "ipip", True),
    "root looks at an interface": (0, None, False, lambda _: looks_at_interface(b"tunl0"), "ipip", True),
    "a user looks at an interface": (1000, (), False, lambda _: looks_at_interface(b"tunl0"), "ipip", False),
    "root in a user namespace looks at an interface": (1000, (), True, lambda _: looks_at_interface(b"tunl0"), "ipip", False),
    "a bare interface's name, by root": (0, None, False, lambda _: looks_at_interface(b"dummy"), "dummy", True),
    "a bare interface's name, by a user": (1000, (), False, lambda _: looks_at_interface(b"dummy"), "dummy", False),
    "CAP_NET_ADMIN chooses congestion control": (1000, NET, False, lambda _: chooses_congestion_control(b"vegas"), "tcp_vegas", True),
    "CAP_NET_RAW chooses congestion control": (1000, RAW, False, lambda _: chooses_congestion_control(b"vegas"), "tcp_vegas", False),
    "CAP_NET_ADMIN adds a link": (1000, NET, False, lambda _: adds_link(b"dummy"), "dummy", True),
    "root in a user namespace adds a link": (1000, (), True, lambda _: adds_link(b"dummy", CLONE_NEWNET), "dummy", False),
    "the capability that the marker names, declared and held": (
        1000, NET, False, lambda _: declares(12, b"smp_", b"smp_net_admin"), "smp_net_admin", True
    ),
    "the capability that the marker names, declared and not held": (
        1000, ADMIN, False, lambda _: declares(12, b"smp_", b"smp_net_admin"), "smp_net_admin", False
    ),
    "the capability that the marker names, held in a user namespace": (
        1000, (), True, lambda _: declares(12, b"smp_", b"smp_net_admin"), "smp_net_admin", False
    ),
    "a capability that no marker names, declared and held": (
        1000, ADMIN, False, lambda _: declares(21, b"smp_", b"smp_marked"), "smp_marked", False
    ),
    "the capability held, and not declared": (1000, NET, False, lambda guest: guest.ask_raw(b"smp_net_admin"), "smp_net_admin", False),
    "the capability held, and declared for another prefix": (
        1000, NET, False, lambda _: declares(12, b"net-", b"smp_net_admin"), "smp_net_admin", False
    ),
    "root, and the name is outside of the declaration": (0, None, False, lambda _: declares(12, b"net-", b"smp_marked"), "smp_marked", False),
    # mount(2).
    "root mounts": (0, None, False, lambda _: mounts(b"configfs"), "configfs", True),
    "CAP_SYS_ADMIN mounts": (1000, ADMIN, False, lambda _: mounts(b"configfs"), "configfs", True),
    "CAP_NET_ADMIN does not mount": (1000, NET, False, lambda _: mounts(b"configfs"), "configfs", False),
    "root in a user namespace that a user made mounts": (1000, (), True, lambda _: mounts(b"configfs", CLONE_NEWNS), "configfs", False),
    "root in a user namespace that root made mounts": (0, None, True, lambda _: mounts(b"configfs", CLONE_NEWNS), "configfs", False),
    "root mounts with a module that registers no file system": (0, None, False, lambda _: mounts(b"smp_no_fs"), "smp_no_fs", False),
    # A request by a module's init inherits the caller of the load.
    "a module that root loads requests another": (0, None, False, socket(NESTED), "smp_nested_marked", True),
    "a module that a user loads requests another": (1000, (), False, socket(NESTED), "smp_nested_marked", False),
    "the module that a user loads is loaded itself": (1000, (), False, socket(NESTED), "smp_nested", True),
    "a module that root loads requests another without waiting": (0, None, False, socket(NESTED_NOWAIT), "smp_nested_marked", True),
    "a module that a user loads requests another without waiting": (1000, (), False, socket(NESTED_NOWAIT), "smp_nested_marked", False),
    "root's soft dependency": (0, None, False, socket(SOFTDEP), "smp_marked", True),
    "a user's soft dependency": (1000, (), False, socket(SOFTDEP), "smp_marked", False),
}  # fmt: skip


def row(guest: Guest, uid: int, caps, user_namespace: bool, ask, module: str, loaded: bool) -> None:
    guest.run_as(uid, lambda: ask(guest), caps=caps, user_namespace=user_namespace)
    expect(guest, module, loaded)
    assert_kernel_healthy(guest)


def expect(guest: Guest, module: str, loaded: bool) -> None:
    """Check whether the module is loaded, once no helper runs any more. A request without waiting returns earlier."""
    wait_for_helpers()
    assert (module in guest.modules()) is loaded, (module, guest.log()[-3:])


def test_a_deputy_gets_what_its_requester_may_load(guest: Guest) -> None:
    """The kernel thread cryptomgr_probe requests authencesn, which is marked."""
    name = b"authencesn(hmac(sha256),cbc(aes))"
    guest.sh("modprobe -a af_alg algif_aead")
    for uid, loaded in ((1000, False), (0, True)):
        error = guest.run_as(uid, lambda: guest.ask_alg_bind(b"aead", name))
        expect(guest, "authencesn", loaded)
        assert (error == 0) is loaded, (uid, errno.errorcode.get(error), guest.log()[-3:])


def test_a_rule_can_match_the_uid(guest: Guest) -> None:
    guest.write(
        f"{POLICY}/20-site.toml", 'rule = [{ modules = ["smp_marked"], users = [1001, 0], action = "allow" }]\n'
    )
    for uid, caps, loaded in ((1000, (), False), (1001, (), True), (0, (), True)):
        guest.unload("smp_marked")
        guest.run_as(uid, lambda: guest.ask_socket(MARKED), caps=caps)
        expect(guest, "smp_marked", loaded)


def shell(guest: Guest, uid: int, name: str, through: str = "smp_ask") -> None:
    """Call request_module() in dash. All other requesters here run Python."""
    guest.run_as(uid, lambda: guest.sh(f"echo -n {name} >/proc/{through}"))


SHELL, PYTHON = True, False
RULE = "[settings]\nsources = [{}]\n[[rule]]\n{}\n"
DENY_PYTHON = 'executables = ["/usr/bin/python3*"]\naction = "deny"'
DENY_GROUP = 'modules = ["smp_open"]\ngroups = [1001]\naction = "deny"'
DENY_NAMESPACE = 'modules = ["smp_open"]\nuser_namespace = "other"\naction = "deny"'
DENY_USER = 'modules = ["smp_marked"]\nusers = [1001]\naction = "deny"'
ALLOW_GROUP = 'modules = ["smp_marked"]\ngroups = [1001]\naction = "allow"'
ALLOW_SHELL = 'modules = ["smp_marked"]\nusers = [1001]\nexecutables = ["/usr/bin/dash"]\naction = "allow"'
DETAIL_ROWS = (
    # (rule; uid, in a user namespace, by a shell; module; whether it is loaded with proc as a second source, and with
    # kernel arguments as the only source).
    (DENY_PYTHON, 0, False, PYTHON, "smp_marked", False, False),
    (DENY_PYTHON, 0, False, SHELL, "smp_marked", True, False),
    (DENY_PYTHON, 1000, False, PYTHON, "smp_open", False, False),
    (DENY_PYTHON, 1000, False, SHELL, "smp_open", True, False),
    (DENY_PYTHON, 1000, False, SHELL, "smp_marked", False, False),
    (DENY_GROUP, 1000, False, PYTHON, "smp_open", True, False),
    (DENY_GROUP, 1001, False, PYTHON, "smp_open", False, False),
    (DENY_GROUP, 0, False, PYTHON, "smp_open", True, False),
    (DENY_GROUP, 0, False, PYTHON, "smp_marked", True, True),
    (DENY_NAMESPACE, 1000, False, PYTHON, "smp_open", True, False),
    (DENY_NAMESPACE, 1000, True, PYTHON, "smp_open", False, False),
    (DENY_NAMESPACE, 0, False, PYTHON, "smp_open", True, True),
    (DENY_USER, 0, False, PYTHON, "smp_marked", True, False),
    (ALLOW_GROUP, 1001, False, PYTHON, "smp_marked", True, False),
    (ALLOW_GROUP, 1000, False, PYTHON, "smp_marked", False, False),
    (ALLOW_GROUP, 0, False, PYTHON, "smp_marked", True, True),
    (ALLOW_SHELL, 1001, False, SHELL, "smp_marked", True, False),
    (ALLOW_SHELL, 1001, False, PYTHON, "smp_marked", False, False),
    (ALLOW_SHELL, 1000, False, SHELL, "smp_marked", False, False),
)


def request_under_rule(
    guest: Guest, sources: str, rule: str, uid: int, user_namespace: bool, by_shell: bool, name: str
) -> None:
    guest.unload("smp_open", "smp_marked")
    guest.sh("rm -f /run/safe-modprobe/loads.ended")
    guest.write(f"{POLICY}/10-kernel.toml", RULE.format(sources, rule))
    if by_shell:
        shell(guest, uid, name)
    else:
        guest.run_as(uid, lambda: guest.ask_raw(name.encode()), user_namespace=user_namespace)
    wait_for_helpers()


def test_proc_completes_what_kernel_arguments_leave_out(guest: Guest) -> None:
    for rule, uid, user_namespace, by_shell, name, loaded, _ in DETAIL_ROWS:
        request_under_rule(guest, '"kernel-args", "proc"', rule, uid, user_namespace, by_shell, name)
        assert (name in guest.modules()) is loaded, (rule, uid, by_shell, guest.log()[-1:])


def test_without_proc_a_deny_rule_matches_unknown_details(guest: Guest) -> None:
    for rule, uid, user_namespace, by_shell, name, _, loaded in DETAIL_ROWS:
        request_under_rule(guest, '"kernel-args"', rule, uid, user_namespace, by_shell, name)
        assert (name in guest.modules()) is loaded, (rule, uid, by_shell, guest.log()[-1:])


def test_proc_cannot_find_a_requester_that_does_not_wait(guest: Guest) -> None:
    """So the deny rule matches root for the module that it names, and for no other."""
    for name, loaded in (("smp_marked", True), ("smp_open", False)):
        guest.write(f"{POLICY}/10-kernel.toml", RULE.format('"kernel-args", "proc"', DENY_GROUP))
        guest.run_as(0, lambda name=name: guest.ask_nowait(name.encode()))
        expect(guest, name, loaded)
    assert (
        "details about the caller are missing" in guest.log()[-1] and "a caller with CAP_SYS_MODULE" in guest.log()[-1]
    ), guest.log()[-1]


def test_a_kernel_thread_does_not_have_its_users_groups(guest: Guest) -> None:
    """Kernel arguments name the kernel as the caller, and proc finds a kernel thread of uid 0."""
    for source, loaded in (('"kernel-args", "proc"', True), ('"kernel-args"', False)):
        guest.unload("smp_open")
        guest.write(f"{POLICY}/10-kernel.toml", RULE.format(source, DENY_GROUP))
        guest.run_as(1001, lambda: guest.ask_kthread(b"k", b"smp_open"))
        expect(guest, "smp_open", loaded)


def test_a_record_names_the_caller(guest: Guest) -> None:
    for uid in (1000, 4294967294):
        guest.run_as(uid, lambda: guest.ask_socket(MARKED))
        assert f"denied 'net-pf-21' (smp_marked) to uid {uid}" in guest.log()[-1], guest.log()[-1:]


def test_a_refusal_looks_to_the_requester_like_a_missing_module(guest: Guest) -> None:
    assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 256
    assert guest.run_as(1000, lambda: guest.ask_socket(MARKED)) == errno.EAFNOSUPPORT
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0
    assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 0, "the module is already loaded"


def test_the_default_policy_decides_the_same(guest: Guest) -> None:
    """Its setting is kernel_args = "optional", and kernel.modprobe_caller_args is 1."""
    guest.sh(f"rm {POLICY}/10-kernel.toml")
    for uid, caps, loaded in ((1000, (), False), (0, (), False), (0, None, True)):
        guest.unload("smp_marked")
        guest.run_as(uid, lambda: guest.ask_socket(MARKED), caps=caps)
        expect(guest, "smp_marked", loaded)
    assert guest.run_as(0, lambda: mounts(b"configfs")) == 0


def test_missing_arguments_mean_unprivileged_shortly_after_a_users_load(guest: Guest) -> None:
    """A request by the init of that module looks like one by root."""
    guest.run_as(1000, lambda: guest.ask_socket(OPEN))
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0
    guest.unload("smp_marked")
    guest.run_as(0, lambda: guest.ask_nowait(b"smp_marked"))
    expect(guest, "smp_marked", False)
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 61 * 10**9
    os.utime("/run/safe-modprobe/loads.ended", ns=(ended, ended))  # as if a minute had passed
    guest.run_as(0, lambda: guest.ask_nowait(b"smp_marked"))
    expect(guest, "smp_marked", True)


def test_malformed_kernel_arguments_grant_nothing(guest: Guest) -> None:
    rows = (
        ("grsec_modharden_normal1000_ modharden_cap16_", 1),
        ("modharden_cap12_", 1),
        ("grsec_modharden_normal1000_ modharden_cap12_", 0),
        ("grsec_modharden_normal1000_ modharden_cap12_ x", 1),
        ("modharden_cap12_ grsec_modharden_normal1000_", 1),
        ("'grsec_modharden_normal1000_ modharden_cap12_'", 1),
    )
    for words, code in rows:
        assert guest.sh(f"safe-modprobe -q -- smp_net_admin {words}").returncode == code, words
        guest.unload("smp_net_admin")


def test_a_broken_helper_still_loads_file_systems_for_root(guest: Guest) -> None:
    """The last resort runs modprobe(8) for callers with CAP_SYS_MODULE, also when the kernel passes "fs"."""
    path = "/usr/lib/safe-modprobe/safe_modprobe/log/report.py"
    code = guest.sh(f"ls {os.path.dirname(path)}/__pycache__/report.*").stdout.strip()
    guest.sh(f"cp {path} /run/report.py; mv {code} /run/report.pyc; echo 'raise RuntimeError' >{path}")
    try:
        guest.run_as(1000, lambda: mounts(b"configfs", CLONE_NEWNS), user_namespace=True)
        guest.run_as(1000, lambda: guest.ask_raw(b"smp_open"))
        assert not {"configfs", "smp_open"} & guest.modules()
    finally:
        guest.sh(f"cp /run/report.py {path}; mv /run/report.pyc {code}")
    assert guest.run_as(0, lambda: mounts(b"configfs")) == 0


def test_enable_needs_no_tracing_on_a_patched_kernel(guest: Guest) -> None:
    guest.write("/proc/sys/kernel/modprobe", "/sbin/modprobe\n")
    done = guest.sh("safe-modprobectl enable --runtime")
    assert (done.returncode, done.stderr) == (0, ""), done
    status = guest.sh("safe-modprobectl status --json").stdout
    assert '"kernel-args"' in status, status
    assert not [line for line in console(guest) if "Traceback" in line]
