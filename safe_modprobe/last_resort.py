"""Answer a request when the helper itself is broken: root keeps its modules, every other caller is refused.

It imports a few modules of ours that import almost nothing, so that it still runs when other code is broken. `enable`
copies them to another place (admin/switch/switch.py), for the time in which an upgrade has removed these.
"""

import os
import time
from _collections_abc import Sequence

from safe_modprobe.callers import proc
from safe_modprobe.log.record import record
from safe_modprobe.modules.modprobe import MODPROBE, exec_modprobe, looks_like_path
from safe_modprobe.rescue import LOG, OFF, rescue_word
from safe_modprobe.runtime import read

_NESTED = "/run/safe-modprobe/loads"
_MAX_ANCESTORS = 1024
_DIGITS = 20  # of 2**64, clock ticks after boot
_FILESYSTEM, _NORMAL = "grsec_modharden_fs", "grsec_modharden_normal"
TRIAL = "/run/safe-modprobe/policy.d/00-trial.toml"
"""While this file exists, no request is refused (policy/dropins.py)."""


def last_resort(argv: Sequence[str], error: BaseException, caller_may: bool = False) -> int:
    """Execute modprobe(8) for a privileged request, which does not return. Refuse any other with exit status 1.

    `caller_may`: the helper had found the callers when it failed, and they hold CAP_SYS_MODULE.
    """
    failure = _printable(f"{type(error).__name__}: {error}")
    if list(argv[1:3]) != ["-q", "--"] or len(argv) < 4 or not proc.started_by_kernel():
        _record_and_print(f"safe-modprobe failed ({failure}); nothing was loaded")
        return 1
    alias = argv[3]
    if looks_like_path(alias):
        _record("failure", failure, alias, "refused: the name is a path", _budget_uid(argv[4:]))
        return 1
    reason, modprobe_args = _may_load(alias, argv[4:], caller_may)
    if modprobe_args is None:
        _record("failure", failure, alias, f"refused: {reason}", _budget_uid(argv[4:]))
        return 1
    _record("left", failure, alias, f"left to {MODPROBE}: {reason}")
    exec_modprobe(alias, modprobe_args)
    return 1


def _may_load(alias: str, kernel_args: Sequence[str], caller_may: bool) -> tuple[str, Sequence[str] | None]:
    """Return the reason, and the kernel arguments that modprobe gets, None for a refusal.

    Every argument of a patched kernel claims an unprivileged caller, except the one for file systems.
    """
    rescue = rescue_word()
    if rescue == OFF:
        return "the kernel was booted with safe_modprobe=off", kernel_args
    if rescue == LOG or os.path.exists(TRIAL):
        return "a trial refuses nothing", ()
    if list(kernel_args) not in ([], [_FILESYSTEM]):
        return "the kernel says that the caller is not privileged", None
    if caller_may or _all_requesters_privileged(alias):
        return "the request is privileged", kernel_args
    return "an unprivileged caller may have made the request", None


def _budget_uid(kernel_args: Sequence[str]) -> int | None:
    """Return the uid whose budget of records counts: that of the kernel arguments, or of all blocked tasks."""
    for word in kernel_args:
        uid = word.removeprefix(_NORMAL).removesuffix("_")
        if word == f"{_NORMAL}{uid}_" and uid.isascii() and uid.isdigit() and len(uid) <= 10:
            return int(uid)
    try:
        users = {proc.real_uid(tid) for tid in proc.blocked_requesters()[0]}
    except (OSError, ValueError, IndexError, proc.WalkLimitError):
        return None
    return users.pop() if len(users) == 1 else None


def _record(kind: str, failure: str, alias: str, outcome: str, uid: int | None = None) -> None:
    """Record the failure, within the budget of records as long as counting works."""
    message = f"safe-modprobe failed ({failure}); {outcome}"
    try:
        from safe_modprobe.log.message_ids import FAILED
        from safe_modprobe.log.rate_limited import record_trouble

        fields = {
            "MESSAGE_ID": FAILED,
            "SAFE_MODPROBE_ALIAS": _printable(alias),
            "SAFE_MODPROBE_REASON": f"{failure}; {outcome}",
        }
        record_trouble(kind, uid, message, 3, fields)
    except Exception:  # what broke the helper may have broken this, too
        record(message, 3)


def _printable(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:300]


def _record_and_print(message: str) -> None:
    record(message, 3)
    try:
        os.write(2, message.encode() + b"\n")
    except OSError:
        pass


def _all_requesters_privileged(alias: str) -> bool:
    """Return whether each blocked task holds CAP_SYS_MODULE and no requester is gone, as the source `proc` finds it."""
    try:
        for _ in range(proc.ATTEMPTS):
            tids, helpers_before = proc.blocked_requesters()
            all_privileged = 0 < len(tids) >= helpers_before and all(_surely_privileged(tid, alias) for tid in tids)
            helpers_after = proc.count_helpers()
            if all_privileged and helpers_after <= helpers_before:
                return not proc.has_no_requester()
            if helpers_after == helpers_before:
                return False
            time.sleep(proc.RETRY_DELAY_S)
    except (OSError, ValueError, proc.WalkLimitError):
        pass
    return False


def _surely_privileged(tid: int, alias: str) -> bool:
    try:
        return _privileged(tid, alias)
    except (OSError, ValueError):  # it may have got its answer and ended
        return False


def _privileged(tid: int, alias: str) -> bool:
    """Return whether a task that was blocked in a request holds CAP_SYS_MODULE, is still blocked, and is not nested.

    A module may make a request without waiting, even after its load. has_no_requester() refuses all of these.
    """
    if alias.startswith("crypto-") and proc.stat(tid).kernel_thread:
        return False  # cryptomgr_probe works for any user (crypto/algboss.c)
    holds, nested = proc.holds_sys_module(tid), _is_nested(tid)
    blocked = proc.blocked_call_site(tid) is not None
    return holds and blocked and not nested


def _is_nested(tid: int) -> bool:
    """Return whether this task or an ancestor is a helper that loads a module (callers/nested.py), for any caller."""
    for _ in range(_MAX_ANCESTORS):
        task = proc.stat(tid)
        try:
            start = read(f"{_NESTED}/{tid}").partition(b" ")[0]
        except FileNotFoundError:
            start = b"0"
        # A malformed record counts. One with another start time does not: an earlier task had this TID.
        if not (start.isdigit() and len(start) <= _DIGITS) or int(start) == task.start:
            return True
        if task.parent == 0 or task.kernel_thread:
            return False
        tid = task.parent
    return True
