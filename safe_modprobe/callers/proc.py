"""Find the tasks that are blocked in request_module() now, by /proc alone.

It imports almost nothing, because the last resort needs it when other code is broken.
"""

import os
import time

from safe_modprobe.runtime import read

MAX_TASKS = 65536
MAX_SECONDS = 2.0
"""Bounds of one walk over all tasks. The requester waits for it, and the kernel runs at most 50 helpers at a time."""

ATTEMPTS, RETRY_DELAY_S = 4, 0.01
"""Walks while helpers start and end, and seconds between two: a requester whose helper has ended wakes up by then."""

INITIAL_USER_NAMESPACE = 0xEFFFFFFD
"""Inode of the initial user namespace (PROC_USER_INIT_INO in include/linux/proc_ns.h)."""

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_SYS_MODULE = 16
_KTHREADD = 2


class WalkLimitError(Exception):
    """The walk met one of its bounds, so it may have missed tasks."""


def parse_stack(text: bytes) -> tuple[str, ...]:
    """Parse `[<0>] name+0x1/0x2 [module]` lines into `name [module]`, innermost first. Skip unknown lines."""
    frames = []
    for line in text.decode("ascii", "replace").splitlines():
        _, mark, rest = line.partition("] ")
        symbol, plus, tail = rest.partition("+")
        if mark and plus:
            module = tail.partition(" ")[2]
            frames.append(f"{symbol} {module}" if module else symbol)
    return tuple(frames)


def call_site(frames: tuple[str, ...]) -> str | None:
    """Return the function that called request_module(); None if the stack does not wait for a helper in a request.

    request_module() writes its trace event before call_usermodehelper_exec() (kernel/module/kmod.c). So the last event
    of a task that is blocked there is of this very request.
    """
    if _WAIT_FUNCTION not in frames or "__request_module" not in frames:
        return None
    if frames.index(_WAIT_FUNCTION) > frames.index("__request_module"):
        return None
    caller = frames[frames.index("__request_module") + 1 :]
    return caller[0] if caller else ""


def kernel_stack(tid: int, function: str) -> tuple[str, ...]:
    """Return the task's kernel stack, innermost first; an empty one if it is blocked in another function than this.

    Where even root may not read stacks (kernel.yama.ptrace_scope=3), return only this function for a task that is
    blocked in it. Raises OSError.
    """
    # Reading /proc/TID/stack blocks while the process is in execve(2) (lock_trace() in fs/proc/base.c), and a user can
    # make that last. Reading wchan does not block, so it comes first.
    try:
        blocked = read(f"/proc/{tid}/wchan")
    except FileNotFoundError:  # a kernel without CONFIG_KALLSYMS, or an ended task
        blocked = b""
    if blocked not in (b"", b"0", function.encode()):
        return ()
    try:
        return parse_stack(read(f"/proc/{tid}/stack"))
    except PermissionError:
        return (function,) if blocked == function.encode() else ()


_WAIT_FUNCTION = "call_usermodehelper_exec"


def blocked_call_site(tid: int, traced: bool = False) -> str | None:
    """Return the call site at which the task is blocked now; None when it is not in a request, or has ended.

    `traced`: its last request is known from its trace event. Then wchan suffices where its stack is hidden, and the
    call site is empty.
    """
    try:
        stack = kernel_stack(tid, _WAIT_FUNCTION)
    except OSError:
        return None
    return "" if traced and stack == (_WAIT_FUNCTION,) else call_site(stack)


class Stat:
    """The fields of /proc/TID/stat (proc(5)) that the helper needs. `start` is in clock ticks after boot."""

    __slots__ = ("flags", "parent", "start", "state")

    def __init__(self, text: bytes) -> None:
        """Parse a line. The last bracket ends the task's name, which may hold any bytes. Raises ValueError."""
        fields = text[text.rindex(b")") + 1 :].split()
        if len(fields) < 20:
            raise ValueError("/proc/TID/stat is shorter than proc(5) says")
        self.state = fields[0].decode("ascii", "replace")
        self.parent, self.flags, self.start = int(fields[1]), int(fields[6]), int(fields[19])

    @property
    def kernel_thread(self) -> bool:
        """Whether the kernel created the task, and no program ever ran in it."""
        return bool(self.flags & _PF_KTHREAD)


def stat(tid: int) -> Stat:
    """Read /proc/TID/stat. Raises OSError for an ended task, ValueError for a malformed line."""
    return Stat(read(f"/proc/{tid}/stat"))


def started_by_kernel() -> bool:
    """Return whether a kernel thread started this process, as opposed to a person or a script; in doubt it did."""
    try:
        return stat(os.getppid()).kernel_thread
    except (OSError, ValueError):
        return True


def has_no_requester() -> bool:
    """Return whether this is the helper of a request_module_nowait(): its parent is kthreadd itself."""
    return os.getppid() == _KTHREADD


def _is_helper(pid: int, own: Stat) -> bool:
    """Return whether a process is a helper whose requester waits. It may not have executed its program yet."""
    if own.kernel_thread or own.parent in (0, 1, _KTHREADD) or not stat(own.parent).kernel_thread:
        return False
    command = read(f"/proc/{pid}/cmdline")
    return not command or b"\0-q\0--\0" in command


def count_helpers() -> int:
    """Return how many helpers with a waiting requester run now. Raises OSError."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            count += name.isdigit() and _is_helper(int(name), stat(int(name)))
        except (FileNotFoundError, ProcessLookupError, ValueError):
            continue
    return count


def blocked_requesters() -> tuple[list[int], int]:
    """Return the TIDs of all tasks that are blocked in a request now, and how many helpers ran before the walk.

    More helpers than blocked tasks mean that a requester is gone. A requester that came during the walk may be among
    the tasks while its helper is not counted. So the code that uses this counts the helpers again afterwards.
    Raises WalkLimitError, OSError.
    """
    deadline = time.monotonic() + MAX_SECONDS
    helpers = count_helpers()
    blocked, tasks = [], 0
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        try:
            threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended; if it was a requester, there is now one helper too many
        for tid in threads:
            tasks += 1
            if tasks > MAX_TASKS or time.monotonic() > deadline:
                raise WalkLimitError(f"the walk stopped at its bound of {MAX_TASKS} tasks or {MAX_SECONDS} seconds")
            if blocked_call_site(tid) is not None:
                blocked.append(tid)
    return blocked, helpers


def real_uid(tid: int) -> int:
    """Return the task's real uid in the initial user namespace. Raises OSError, ValueError."""
    status = read(f"/proc/{tid}/status")
    (uid,) = [line.split()[1] for line in status.split(b"\n") if line.startswith(b"Uid:")]
    return int(uid)


def holds_sys_module(tid: int) -> bool:
    """Return whether a task holds CAP_SYS_MODULE in the initial user namespace. Raises OSError, ValueError."""
    status = read(f"/proc/{tid}/status")
    masks = [line[7:].strip() for line in status.split(b"\n") if line.startswith(b"CapEff:")]
    initial = os.stat(f"/proc/{tid}/ns/user").st_ino == INITIAL_USER_NAMESPACE
    # isalnum(), since int() also accepts a sign, and -1 would hold every capability.
    return initial and len(masks) == 1 and masks[0].isalnum() and bool(int(masks[0], 16) >> _SYS_MODULE & 1)
