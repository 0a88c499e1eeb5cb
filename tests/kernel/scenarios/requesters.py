"""Ways to make a patched kernel request a module, and a helper that only records its arguments."""

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
    """Return the kernel argument that names a caller without CAP_SYS_MODULE."""
    return b"grsec_modharden_normal%d_" % uid


def and_then(first, ask):
    """Return a request of a row that first calls another function in the requester's process."""
    return lambda guest: (first(), ask(guest))[1]


def record(guest, code=1):
    """Make the kernel's helper a script that records its arguments and ends with this exit status. Drop old records.

    The code "kill" makes the script kill itself.
    """
    os.makedirs(RECORDS, exist_ok=True)
    for name in os.listdir(RECORDS):
        os.unlink(f"{RECORDS}/{name}")
    guest.write(f"{RECORDS}/.code", f"{code}\n")
    guest.write(RECORDER, _SCRIPT)
    os.chmod(RECORDER, 0o755)
    guest.write("/proc/sys/kernel/modprobe", f"{RECORDER}\n")


def recorded():
    """Wait for running helpers, and return the arguments of each run since record(), in order."""
    wait_for_helpers()
    names = [name for name in os.listdir(RECORDS) if not name.startswith(".")]
    found = []
    for name in sorted(names, key=int):
        with open(f"{RECORDS}/{name}", "rb") as file:
            found.append(file.read().split(b"\0")[:-1])
    return found


def wait_for_helpers():
    """Wait until no helper runs any more."""
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
    """Call mount(2) for this type, in new namespaces if given. Return 0 or the errno."""
    if namespaces and LIBC.unshare(namespaces):
        raise OSError("unshare")
    return _errno(LIBC.mount(b"none", b"/mnt", kind, 0, None))


def looks_at_interface(name):
    """Call an ioctl(2) that requests netdev-NAME. Return 0 or the errno."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16s24x", name))
        except OSError as error:
            return error.errno
    return 0


def chooses_congestion_control(name):
    """Set a socket option that requests tcp_NAME. Return 0 or the errno."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(IPPROTO_TCP, TCP_CONGESTION, name)
        except OSError as error:
            return error.errno
    return 0


def adds_link(kind, namespaces=0):
    """Send RTM_NEWLINK, which requests rtnl-link-KIND, in new namespaces if given. Return 0 or the errno."""
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
    """Have smp_declare call request_module_cap(cap, prefix, "%s", name), and return its result.

    `through` is the path of one of its files, or a descriptor of it.
    """
    fd = os.dup(through) if isinstance(through, int) else os.open(through, os.O_RDWR)
    try:
        os.write(fd, b"%d|%b|%b" % (cap, prefix, name))
        return int(os.pread(fd, 16, 0))
    finally:
        os.close(fd)


def opened_by(guest, path, uid, **credentials):
    """Return a descriptor of a file that a process with other credentials opened."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        guest.run_as(uid, lambda: socket.send_fds(theirs, [b"x"], [os.open(path, os.O_RDWR)]), **credentials)
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        return fd


def enters_without_a_map():
    """Enter a user namespace that maps no uid."""
    if LIBC.unshare(CLONE_NEWUSER):
        raise OSError("unshare")
    assert os.getuid() == 65534


def console(guest):
    """Return the lines of the kernel's log."""
    return guest.sh("dmesg").stdout.splitlines()


COMPLAINTS = (
    "BUG",
    "Oops",
    "general protection",
    "WARNING",
    "Poison",
    "Redzone",
    "use-after-free",
    "Object already free",
)


def assert_kernel_healthy(guest):
    """Fail if the kernel's log reports memory corruption, a warning or a crash."""
    found = [line for line in console(guest) if any(word in line for word in COMPLAINTS)]
    assert not found, found
