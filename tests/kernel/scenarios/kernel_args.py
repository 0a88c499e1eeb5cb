"""The arguments that a patched kernel passes to its helper. Each row is one requester and its request."""

import errno
import os

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
    normal,
    opened_by,
    record,
    recorded,
)

FS, NETDEV = b"grsec_modharden_fs", b"grsec_modharden_netdev"
LAST_UID = 4294967294
LONG = b"x" * 55
NET_HELD, ADMIN_HELD = b"modharden_cap12_", b"modharden_cap21_"


def setup(guest: Guest) -> None:
    """Before each test: install the helper that records its arguments, and unload the modules that rows request."""
    guest.sh("modprobe -q smp_declare; umount /mnt")
    guest.unload("algif_aead", "algif_hash", "af_alg", "authencesn", "authenc", "tcp_vegas", "configfs", "dummy")
    record(guest)


def plain(name: bytes):
    return lambda guest: guest.ask_raw(name)


def becomes(real: int, effective: int, saved: int):
    return lambda: os.setresuid(real, effective, saved)


# name: (uid, caps, in a user namespace, request, [[module name, kernel arguments...] of each run, ...])
ROWS = {
    "root": (0, None, False, plain(b"a"), [[b"a"]]),
    "an unprivileged user": (1000, (), False, plain(b"a"), [[b"a", normal(1000)]]),
    "the highest uid": (LAST_UID, (), False, plain(LONG), [[LONG, normal(LAST_UID)]]),
    "a user with CAP_SYS_MODULE": (1000, MODULE, False, plain(b"a"), [[b"a"]]),
    "a user with three other capabilities": (1000, NET + ADMIN + RAW, False, plain(b"a"), [[b"a", normal(1000)]]),
    "uid 0 without capabilities": (0, (), False, plain(b"a"), [[b"a", normal(0)]]),
    "uid 0 with three other capabilities": (0, NET + ADMIN + RAW, False, plain(b"a"), [[b"a", normal(0)]]),
    "root in a user namespace that a user made": (1000, (), True, plain(b"a"), [[b"a", normal(1000)]]),
    "root in a user namespace that root made": (0, None, True, plain(b"a"), [[b"a", normal(0)]]),
    "a uid that the namespace does not map": (
        1000, (), False, and_then(enters_without_a_map, plain(b"a")), [[b"a", normal(1000)]]
    ),
    "root in a namespace that does not map uid 0": (
        0, None, False, and_then(enters_without_a_map, plain(b"a")), [[b"a", normal(0)]]
    ),
    "a set-user-ID program of root's": (0, None, False, and_then(becomes(1000, 0, 0), plain(b"a")), [[b"a"]]),
    "root with the effective uid of a user": (0, None, False, and_then(becomes(0, 1000, 0), plain(b"a")), [[b"a", normal(0)]]),
    "a kernel thread of the kernel's own": (1000, (), False, lambda guest: guest.ask_kthread(b"broker", b"a"), [[b"a"]]),
    "request_module_nowait() by a user": (1000, (), False, lambda guest: guest.ask_nowait(b"a"), [[b"a", normal(1000)]]),
    "request_module_nowait() by root": (0, None, False, lambda guest: guest.ask_nowait(b"a"), [[b"a"]]),
    "request_module_nowait() by uid 0 without capabilities": (0, (), False, lambda guest: guest.ask_nowait(b"a"), [[b"a", normal(0)]]),
    "request_module_nowait() by root in a user namespace": (1000, (), True, lambda guest: guest.ask_nowait(b"a"), [[b"a", normal(1000)]]),
    # A user chooses the bytes of the name. It stays one argument.
    "a name that contains a kernel argument": (
        1000, (), False, plain(b"a grsec_modharden_fs"), [[b"a grsec_modharden_fs", normal(1000)]]
    ),
    "a name of spaces and newlines": (1000, (), False, plain(b" \n -- "), [[b" \n -- ", normal(1000)]]),
    "a name that looks like an option": (1000, (), False, plain(b"-r"), [[b"-r", normal(1000)]]),
    # mount(2).
    "root mounts": (0, None, False, lambda _: mounts(b"nosuch"), [[b"fs-nosuch", FS]]),
    "a user with CAP_SYS_ADMIN mounts": (
        1000, ADMIN, False, lambda _: mounts(b"nosuch"), [[b"fs-nosuch", FS, normal(1000), ADMIN_HELD]]
    ),
    "the longest kernel arguments": (
        LAST_UID, ADMIN, False, lambda _: mounts(b"x" * 52), [[b"fs-" + b"x" * 52, FS, normal(LAST_UID), ADMIN_HELD]]
    ),
    "a name that is too long to mount": (0, None, False, lambda _: mounts(b"x" * 53), []),
    "a user with CAP_SYS_ADMIN and CAP_SYS_MODULE mounts": (
        1000, ADMIN + MODULE, False, lambda _: mounts(b"nosuch"), [[b"fs-nosuch", FS]]
    ),
    "root in a user namespace that a user made mounts": (
        1000, (), True, lambda _: mounts(b"nosuch", CLONE_NEWNS), [[b"fs-nosuch", FS, normal(1000)]]
    ),
    "root in a user namespace that root made mounts": (
        0, None, True, lambda _: mounts(b"nosuch", CLONE_NEWNS), [[b"fs-nosuch", FS, normal(0)]]
    ),
    "a user mounts": (1000, (), False, lambda _: mounts(b"nosuch"), []),
    # Network interfaces.
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
    "root in a user namespace looks at an interface": (1000, (), True, lambda _: looks_at_interface(b"nosuch0"), []),
    # Call sites for which a capability suffices.
    "CAP_NET_ADMIN chooses congestion control": (
        1000, NET, False, lambda _: chooses_congestion_control(b"nosuch"), [[b"tcp_nosuch", normal(1000), NET_HELD]]
    ),
    "root chooses congestion control": (0, None, False, lambda _: chooses_congestion_control(b"nosuch"), [[b"tcp_nosuch"]]),
    "a user chooses congestion control": (1000, (), False, lambda _: chooses_congestion_control(b"nosuch"), []),
    "CAP_NET_ADMIN adds a link": (
        1000, NET, False, lambda _: adds_link(b"nosuch"), [[b"rtnl-link-nosuch", normal(1000), NET_HELD]]
    ),
    "root in a user namespace adds a link": (
        1000, (), True, lambda _: adds_link(b"nosuch", CLONE_NEWNET), [[b"rtnl-link-nosuch", normal(1000)]]
    ),
    # Call sites that make requests for any caller.
    "a user opens a socket": (1000, (), False, lambda guest: guest.ask_socket(38, 5), [[b"net-pf-38", normal(1000)]]),
    "CAP_NET_ADMIN opens a socket": (1000, NET, False, lambda guest: guest.ask_socket(38, 5), [[b"net-pf-38", normal(1000)]]),
    "root opens a socket": (0, None, False, lambda guest: guest.ask_socket(38, 5), [[b"net-pf-38"]]),
    # smp_declare declares any capability and prefix.
    "declared, and held": (1000, NET, False, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a", normal(1000), NET_HELD]]),
    "declared, and held by root": (0, None, False, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a"]]),
    "declared, and another capability is held": (1000, ADMIN, False, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a", normal(1000)]]),
    "declared, and no capability is held": (1000, (), False, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a", normal(1000)]]),
    "declared, and held in a user namespace": (1000, (), True, lambda _: declares(12, b"p-", b"p-a"), [[b"p-a", normal(1000)]]),
    "declared for any caller": (1000, NET, False, lambda _: declares(0, b"p-", b"p-a"), [[b"p-a", normal(1000)]]),
    "declared as CAP_SYS_MODULE, and not held": (1000, NET, False, lambda _: declares(16, b"", b"a"), [[b"a", normal(1000)]]),
    "declared as CAP_SYS_MODULE, and held": (1000, MODULE, False, lambda _: declares(16, b"", b"a"), [[b"a"]]),
    "declared with request_module_nowait_cap()": (
        1000, NET, False, lambda _: declares(12, b"p-", b"p-a", "/proc/smp_declare_nowait"), [[b"p-a", normal(1000), NET_HELD]]
    ),
    "the prefix alone": (1000, NET, False, lambda _: declares(12, b"p-", b"p-"), [[b"p-", normal(1000), NET_HELD]]),
    "declared, 55 bytes": (1000, NET, False, lambda _: declares(12, b"x", LONG), [[LONG, normal(1000), NET_HELD]]),
}  # fmt: skip


def row(guest: Guest, uid: int, caps, user_namespace: bool, ask, runs: list) -> None:
    guest.run_as(uid, lambda: ask(guest), caps=caps, user_namespace=user_namespace)
    assert recorded() == [[b"-q", b"--", *words] for words in runs]
    assert_kernel_healthy(guest)


def logged(guest: Guest, part: str, ask, **credentials: object) -> list[str]:
    """Return the log lines with this part that a request causes. The kernel logs up to ten in five seconds."""
    guest.sh("dmesg -C")
    guest.run_as(credentials.pop("uid", 1000), ask, **credentials)
    return [line for line in console(guest) if part in line]


UNDECLARED = "without request_module_cap()"


def test_the_kernel_warns_of_undeclared_unprivileged_requests(guest: Guest) -> None:
    guest.sh("sleep 5")  # The rate limit of earlier warnings ends.
    (line,) = logged(guest, UNDECLARED, lambda: (guest.rename(b"a\nb"), guest.ask_raw(b'"x\n<0>y"')))
    assert "request_module: smp_write+" in line and " request_module_cap() for a\\nb, which does not " in line, line
    assert line.endswith('): "x\\n<0>y"'), line
    for credentials in (dict(uid=0), dict(caps=MODULE)):
        assert logged(guest, UNDECLARED, lambda: guest.ask_raw(b"a"), **credentials) == []
    for ask in (lambda: guest.ask_socket(38, 5), lambda: declares(12, b"a", b"a"), lambda: declares(0, b"a", b"a")):
        assert logged(guest, UNDECLARED, ask) == []


def test_the_warnings_are_rate_limited(guest: Guest) -> None:
    guest.write("/proc/sys/kernel/modprobe", "/nowhere\n")  # A missing helper fails fastest.
    assert len(logged(guest, UNDECLARED, lambda: [guest.ask_raw(b"a") for _ in range(200)])) < 100


def test_a_warning_is_one_line_for_any_name(guest: Guest) -> None:
    (line,) = logged(guest, "outside of", lambda: declares(12, b"p-", b'x\n<0>y "z\x1b[31m'))
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


def test_a_name_outside_of_the_declaration_runs_no_helper(guest: Guest) -> None:
    for uid, caps in ((0, None), (1000, NET), (1000, ())):
        for cap, prefix, name in OUTSIDE:
            for through in ("/proc/smp_declare", "/proc/smp_declare_nowait"):
                result = guest.run_as(
                    uid,
                    lambda cap=cap, prefix=prefix, name=name, through=through: declares(cap, prefix, name, through),
                    caps=caps,
                )
                assert result == -errno.EINVAL, (uid, caps, cap, prefix, name, result)
    assert recorded() == []
    assert_kernel_healthy(guest)


def test_a_declaration_does_not_raise_the_limit_of_a_name(guest: Guest) -> None:
    for ask in (lambda: declares(12, b"x", b"x" * 56), lambda: guest.ask_raw(b"x" * 56)):
        assert guest.run_as(1000, ask, caps=NET) == -errno.ENAMETOOLONG
    assert recorded() == []


def test_a_task_with_overridden_credentials_holds_what_both_hold(guest: Guest) -> None:
    """overlayfs overrides the credentials with the mounter's (override_creds()); smp_declare with the file opener's."""
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


# (exit code of the helper, result of request_module()), as on an unpatched kernel (lib/test_kmod.c, kernel_wait()).
RESULTS = [(0, 0), (1, 256), (3, 768), (255, 65280), ("kill", 9)]


def test_the_exit_status_reaches_the_requester(guest: Guest) -> None:
    for code, result in RESULTS:
        for uid in (0, 1000):
            record(guest, code)
            assert guest.run_as(uid, lambda: guest.ask_raw(b"a")) == result, (uid, code)
            assert guest.run_as(uid, lambda: declares(0, b"a", b"a")) == result, (uid, code)
            assert guest.run_as(uid, lambda: guest.ask_nowait(b"a")) == 0, (uid, code)


def test_a_missing_helper_is_an_error_for_every_requester(guest: Guest) -> None:
    for path, result in (("", -errno.ENOENT), ("/nowhere", -errno.ENOENT), ("/etc/passwd", -errno.EACCES)):
        guest.write("/proc/sys/kernel/modprobe", path + "\n")
        for uid in (0, 1000):
            for ask in (lambda: guest.ask_raw(b"a"), lambda: guest.ask_nowait(b"a"), lambda: declares(12, b"a", b"a")):
                assert guest.run_as(uid, ask) == result, (path, uid)


def test_system_calls_fail_with_the_usual_errno(guest: Guest) -> None:
    for uid in (0, 1000):
        assert guest.run_as(uid, lambda: guest.ask_socket(38, 5)) == errno.EAFNOSUPPORT
        assert guest.run_as(uid, lambda: looks_at_interface(b"nosuch0")) == errno.ENODEV
    assert guest.run_as(0, lambda: mounts(b"nosuch")) == errno.ENODEV
    assert guest.run_as(1000, lambda: mounts(b"nosuch")) == errno.EPERM
    assert guest.run_as(0, lambda: chooses_congestion_control(b"nosuch")) == errno.ENOENT
    assert guest.run_as(1000, lambda: chooses_congestion_control(b"nosuch")) == errno.ENOENT
    assert guest.run_as(0, lambda: adds_link(b"nosuch")) == errno.EOPNOTSUPP
    assert guest.run_as(1000, lambda: adds_link(b"nosuch")) == errno.EPERM


def test_modprobe_caller_args_is_read_only(guest: Guest) -> None:
    path = "/proc/sys/kernel/modprobe_caller_args"
    assert guest.sh(f"cat {path}; stat -c %a {path}").stdout == "1\n444\n"
    for text in ("0", "2", ""):
        assert guest.sh(f"echo {text} >{path}").returncode != 0
    assert guest.sh(f"cat {path}").stdout == "1\n"


def test_the_kernel_has_the_options_that_these_tests_need(guest: Guest) -> None:
    options = guest.sh("zcat /proc/config.gz").stdout.splitlines()
    for wanted in ("MODPROBE_CALLER_ARGS", "SLUB_DEBUG_ON", "IKCONFIG_PROC"):
        assert f"CONFIG_{wanted}=y" in options
    assert not any(line.startswith("CONFIG_FTRACE=") for line in options)
    assert not os.path.exists("/sys/kernel/tracing/instances")
