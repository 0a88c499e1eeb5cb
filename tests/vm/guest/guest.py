"""What a scenario can do in a guest: become a user, request modules from the kernel, and read modules and log."""

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
"""The number of delete_module(2) on x86-64. Running rmmod hundreds of times would take longer than the tests."""
SYSLOG_ACTION_READ_ALL, SYSLOG_ACTION_SIZE_BUFFER = 3, 10
"""Actions of syslog(2). Reading the kernel's log this way saves a process of dmesg each time."""
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
CAPS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_MODULE": 16, "CAP_SYS_ADMIN": 21}
ALL = -1
BOOT = "/usr/libexec/safe-modprobe/boot"
ENABLED_ONCE = "/run/enabled-once"


class Guest:
    """The operations of a scenario on its machine."""

    def become(self, uid, *, caps=None, user_namespace=False):
        """Change to this uid with exactly these capabilities. By default uid 0 keeps all and other users have none."""
        if uid or caps is not None:
            LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            self._capset(sum(1 << CAPS[name] for name in caps or ()))
        # After a change of uid, only root may write the uid_map in /proc/self, unless the process is dumpable.
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
        """Set this process's name (comm) of up to 15 bytes."""
        LIBC.prctl(PR_SET_NAME, name, 0, 0, 0)

    def run_as(self, uid, func, *, caps=None, user_namespace=False, timeout=60):
        """Run func() in a child process that became this user. Return its value.

        Raises AssertionError with the child's exception, or when the child is killed after `timeout` seconds.
        """
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(timeout)
            try:
                self.become(uid, caps=caps, user_namespace=user_namespace)
                result = (True, func())
            except BaseException as error:
                result = (False, repr(error))
            os.write(writer, pickle.dumps(result))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            data = file.read()
        os.waitpid(pid, 0)
        assert data, "the child ended without a result"
        succeeded, value = pickle.loads(data)
        assert succeeded, value
        return value

    def ask_socket(self, family, kind=socket.SOCK_STREAM, protocol=0):
        """Call socket(2), which requests net-pf-FAMILY. Return 0 or the errno."""
        try:
            socket.socket(family, kind, protocol).close()
        except OSError as error:
            return error.errno
        return 0

    def ask_alg_bind(self, kind, name):
        """Bind an AF_ALG socket, which requests algif-KIND and crypto-NAME. Return 0 or the errno."""
        try:
            with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0) as sock:
                sock.bind((kind.decode(), name.decode()))
        except OSError as error:
            return error.errno
        return 0

    def ask_raw(self, name, through="/proc/smp_ask"):
        """Call request_module() with any bytes, by the module smp_ask. Return its value."""
        fd = os.open(through, os.O_RDWR)
        try:
            os.write(fd, name)
            return int(os.read(fd, 16))
        finally:
            os.close(fd)

    def ask_nowait(self, name):
        """Call request_module_nowait(name), by the module smp_ask. Return its value."""
        return self.ask_raw(name, "/proc/smp_ask_nowait")

    def ask_kthread(self, comm, name):
        """Call request_module(name) in a kernel thread named `comm`, on our behalf. Return its value."""
        return self.ask_raw(comm + b" " + name, "/proc/smp_ask_kthread")

    def enabled(self):
        """Return whether kernel.modprobe is our helper and its tracing instance exists."""
        with open("/proc/sys/kernel/modprobe") as file:
            helper = file.read()
        return helper == "/usr/sbin/safe-modprobe\n" and os.path.isdir("/sys/kernel/tracing/instances/safe-modprobe")

    def switch_on(self):
        """Make our helper kernel.modprobe. The first call runs `enable`; later ones run the faster start-up command."""
        if self.enabled():
            return
        done = self.sh(BOOT if os.path.exists(ENABLED_ONCE) else "safe-modprobectl enable --runtime")
        assert done.returncode == 0, done.stderr
        self.write(ENABLED_ONCE, "")

    def modules(self):
        """Return the names in /proc/modules."""
        with open("/proc/modules") as file:
            return {line.split()[0] for line in file}

    def unload(self, *names):
        """Unload these modules if they are loaded. A module in use stays."""
        for name in names:
            if name in self.modules():
                LIBC.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK)

    def sh(self, command, **kwargs):
        """Run a shell command and return the completed process with its output."""
        return subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, encoding="utf-8", errors="replace", **kwargs
        )

    def write(self, path, text):
        """Replace a file's content."""
        with open(path, "w") as file:
            file.write(text)

    def log(self):
        """Return our records in the kernel's log since boot, oldest first."""
        buffer = ctypes.create_string_buffer(LIBC.klogctl(SYSLOG_ACTION_SIZE_BUFFER, None, 0))
        size = LIBC.klogctl(SYSLOG_ACTION_READ_ALL, buffer, len(buffer))
        lines = buffer.raw[:size].decode(errors="replace").splitlines()
        return [line.partition("safe-modprobe: ")[2] for line in lines if "safe-modprobe: " in line]


def stack(tid):
    """Return the kernel stack of this task, or b"" if it cannot be read."""
    try:
        with open(f"/proc/{tid}/stack", "rb") as file:
            return file.read()
    except OSError:
        return b""


def wait_for(condition, seconds=20):
    """Wait until condition() is true. Raises AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.01)
