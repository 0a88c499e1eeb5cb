"""Decisions with the kernel's words as the only source, and no tracing in the kernel: who gets what, one row a test."""

import errno
import os
import time

from asking import (
    ADMIN,
    CLONE_NEWNET,
    CLONE_NEWNS,
    MODULE,
    NET,
    RAW,
    adds_link,
    and_then,
    chooses_congestion_control,
    console,
    declares,
    enters_without_a_map,
    looks_at_interface,
    mounts,
    unharmed,
    wait_for_helpers,
)
from guest import Guest

MODULES = (
    "smp_nested", "smp_nested_nowait", "smp_nested_marked", "smp_softdep", "smp_needs_marked", "smp_net_admin",
    "smp_marked", "smp_open", "smp_no_fs", "configfs", "ipip", "tunnel4", "ip_tunnel", "tcp_vegas", "dummy",
    "algif_aead", "algif_hash", "af_alg", "authencesn", "authenc",
)  # fmt: skip
POLICY = "/etc/safe-modprobe/policy.d"
MARKED, OPEN, NET_ADMIN, NESTED, NESTED_NOWAIT, SOFTDEP = 21, 42, 37, 33, 34, 36


def setup(guest: Guest) -> None:
    """Before each test: switched on, the kernel's words alone say who asks, and nothing of ours in the kernel."""
    guest.sh("modprobe -q smp_declare; umount /mnt; ip link del dummy0")
    guest.unload(*MODULES)
    guest.sh(f"rm -f {POLICY}/20-site.toml /run/safe-modprobe/loads.ended")
    guest.write(f"{POLICY}/10-kernel.toml", '[settings]\nsources = ["kernel-args"]\n')
    guest.write("/proc/sys/kernel/modprobe", "/usr/sbin/safe-modprobe\n")


def socket(family: int, kind: int = 1):
    return lambda guest: guest.ask_socket(family, kind)


# name: (uid, caps, in a user namespace, what it does, the module, whether it is loaded)
ROWS = {
    "a user, a marked module": (1000, (), False, socket(MARKED), "smp_marked", False),
    "a user, a module that is not marked": (1000, (), False, socket(OPEN), "smp_open", True),
    "root, a marked module": (0, None, False, socket(MARKED), "smp_marked", True),
    "uid 0 without capabilities": (0, (), False, socket(MARKED), "smp_marked", False),
    "uid 0 with other capabilities": (0, NET + ADMIN + RAW, False, socket(MARKED), "smp_marked", False),
    "a user with CAP_SYS_MODULE": (1000, MODULE, False, socket(MARKED), "smp_marked", True),
    "root of a user namespace": (1000, (), True, socket(MARKED), "smp_marked", False),
    "root of root's user namespace": (0, None, True, socket(MARKED), "smp_marked", False),
    "a uid that the namespace does not map": (
        1000, (), False, and_then(enters_without_a_map, socket(MARKED)), "smp_marked", False
    ),
    "the last uid": (4294967294, (), False, socket(MARKED), "smp_marked", False),
    "root, and nobody waits": (0, None, False, lambda guest: guest.ask_nowait(b"smp_marked"), "smp_marked", True),
    "a user, and nobody waits": (1000, (), False, lambda guest: guest.ask_nowait(b"smp_marked"), "smp_marked", False),
    "a user, and nobody waits for what is not marked": (1000, (), False, lambda guest: guest.ask_nowait(b"smp_open"), "smp_open", True),
    "uid 0 without capabilities, and nobody waits": (0, (), False, lambda guest: guest.ask_nowait(b"smp_marked"), "smp_marked", False),
    "a kernel thread of the kernel's own": (1000, (), False, lambda guest: guest.ask_kthread(b"k", b"smp_marked"), "smp_marked", True),
    # call sites
    "CAP_NET_ADMIN looks at an interface": (1000, NET, False, lambda _: looks_at_interface(b"tunl0"), "ipip", True),
    "root looks at an interface": (0, None, False, lambda _: looks_at_interface(b"tunl0"), "ipip", True),
    "a user looks at an interface": (1000, (), False, lambda _: looks_at_interface(b"tunl0"), "ipip", False),
    "root of a user namespace looks at an interface": (1000, (), True, lambda _: looks_at_interface(b"tunl0"), "ipip", False),
    "a bare interface's name, by root": (0, None, False, lambda _: looks_at_interface(b"dummy"), "dummy", True),
    "a bare interface's name, by a user": (1000, (), False, lambda _: looks_at_interface(b"dummy"), "dummy", False),
    "CAP_NET_ADMIN chooses congestion control": (1000, NET, False, lambda _: chooses_congestion_control(b"vegas"), "tcp_vegas", True),
    "CAP_NET_RAW chooses congestion control": (1000, RAW, False, lambda _: chooses_congestion_control(b"vegas"), "tcp_vegas", False),
    "CAP_NET_ADMIN adds a link": (1000, NET, False, lambda _: adds_link(b"dummy"), "dummy", True),
    "root of a user namespace adds a link": (1000, (), True, lambda _: adds_link(b"dummy", CLONE_NEWNET), "dummy", False),
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
    "root, by a call site's mistake": (0, None, False, lambda _: declares(12, b"net-", b"smp_marked"), "smp_marked", False),
    # mount(2)
    "root mounts": (0, None, False, lambda _: mounts(b"configfs"), "configfs", True),
    "CAP_SYS_ADMIN mounts": (1000, ADMIN, False, lambda _: mounts(b"configfs"), "configfs", True),
    "CAP_NET_ADMIN does not mount": (1000, NET, False, lambda _: mounts(b"configfs"), "configfs", False),
    "root of a user namespace mounts": (1000, (), True, lambda _: mounts(b"configfs", CLONE_NEWNS), "configfs", False),
    "root of root's user namespace mounts": (0, None, True, lambda _: mounts(b"configfs", CLONE_NEWNS), "configfs", False),
    "root mounts what is no file system": (0, None, False, lambda _: mounts(b"smp_no_fs"), "smp_no_fs", False),
    # whom a module's own request is for
    "root's module asks for another": (0, None, False, socket(NESTED), "smp_nested_marked", True),
    "a user's module asks for another": (1000, (), False, socket(NESTED), "smp_nested_marked", False),
    "a user's module is loaded all the same": (1000, (), False, socket(NESTED), "smp_nested", True),
    "root's module asks, and does not wait": (0, None, False, socket(NESTED_NOWAIT), "smp_nested_marked", True),
    "a user's module asks, and does not wait": (1000, (), False, socket(NESTED_NOWAIT), "smp_nested_marked", False),
    "root's soft dependency": (0, None, False, socket(SOFTDEP), "smp_marked", True),
    "a user's soft dependency": (1000, (), False, socket(SOFTDEP), "smp_marked", False),
}  # fmt: skip


def row(guest: Guest, uid: int, caps, user_namespace: bool, ask, module: str, loaded: bool) -> None:
    guest.run_as(uid, lambda: ask(guest), caps=caps, user_namespace=user_namespace)
    expect(guest, module, loaded)
    unharmed(guest)


def expect(guest: Guest, module: str, loaded: bool) -> None:
    """Once no helper is at work any more: whoever does not wait for its request is back before it is answered."""
    wait_for_helpers()
    assert (module in guest.modules()) is loaded, (module, guest.log()[-3:])


def test_the_deputy_gets_what_its_user_may_have(guest: Guest) -> None:
    """cryptomgr_probe asks for authencesn, which is marked."""
    name = b"authencesn(hmac(sha256),cbc(aes))"
    guest.sh("modprobe -a af_alg algif_aead")
    for uid, loaded in ((1000, False), (0, True)):
        done = guest.run_as(uid, lambda: guest.ask_alg_bind(b"aead", name))
        expect(guest, "authencesn", loaded)
        assert (done == 0) is loaded, (uid, errno.errorcode.get(done), guest.log()[-3:])


def test_rules_know_the_uid(guest: Guest) -> None:
    guest.write(
        f"{POLICY}/20-site.toml", 'rule = [{ modules = ["smp_marked"], users = [1001, 0], action = "allow" }]\n'
    )
    for uid, caps, loaded in ((1000, (), False), (1001, (), True), (0, (), True)):
        guest.unload("smp_marked")
        guest.run_as(uid, lambda: guest.ask_socket(MARKED), caps=caps)
        expect(guest, "smp_marked", loaded)


def shell(guest: Guest, uid: int, name: str, through: str = "smp_ask") -> None:
    """request_module() by dash, which is another program than what the other callers here run in."""
    guest.run_as(uid, lambda: guest.sh(f"echo -n {name} >/proc/{through}"))


SHELL, PYTHON = True, False
RULE = "[settings]\nsources = [{}]\n[[rule]]\n{}\n"
DENY_PYTHON = 'executables = ["/usr/bin/python3*"]\naction = "deny"'
DENY_GROUP = 'modules = ["smp_open"]\ngroups = [1001]\naction = "deny"'
DENY_NAMESPACE = 'modules = ["smp_open"]\nuser_namespace = "other"\naction = "deny"'
DENY_USER = 'modules = ["smp_marked"]\nusers = [1001]\naction = "deny"'
ALLOW_GROUP = 'modules = ["smp_marked"]\ngroups = [1001]\naction = "allow"'
ALLOW_SHELL = 'modules = ["smp_marked"]\nusers = [1001]\nexecutables = ["/usr/bin/dash"]\naction = "allow"'
BY_MORE = (
    # A rule; uid, in a user namespace, by a shell; the module; whether it is loaded where proc says the rest, and where
    # the words are all that is known.
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


def by_more(guest: Guest, sources: str, rule: str, uid: int, user_namespace: bool, by_shell: bool, name: str) -> None:
    guest.unload("smp_open", "smp_marked")
    guest.sh("rm -f /run/safe-modprobe/loads.ended")
    guest.write(f"{POLICY}/10-kernel.toml", RULE.format(sources, rule))
    if by_shell:
        shell(guest, uid, name)
    else:
        guest.run_as(uid, lambda: guest.ask_raw(name.encode()), user_namespace=user_namespace)
    wait_for_helpers()


def test_a_rule_by_more_than_the_words_asks_proc(guest: Guest) -> None:
    for rule, uid, user_namespace, by_shell, name, loaded, _ in BY_MORE:
        by_more(guest, '"kernel-args", "proc"', rule, uid, user_namespace, by_shell, name)
        assert (name in guest.modules()) is loaded, (rule, uid, by_shell, guest.log()[-1:])


def test_a_rule_by_more_than_is_known_refuses_in_doubt(guest: Guest) -> None:
    for rule, uid, user_namespace, by_shell, name, _, loaded in BY_MORE:
        by_more(guest, '"kernel-args"', rule, uid, user_namespace, by_shell, name)
        assert (name in guest.modules()) is loaded, (rule, uid, by_shell, guest.log()[-1:])


def test_of_whom_nobody_waits_for_no_more_is_known(guest: Guest) -> None:
    """Root is refused what such a rule names, and nothing else."""
    for name, loaded in (("smp_marked", True), ("smp_open", False)):
        guest.write(f"{POLICY}/10-kernel.toml", RULE.format('"kernel-args", "proc"', DENY_GROUP))
        guest.run_as(0, lambda name=name: guest.ask_nowait(name.encode()))
        expect(guest, name, loaded)
    assert (
        "details about the caller are missing" in guest.log()[-1] and "a caller with CAP_SYS_MODULE" in guest.log()[-1]
    ), guest.log()[-1]


def test_a_kernel_thread_of_a_user_has_no_group_of_his(guest: Guest) -> None:
    """By the words it is the kernel; proc sees a kernel thread of uid 0."""
    for source, loaded in (('"kernel-args", "proc"', True), ('"kernel-args"', False)):
        guest.unload("smp_open")
        guest.write(f"{POLICY}/10-kernel.toml", RULE.format(source, DENY_GROUP))
        guest.run_as(1001, lambda: guest.ask_kthread(b"k", b"smp_open"))
        expect(guest, "smp_open", loaded)


def test_a_record_names_the_caller(guest: Guest) -> None:
    for uid in (1000, 4294967294):
        guest.run_as(uid, lambda: guest.ask_socket(MARKED))
        assert f"denied 'net-pf-21' (smp_marked) to uid {uid}" in guest.log()[-1], guest.log()[-1:]


def test_the_requester_learns_of_the_refusal_what_it_always_did(guest: Guest) -> None:
    assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 256
    assert guest.run_as(1000, lambda: guest.ask_socket(MARKED)) == errno.EAFNOSUPPORT
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0
    assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 0, "it is in already"


def test_without_the_policys_word_on_sources_it_is_the_same(guest: Guest) -> None:
    """The default policy: kernel_args = "optional", and the kernel promises."""
    guest.sh(f"rm {POLICY}/10-kernel.toml")
    for uid, caps, loaded in ((1000, (), False), (0, (), False), (0, None, True)):
        guest.unload("smp_marked")
        guest.run_as(uid, lambda: guest.ask_socket(MARKED), caps=caps)
        expect(guest, "smp_marked", loaded)
    assert guest.run_as(0, lambda: mounts(b"configfs")) == 0


def test_a_load_for_a_user_casts_doubt_on_silence_while_it_lasts(guest: Guest) -> None:
    """What a module's init asks for cannot be told from what root asks for at the same time."""
    guest.run_as(1000, lambda: guest.ask_socket(OPEN))
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0
    guest.unload("smp_marked")
    guest.run_as(0, lambda: guest.ask_nowait(b"smp_marked"))
    expect(guest, "smp_marked", False)
    over = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 61 * 10**9
    os.utime("/run/safe-modprobe/loads.ended", ns=(over, over))  # as if a minute were over
    guest.run_as(0, lambda: guest.ask_nowait(b"smp_marked"))
    expect(guest, "smp_marked", True)


def test_arguments_that_no_kernel_writes_are_nobodys(guest: Guest) -> None:
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


def test_a_broken_helper_leaves_root_its_file_systems(guest: Guest) -> None:
    """The last resort: whoever holds CAP_SYS_MODULE is left to modprobe(8), with the kernel's word for a mount."""
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


def test_enable_needs_no_tracing_here(guest: Guest) -> None:
    guest.write("/proc/sys/kernel/modprobe", "/sbin/modprobe\n")
    done = guest.sh("safe-modprobectl enable --runtime")
    assert (done.returncode, done.stderr) == (0, ""), done
    said = guest.sh("safe-modprobectl status --json").stdout
    assert '"kernel-args"' in said, said
    assert not [line for line in console(guest) if "Traceback" in line]
