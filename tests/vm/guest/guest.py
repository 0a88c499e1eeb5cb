"""What a scenario can do in the guest: be somebody, ask the kernel for modules, look at what came of it."""

import ctypes
import os
import pickle
import signal
import socket
import subprocess
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
DELETE_MODULE = 176
"""x86-64's number; a shell and rmmod for each of hundreds would take longer than what is tested."""
SYSLOG_ACTION_READ_ALL, SYSLOG_ACTION_SIZE_BUFFER = 3, 10
"""syslog(2), which is what dmesg reads without a process for each look."""
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
CAPS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_MODULE": 16, "CAP_SYS_ADMIN": 21}
ALL = -1
BOOT = "/usr/libexec/safe-modprobe/boot"
ENABLED_ONCE = "/run/enabled-once"


class Guest:
    """The machine as a scenario sees it."""

    def become(self, uid, *, caps=None, user_namespace=False):
        """Turn this process into a user's, with these capabilities and no others; uid 0 keeps all by default."""
        if uid or caps is not None:
            LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            self._capset(sum(1 << CAPS[name] for name in caps or ()))
        # A change of uid hides /proc/self from us (PR_SET_DUMPABLE), and the maps are there.
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        if user_namespace:
            if LIBC.unshare(CLONE_NEWUSER):
                raise OSError(ctypes.get_errno(), "unshare")
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {uid} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)

    def _capset(self, mask):
        words = (ctypes.c_uint32 * 6)(*[mask & 0xFFFFFFFF] * 2, 0, *[mask >> 32] * 2, 0)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        if LIBC.capset(header, words):
            raise OSError(ctypes.get_errno(), "capset")

    def rename(self, name):
        """Give this process a name of up to 15 bytes."""
        LIBC.prctl(PR_SET_NAME, name, 0, 0, 0)

    def run_as(self, uid, func, *, caps=None, user_namespace=False, timeout=60):
        """func() in a child that became this user; its value, or its exception."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(timeout)
            try:
                self.become(uid, caps=caps, user_namespace=user_namespace)
                answer = (True, func())
            except BaseException as error:
                answer = (False, repr(error))
            os.write(writer, pickle.dumps(answer))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            data = file.read()
        os.waitpid(pid, 0)
        assert data, "the child ended without an answer"
        fine, value = pickle.loads(data)
        assert fine, value
        return value

    def ask_socket(self, family, kind=socket.SOCK_STREAM, protocol=0):
        """socket(2), which asks for net-pf-FAMILY; 0 or the errno."""
        try:
            socket.socket(family, kind, protocol).close()
        except OSError as error:
            return error.errno
        return 0

    def ask_alg_bind(self, kind, name):
        """bind(2) of an AF_ALG socket, which asks for algif-KIND and crypto-NAME; 0 or the errno."""
        try:
            with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0) as sock:
                sock.bind((kind.decode(), name.decode()))
        except OSError as error:
            return error.errno
        return 0

    def ask_raw(self, name, through="/proc/smp_ask"):
        """request_module(name) with any bytes; what it returned."""
        fd = os.open(through, os.O_RDWR)
        try:
            os.write(fd, name)
            return int(os.read(fd, 16))
        finally:
            os.close(fd)

    def ask_nowait(self, name):
        """request_module_nowait(name)."""
        return self.ask_raw(name, "/proc/smp_ask_nowait")

    def ask_kthread(self, comm, name):
        """request_module(name) in a kernel thread of that name, on our behalf."""
        return self.ask_raw(comm + b" " + name, "/proc/smp_ask_kthread")

    def enabled(self):
        """Whether the helper is the kernel's, and its tracing instance is there."""
        with open("/proc/sys/kernel/modprobe") as file:
            helper = file.read()
        return helper == "/usr/sbin/safe-modprobe\n" and os.path.isdir("/sys/kernel/tracing/instances/safe-modprobe")

    def switch_on(self):
        """Have the helper be the kernel's: the first time by `enable`, then as every boot does, which looks at less."""
        if self.enabled():
            return
        done = self.sh(BOOT if os.path.exists(ENABLED_ONCE) else "safe-modprobectl enable --runtime")
        assert done.returncode == 0, done.stderr
        self.write(ENABLED_ONCE, "")

    def modules(self):
        """The names in /proc/modules."""
        with open("/proc/modules") as file:
            return {line.split()[0] for line in file}

    def unload(self, *names):
        """Take modules out, as far as they are in."""
        for name in names:
            if name in self.modules():
                LIBC.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK)

    def sh(self, command, **kwargs):
        """A shell command, with its output."""
        return subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, encoding="utf-8", errors="replace", **kwargs
        )

    def write(self, path, text):
        """A file's new content."""
        with open(path, "w") as file:
            file.write(text)

    def log(self):
        """Our records in the kernel's log since boot, oldest first."""
        buffer = ctypes.create_string_buffer(LIBC.klogctl(SYSLOG_ACTION_SIZE_BUFFER, None, 0))
        size = LIBC.klogctl(SYSLOG_ACTION_READ_ALL, buffer, len(buffer))
        lines = buffer.raw[:size].decode(errors="replace").splitlines()
        return [line.partition("safe-modprobe: ")[2] for line in lines if "safe-modprobe: " in line]


def stack(tid):
    """Where the kernel is in this task, or nothing."""
    try:
        with open(f"/proc/{tid}/stack", "rb") as file:
            return file.read()
    except OSError:
        return b""


def wait_for(what, seconds=20):
    """Until what() is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
