"""What the kernel tells its helper, word for word: each row is somebody who makes it ask for a module."""

import errno
import os

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
    normal,
    opened_by,
    record,
    recorded,
    unharmed,
)
from guest import Guest

FS, NETDEV = b"grsec_modharden_fs", b"grsec_modharden_netdev"
LAST_UID = 4294967294
LONG = b"x" * 55
NET_HELD, ADMIN_HELD = b"modharden_cap12_", b"modharden_cap21_"


def setup(guest: Guest) -> None:
    """Before each test: the helper that writes down, and nothing of what is asked for in the kernel."""
    guest.sh("modprobe -q smp_declare; umount /mnt")
    guest.unload("algif_aead", "algif_hash", "af_alg", "authencesn", "authenc", "tcp_vegas", "configfs", "dummy")
    record(guest)


def plain(name: bytes):
    return lambda guest: guest.ask_raw(name)


def becomes(real: int, effective: int, saved: int):
    return lambda: os.setresuid(real, effective, saved)


# name: (uid, caps, in a user namespace, what it does, [[name, words...], ...])
ROWS = {
    "root": (0, None, False, plain(b"a"), [[b"a"]]),
    "a user": (1000, (), False, plain(b"a"), [[b"a", normal(1000)]]),
    "the last uid": (LAST_UID, (), False, plain(LONG), [[LONG, normal(LAST_UID)]]),
    "a user with CAP_SYS_MODULE": (1000, MODULE, False, plain(b"a"), [[b"a"]]),
    "a user with all else": (1000, NET + ADMIN + RAW, False, plain(b"a"), [[b"a", normal(1000)]]),
    "uid 0 without capabilities": (0, (), False, plain(b"a"), [[b"a", normal(0)]]),
    "uid 0 with all but CAP_SYS_MODULE": (0, NET + ADMIN + RAW, False, plain(b"a"), [[b"a", normal(0)]]),
    "root of a user namespace": (1000, (), True, plain(b"a"), [[b"a", normal(1000)]]),
    "root of root's user namespace": (0, None, True, plain(b"a"), [[b"a", normal(0)]]),
    "a uid that the namespace does not map": (
        1000, (), False, and_then(enters_without_a_map, plain(b"a")), [[b"a", normal(1000)]]
    ),
    "root whom the namespace does not map": (
        0, None, False, and_then(enters_without_a_map, plain(b"a")), [[b"a", normal(0)]]
    ),
    "a set-user-ID program of root's": (0, None, False, and_then(becomes(1000, 0, 0), plain(b"a")), [[b"a"]]),
    "root as somebody else for a while": (0, None, False, and_then(becomes(0, 1000, 0), plain(b"a")), [[b"a", normal(0)]]),
    "a kernel thread of the kernel's own": (1000, (), False, lambda guest: guest.ask_kthread(b"broker", b"a"), [[b"a"]]),
    "nobody waits, for a user": (1000, (), False, lambda guest: guest.ask_nowait(b"a"), [[b"a", normal(1000)]]),
    "nobody waits, for root": (0, None, False, lambda guest: guest.ask_nowait(b"a"), [[b"a"]]),
    "nobody waits, for uid 0 without capabilities": (0, (), False, lambda guest: guest.ask_nowait(b"a"), [[b"a", normal(0)]]),
    "nobody waits, for root of a user namespace": (1000, (), True, lambda guest: guest.ask_nowait(b"a"), [[b"a", normal(1000)]]),
    # names are anybody's bytes, and stay one word
    "a name with the words in it": (
        1000, (), False, plain(b"a grsec_modharden_fs"), [[b"a grsec_modharden_fs", normal(1000)]]
    ),
    "a name of spaces and newlines": (1000, (), False, plain(b" \n -- "), [[b" \n -- ", normal(1000)]]),
    "a name that looks like an option": (1000, (), False, plain(b"-r"), [[b"-r", normal(1000)]]),
    # mount(2)
    "root mounts": (0, None, False, lambda _: mounts(b"nosuch"), [[b"fs-nosuch", FS]]),
    "a user with CAP_SYS_ADMIN mounts": (
        1000, ADMIN, False, lambda _: mounts(b"nosuch"), [[b"fs-nosuch", FS, normal(1000), ADMIN_HELD]]
    ),
    "the longest words": (
        LAST_UID, ADMIN, False, lambda _: mounts(b"x" * 52), [[b"fs-" + b"x" * 52, FS, normal(LAST_UID), ADMIN_HELD]]
    ),
    "a name that is too long to mount": (0, None, False, lambda _: mounts(b"x" * 53), []),
    "a user with CAP_SYS_ADMIN and CAP_SYS_MODULE mounts": (
        1000, ADMIN + MODULE, False, lambda _: mounts(b"nosuch"), [[b"fs-nosuch", FS]]
    ),
    "root of a user namespace mounts": (
        1000, (), True, lambda _: mounts(b"nosuch", CLONE_NEWNS), [[b"fs-nosuch", FS, normal(1000)]]
    ),
    "root of root's user namespace mounts": (
        0, None, True, lambda _: mounts(b"nosuch", CLONE_NEWNS), [[b"fs-nosuch", FS, normal(0)]]
    ),
    "a user mounts": (1000, (), False, lambda _: mounts(b"nosuch"), []),
    # network interfaces
    "root looks at an interface": (
        0, None, False, lambda _: looks_at_interface(b"nosuch0"), [[b"netdev-nosuch0"], [b"nosuch0", NETDEV]]
    ),
    "CAP_NET_ADMIN looks at an interface": (
        1000, NET, False, lambda _: looks_at_interface(b"nosuch0"), [[b"netdev-nosuch0", normal(1000), NET_HELD]]
    ),
    "uid 0 with CAP_NET_ADMIN looks at an interface": (
        0, NET, False, lambda _: looks_at_interface(b"nosuch0"), [[b"netdev-nosuch0", normal(0), NET_HELD]]
    ),
    "CAP_SYS_MODULE alone looks at an interface": (
        1000, MODULE, False, lambda _: looks_at_interface(b"nosuch0"), [[b"nosuch0", NETDEV]]
    ),
    "a user looks at an interface": (1000, (), False, lambda _: looks_at_interface(b"nosuch0"), []),
    "root of a user namespace looks at an interface": (1000, (), True, lambda _: looks_at_interface(b"nosuch0"), []),
    # call sites that a capability suffices for
    "CAP_NET_ADMIN chooses congestion control": (
        1000, NET, False, lambda _: chooses_congestion_control(b"nosuch"), [[b"tcp_nosuch", normal(1000), NET_HELD]]
    ),
    "root chooses congestion control": (0, None, False, lambda _: chooses_congestion_control(b"nosuch"), [[b"tcp_nosuch"]]),
    "a user chooses congestion control": (1000, (), False, lambda _: chooses_congestion_control(b"nosuch"), []),
    "CAP_NET_ADMIN adds a link": (
        1000, NET, False, lambda _: adds_link(b"nosuch"), [[b"rtnl-link-nosuch", normal(1000), NET_HELD]]
    ),
    "root of a user namespace adds a link": (
        1000, (), True, lambda _: adds_link(b"nosuch", CLONE_NEWNET), [[b"rtnl-link-nosuch", normal(1000)]]
    ),
    # call sites that ask on behalf of anybody
    "a user opens a socket": (1000, (), False, lambda guest: guest.ask_socket(38, 5), [[b"net-pf-38", normal(1000)]]),
    "CAP_NET_ADMIN opens a socket": (1000, NET, False, lambda guest: guest.ask_socket(38, 5), [[b"net-pf-38", normal(1000)]]),
    "root opens a socket": (0, None, False, lambda guest: guest.ask_socket(38, 5), [[b"net-pf-38"]]),
    # a call site that declares anything
    "declared, and held": (1000, NET, False, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a", normal(1000), NET_HELD]]),
    "declared, and held by root": (0, None, False, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a"]]),
    "declared, and another is held": (1000, ADMIN, False, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a", normal(1000)]]),
    "declared, and none is held": (1000, (), False, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a", normal(1000)]]),
    "declared, and held in a user namespace": (1000, (), True, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a", normal(1000)]]),
    "declared for anybody": (1000, NET, False, lambda _: declares(0, b"p-", b"p-a"), [[b"p-a", normal(1000)]]),
    "declared as CAP_SYS_MODULE, and not held": (1000, NET, False, lambda _: declares(16, b"", b"a"), [[b"a", normal(1000)]]),
    "declared as CAP_SYS_MODULE, and held": (1000, MODULE, False, lambda _: declares(16, b"", b"a"), [[b"a"]]),
    "declared, and nobody waits": (
        1000, NET, False, lambda _: declares(12, b"p-", b"p-a", "/proc/smp_declare_nowait"), [[b"p-a", normal(1000), NET_HELD]]
    ),
    "the prefix alone": (1000, NET, False, lambda _: declares(12, b"p-", b"p-"), [[b"p-", normal(1000), NET_HELD]]),
    "declared, 55 bytes": (1000, NET, False, lambda _: declares(12, b"x", LONG), [[LONG, normal(1000), NET_HELD]]),
}  # fmt: skip


def row(guest: Guest, uid: int, caps, user_namespace: bool, ask, asked: list) -> None:
    guest.run_as(uid, lambda: ask(guest), caps=caps, user_namespace=user_namespace)
    assert recorded() == [[b"-q", b"--", *words] for words in asked]
    unharmed(guest)


def said(guest: Guest, part: str, ask, **who: object) -> list[str]:
    """The lines with this part that the kernel logs meanwhile. It logs ten in five seconds."""
    guest.sh("dmesg -C")
    guest.run_as(who.pop("uid", 1000), ask, **who)
    return [line for line in console(guest) if part in line]


UNDECLARED = "without request_module_cap()"


def test_undeclared_requests_of_the_unprivileged_are_warned_of(guest: Guest) -> None:
    guest.sh("sleep 5")  # after the other scenarios
    (line,) = said(guest, UNDECLARED, lambda: (guest.rename(b"a\nb"), guest.ask_raw(b'"x\n<0>y"')))
    assert "request_module: smp_write+" in line and " request_module_cap() for a\\nb, which does not " in line, line
    assert line.endswith('): "x\\n<0>y"'), line
    for who in (dict(uid=0), dict(caps=MODULE)):
        assert said(guest, UNDECLARED, lambda: guest.ask_raw(b"a"), **who) == []
    for ask in (lambda: guest.ask_socket(38, 5), lambda: declares(12, b"a", b"a"), lambda: declares(0, b"a", b"a")):
        assert said(guest, UNDECLARED, ask) == []


def test_the_warnings_are_limited_in_rate(guest: Guest) -> None:
    guest.write("/proc/sys/kernel/modprobe", "/nowhere\n")  # the quickest helper
    assert len(said(guest, UNDECLARED, lambda: [guest.ask_raw(b"a") for _ in range(200)])) < 100


def test_what_is_logged_of_a_mistake_is_one_line_whatever_the_name(guest: Guest) -> None:
    (line,) = said(guest, "outside of", lambda: declares(12, b"p-", b'x\n<0>y "z\x1b[31m'))
    assert "request_module: ask" in line, line
    assert line.endswith('smp_declare]: outside of what the call site declares: x\\n<0>y "z\\e[31m'), line


OUTSIDE = [
    (12, b"p-", b"q-a"),
    (12, b"p-", b"p"),
    (12, b"p-", b" p-a"),
    (12, b"p-", b"P-a"),
    (12, b"p-", b""),
    (12, b"", b"a"),
    (0, b"", b"a"),
    (12, b"(null)", b"a"),
    (16, b"(null)", b"a"),
    (16, b"p-", b"a"),
    (41, b"p-", b"p-a"),
    (63, b"p-", b"p-a"),
    (99999, b"p-", b"p-a"),
    (-1, b"p-", b"p-a"),
    (-2147483648, b"p-", b"p-a"),
]


def test_a_name_outside_of_what_is_declared_is_asked_for_by_nobody(guest: Guest) -> None:
    for uid, caps in ((0, None), (1000, NET), (1000, ())):
        for cap, prefix, name in OUTSIDE:
            for through in ("/proc/smp_declare", "/proc/smp_declare_nowait"):
                got = guest.run_as(
                    uid,
                    lambda cap=cap, prefix=prefix, name=name, through=through: declares(cap, prefix, name, through),
                    caps=caps,
                )
                assert got == -errno.EINVAL, (uid, caps, cap, prefix, name, got)
    assert recorded() == []
    unharmed(guest)


def test_a_name_that_is_too_long_is_too_long_whoever_declares_it(guest: Guest) -> None:
    for ask in (lambda: declares(12, b"x", b"x" * 56), lambda: guest.ask_raw(b"x" * 56)):
        assert guest.run_as(1000, ask, caps=NET) == -errno.ENAMETOOLONG
    assert recorded() == []


def test_who_acts_as_another_has_what_both_have(guest: Guest) -> None:
    """As below an overlay, where everybody acts as who mounted it: here as who opened a file."""
    root, user, net = dict(uid=0), dict(uid=1000), dict(uid=1000, caps=NET)
    rows = (
        (root, root, []),
        (root, user, [normal(1000)]),
        (user, root, [normal(1000)]),
        (root, dict(uid=1000, user_namespace=True), [normal(1000)]),
        (dict(uid=1000, user_namespace=True), root, [normal(1000)]),
        (root, dict(uid=0, caps=()), [normal(0)]),
        (dict(uid=1000, caps=MODULE), dict(uid=1001, caps=MODULE), []),
        (dict(uid=1000, caps=MODULE), dict(uid=1001), [normal(1001)]),
        (root, net, [normal(1000), NET_HELD]),
        (net, root, [normal(1000), NET_HELD]),
        (net, dict(uid=1001), [normal(1000)]),
        (dict(uid=1001), net, [normal(1001)]),
    )
    for opener, writer, words in rows:
        record(guest)
        fd = opened_by(guest, "/proc/smp_declare_as_opener", **opener)
        guest.run_as(func=lambda fd=fd: declares(12, b"p-", b"p-a", fd), **writer)
        os.close(fd)
        assert recorded() == [[b"-q", b"--", b"p-a", *words]], (opener, writer, recorded())


# What callers see is what they always saw: facts of an unpatched kernel (lib/test_kmod.c, kernel_wait()).
RESULTS = [(0, 0), (1, 256), (3, 768), (255, 65280), ("kill", 9)]


def test_exit_status_reaches_the_requester(guest: Guest) -> None:
    for code, result in RESULTS:
        for uid in (0, 1000):
            record(guest, code)
            assert guest.run_as(uid, lambda: guest.ask_raw(b"a")) == result, (uid, code)
            assert guest.run_as(uid, lambda: declares(0, b"a", b"a")) == result, (uid, code)
            assert guest.run_as(uid, lambda: guest.ask_nowait(b"a")) == 0, (uid, code)


def test_a_helper_that_is_not_there_is_an_error_for_everybody(guest: Guest) -> None:
    for path, result in (("", -errno.ENOENT), ("/nowhere", -errno.ENOENT), ("/etc/passwd", -errno.EACCES)):
        guest.write("/proc/sys/kernel/modprobe", path + "\n")
        for uid in (0, 1000):
            for ask in (lambda: guest.ask_raw(b"a"), lambda: guest.ask_nowait(b"a"), lambda: declares(12, b"a", b"a")):
                assert guest.run_as(uid, ask) == result, (path, uid)


def test_errno_of_callers_is_as_ever(guest: Guest) -> None:
    for uid in (0, 1000):
        assert guest.run_as(uid, lambda: guest.ask_socket(38, 5)) == errno.EAFNOSUPPORT
        assert guest.run_as(uid, lambda: looks_at_interface(b"nosuch0")) == errno.ENODEV
    assert guest.run_as(0, lambda: mounts(b"nosuch")) == errno.ENODEV
    assert guest.run_as(1000, lambda: mounts(b"nosuch")) == errno.EPERM
    assert guest.run_as(0, lambda: chooses_congestion_control(b"nosuch")) == errno.ENOENT
    assert guest.run_as(1000, lambda: chooses_congestion_control(b"nosuch")) == errno.ENOENT
    assert guest.run_as(0, lambda: adds_link(b"nosuch")) == errno.EOPNOTSUPP
    assert guest.run_as(1000, lambda: adds_link(b"nosuch")) == errno.EPERM


def test_the_promise_cannot_be_written(guest: Guest) -> None:
    path = "/proc/sys/kernel/modprobe_caller_args"
    assert guest.sh(f"cat {path}; stat -c %a {path}").stdout == "1\n444\n"
    for text in ("0", "2", ""):
        assert guest.sh(f"echo {text} >{path}").returncode != 0
    assert guest.sh(f"cat {path}").stdout == "1\n"


def test_the_kernel_is_what_it_is_said_to_be(guest: Guest) -> None:
    options = guest.sh("zcat /proc/config.gz").stdout.splitlines()
    for wanted in ("MODPROBE_CALLER_ARGS", "SLUB_DEBUG_ON", "IKCONFIG_PROC"):
        assert f"CONFIG_{wanted}=y" in options
    assert not any(line.startswith("CONFIG_FTRACE=") for line in options)
    assert not os.path.exists("/sys/kernel/tracing/instances")
