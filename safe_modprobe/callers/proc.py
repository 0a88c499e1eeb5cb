"""Which tasks wait inside request_module() at this moment, by /proc alone.

It needs nothing but `os`, since the last resort stands on it when anything else is broken.
"""

import os
import time

from safe_modprobe.runtime import read

MAX_TASKS = 65536
MAX_SECONDS = 2.0
"""Bounds of one walk: the requester waits for it, and the kernel has 50 places for all of them."""

ATTEMPTS, RETRY_DELAY_S = 4, 0.01
"""How often all is looked at while helpers come and go, and seconds between: whose helper ended wakes up meanwhile."""

INITIAL_USER_NAMESPACE = 0xEFFFFFFD
"""include/linux/proc_ns.h, PROC_USER_INIT_INO: the inode of the first user namespace, always."""

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_SYS_MODULE = 16
_KTHREADD = 2


class WalkLimitError(Exception):
    """The walk met one of its bounds, so nobody can say that it saw all."""


def parse_stack(text: bytes) -> tuple[str, ...]:
    """`[<0>] name+0x1/0x2 [module]` lines -> `name [module]`, innermost first. Unknown lines are skipped."""
    frames = []
    for line in text.decode("ascii", "replace").splitlines():
        _, mark, rest = line.partition("] ")
        symbol, plus, tail = rest.partition("+")
        if mark and plus:
            module = tail.partition(" ")[2]
            frames.append(f"{symbol} {module}" if module else symbol)
    return tuple(frames)


def call_site(frames: tuple[str, ...]) -> str | None:
    """The function that called request_module(), None for a stack that does not wait for a helper in it.

    call_usermodehelper_exec() comes after the trace event (kernel/module/kmod.c), so a task that is
    there has had its event, and the event is of this very request.
    """
    if _WAIT_FUNCTION not in frames or "__request_module" not in frames:
        return None
    if frames.index(_WAIT_FUNCTION) > frames.index("__request_module"):
        return None
    caller = frames[frames.index("__request_module") + 1 :]
    return caller[0] if caller else ""


def kernel_stack(tid: int, function: str) -> tuple[str, ...]:
    """The task's kernel stack, innermost first; nothing for one that is blocked elsewhere than in this function.

    Where nobody may see a stack (kernel.yama.ptrace_scope=3), the function alone for a task that is blocked in it.
    Raises OSError.
    """
    # Whoever reads a stack waits for the process's execve(2) to end (lock_trace() in fs/proc/base.c), and its user may
    # be able to have that last. wchan waits for nobody.
    try:
        blocked = read(f"/proc/{tid}/wchan")
    except FileNotFoundError:  # a kernel without it (CONFIG_KALLSYMS), or the task is gone
        blocked = b""
    if blocked not in (b"", b"0", function.encode()):
        return ()
    try:
        return parse_stack(read(f"/proc/{tid}/stack"))
    except PermissionError:
        return (function,) if blocked == function.encode() else ()


_WAIT_FUNCTION = "call_usermodehelper_exec"


def blocked_call_site(tid: int, traced: bool = False) -> str | None:
    """The call site that the task waits at now, None when it is not in a request (or is gone).

    `traced`: its last request is known, so that it is believed to be in that one where nobody may see its stack.
    """
    try:
        stack = kernel_stack(tid, _WAIT_FUNCTION)
    except OSError:
        return None
    return "" if traced and stack == (_WAIT_FUNCTION,) else call_site(stack)


class Stat:
    """What we need of /proc/TID/stat (proc(5)); `start` is in clock ticks after boot."""

    __slots__ = ("flags", "parent", "start", "state")

    def __init__(self, text: bytes) -> None:
        """Raises ValueError. The name in brackets may hold anything, so the last bracket ends it."""
        fields = text[text.rindex(b")") + 1 :].split()
        if len(fields) < 20:
            raise ValueError("/proc/TID/stat is shorter than proc(5) says")
        self.state = fields[0].decode("ascii", "replace")
        self.parent, self.flags, self.start = int(fields[1]), int(fields[6]), int(fields[19])

    @property
    def kernel_thread(self) -> bool:
        """Whether the kernel made it, and no program ever ran in it."""
        return bool(self.flags & _PF_KTHREAD)


def stat(tid: int) -> Stat:
    """Raises OSError for a task that is gone, ValueError for what is not a stat line."""
    return Stat(read(f"/proc/{tid}/stat"))


def started_by_kernel() -> bool:
    """Whether a kernel thread started this process: the kernel's helper, not one run by hand."""
    try:
        return stat(os.getppid()).kernel_thread
    except (OSError, ValueError):
        return True


def has_no_requester() -> bool:
    """Whether this is the helper of a request_module_nowait(): its parent is kthreadd itself."""
    return os.getppid() == _KTHREADD


def _is_helper(pid: int, own: Stat) -> bool:
    """A helper whose requester waits: started by a kernel worker, for an alias or not yet started."""
    if own.kernel_thread or own.parent in (0, 1, _KTHREADD) or not stat(own.parent).kernel_thread:
        return False
    command = read(f"/proc/{pid}/cmdline")
    return not command or b"\0-q\0--\0" in command


def count_helpers() -> int:
    """How many helpers are at work now for somebody who waits. Raises OSError."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            count += name.isdigit() and _is_helper(int(name), stat(int(name)))
        except (FileNotFoundError, ProcessLookupError, ValueError):
            continue
    return count


def blocked_requesters() -> tuple[list[int], int]:
    """The TIDs of all tasks that wait in a request now, and how many helpers were at work for one before that.

    More helpers than waiting tasks: somebody asked and is gone. Whoever came while we looked may be among the waiting
    without a helper among the helpers: whoever uses this counts them again. Raises TooMuchError, OSError.
    """
    deadline = time.monotonic() + MAX_SECONDS
    at_work = count_helpers()
    waiting, tasks = [], 0
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        try:
            threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked; if it was a requester, its helper is one too many
        for tid in threads:
            tasks += 1
            if tasks > MAX_TASKS or time.monotonic() > deadline:
                raise WalkLimitError(f"more than {MAX_TASKS} tasks or {MAX_SECONDS} s of looking at them")
            if blocked_call_site(tid) is not None:
                waiting.append(tid)
    return waiting, at_work


def real_uid(tid: int) -> int:
    """Whose task it is, as the initial user namespace has it. Raises OSError, ValueError."""
    status = read(f"/proc/{tid}/status")
    (uid,) = [line.split()[1] for line in status.split(b"\n") if line.startswith(b"Uid:")]
    return int(uid)


def holds_sys_module(tid: int) -> bool:
    """Whether a task holds CAP_SYS_MODULE in the initial user namespace. Raises OSError, ValueError."""
    status = read(f"/proc/{tid}/status")
    masks = [line[7:].strip() for line in status.split(b"\n") if line.startswith(b"CapEff:")]
    initial = os.stat(f"/proc/{tid}/ns/user").st_ino == INITIAL_USER_NAMESPACE
    # isalnum(), as int() would also take a sign, and -1 holds every capability.
    return initial and len(masks) == 1 and masks[0].isalnum() and bool(int(masks[0], 16) >> _SYS_MODULE & 1)
