"""How scenarios of a patched kernel make it ask, and a helper that only writes down what it was told."""

import ctypes
import fcntl
import os
import socket
import struct
import time

from guest import CLONE_NEWUSER, LIBC

RECORDER = "/run/recorder"
RECORDS = "/run/records"
_SCRIPT = f"""#!/bin/sh
printf '%s\\0' "$@" >{RECORDS}/.$$ && mv {RECORDS}/.$$ {RECORDS}/$$
read -r code <{RECORDS}/.code
[ "$code" != kill ] || kill -9 $$
exit "$code"
"""
_SECONDS = 20

NET, ADMIN, MODULE, RAW = ("CAP_NET_ADMIN",), ("CAP_SYS_ADMIN",), ("CAP_SYS_MODULE",), ("CAP_NET_RAW",)

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
IPPROTO_TCP, TCP_CONGESTION = 6, 13
SIOCGIFFLAGS = 0x8913


def normal(uid):
    """The kernel's word on who lacks CAP_SYS_MODULE."""
    return b"grsec_modharden_normal%d_" % uid


def and_then(first, ask):
    """For a row: do something as who asks, and ask."""
    return lambda guest: (first(), ask(guest))[1]


def record(guest, code=1):
    """From now on the kernel's helper writes down its arguments, and ends with this exit status."""
    os.makedirs(RECORDS, exist_ok=True)
    for name in os.listdir(RECORDS):
        os.unlink(f"{RECORDS}/{name}")
    guest.write(f"{RECORDS}/.code", f"{code}\n")
    guest.write(RECORDER, _SCRIPT)
    os.chmod(RECORDER, 0o755)
    guest.write("/proc/sys/kernel/modprobe", f"{RECORDER}\n")


def recorded():
    """The arguments of each run since record(), in order."""
    wait_for_helpers()
    names = [name for name in os.listdir(RECORDS) if not name.startswith(".")]
    found = []
    for name in sorted(names, key=int):
        with open(f"{RECORDS}/{name}", "rb") as file:
            found.append(file.read().split(b"\0")[:-1])
    return found


def wait_for_helpers():
    """Until nobody's request is being answered any more."""
    end = time.monotonic() + _SECONDS
    while any(map(_is_helper, os.listdir("/proc"))):
        assert time.monotonic() < end, "a helper does not end"
        time.sleep(0.02)


def _is_helper(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return pid.isdigit() and b"\0-q\0--\0" in file.read()
    except OSError:
        return False


def mounts(kind, namespaces=0):
    """mount(2) of this type, in namespaces of one's own; 0 or the errno."""
    if namespaces and LIBC.unshare(namespaces):
        raise OSError("unshare")
    return _errno(LIBC.mount(b"none", b"/mnt", kind, 0, None))


def looks_at_interface(name):
    """An ioctl that asks for netdev-NAME; 0 or the errno."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16s24x", name))
        except OSError as error:
            return error.errno
    return 0


def chooses_congestion_control(name):
    """A socket option that asks for tcp_NAME; 0 or the errno."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(IPPROTO_TCP, TCP_CONGESTION, name)
        except OSError as error:
            return error.errno
    return 0


def adds_link(kind, namespaces=0):
    """RTM_NEWLINK, which asks for rtnl-link-KIND, in a network namespace of one's own or here; 0 or the errno."""
    if namespaces and LIBC.unshare(namespaces):
        raise OSError("unshare")
    info = _attribute(18, _attribute(1, kind + b"\0"))  # IFLA_LINKINFO, IFLA_INFO_KIND
    body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + info
    flags = 0x1 | 0x4 | 0x200 | 0x400  # NLM_F_REQUEST, _ACK, _EXCL, _CREATE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(struct.pack("IHHII", 16 + len(body), 16, flags, 1, 0) + body)
        return -struct.unpack_from("i", sock.recv(4096), 16)[0]


def _attribute(kind, value):
    return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _errno(result):
    return ctypes.get_errno() if result else 0


def declares(cap, prefix, name, through="/proc/smp_declare"):
    """request_module_cap(cap, prefix, "%s", name) through this file, or a descriptor of it; what it returned."""
    fd = os.dup(through) if isinstance(through, int) else os.open(through, os.O_RDWR)
    try:
        os.write(fd, b"%d|%b|%b" % (cap, prefix, name))
        return int(os.pread(fd, 16, 0))
    finally:
        os.close(fd)


def opened_by(guest, path, uid, **who):
    """A descriptor of a file that somebody else opened."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        guest.run_as(uid, lambda: socket.send_fds(theirs, [b"x"], [os.open(path, os.O_RDWR)]), **who)
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        return fd


def enters_without_a_map():
    """A user namespace in which nobody's uid is mapped."""
    if LIBC.unshare(CLONE_NEWUSER):
        raise OSError("unshare")
    assert os.getuid() == 65534


def console(guest):
    """What the kernel said, a line each."""
    return guest.sh("dmesg").stdout.splitlines()


UNHARMED = (
    "BUG",
    "Oops",
    "general protection",
    "WARNING",
    "Poison",
    "Redzone",
    "use-after-free",
    "Object already free",
)


def unharmed(guest):
    """Fails where the kernel complains of itself."""
    wrong = [line for line in console(guest) if any(word in line for word in UNHARMED)]
    assert not wrong, wrong
