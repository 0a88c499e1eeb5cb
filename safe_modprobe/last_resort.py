"""When the helper itself is broken: root keeps its modules, everyone else is refused, and it is recorded.

It imports a few modules of ours that import next to nothing, so that whatever broke has not broken it. Switching on
puts a copy of them aside (admin/switch/switch.py), for the time in which an upgrade has taken these away.
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
"""While it is there, nobody is refused anything: see policy/dropins.py."""


def last_resort(argv: Sequence[str], error: BaseException, caller_may: bool = False) -> int:
    """Leave a privileged request to modprobe(8) (it does not return then), refuse any other with 1.

    `caller_may`: the callers were found before the failure, and hold CAP_SYS_MODULE.
    """
    what = _printable(f"{type(error).__name__}: {error}")
    if list(argv[1:3]) != ["-q", "--"] or len(argv) < 4 or not proc.started_by_kernel():
        _complain(f"safe-modprobe failed ({what}); nothing was loaded")
        return 1
    alias = argv[3]
    if looks_like_path(alias):
        _record("failure", what, alias, "refused: the name is a path", _budget_uid(argv[4:]))
        return 1
    whose, passed = _may_load(alias, argv[4:], caller_may)
    if passed is None:
        _record("failure", what, alias, f"refused: {whose}", _budget_uid(argv[4:]))
        return 1
    _record("left", what, alias, f"{whose} is left to {MODPROBE}")
    exec_modprobe(alias, passed)
    return 1


def _may_load(alias: str, words: Sequence[str], caller_may: bool) -> tuple[str, Sequence[str] | None]:
    """Whose the request is or why it is refused, and the kernel's words that modprobe gets, None where it is refused.

    All words of a patched kernel but the one for file systems tell of a caller without privilege.
    """
    word = rescue_word()
    if word == OFF:
        return "any request of a kernel that was booted with safe_modprobe=off", words
    if word == LOG or os.path.exists(TRIAL):
        return "any request of a trial", ()
    if list(words) not in ([], [_FILESYSTEM]):
        return "the kernel says that the caller is not privileged", None
    if caller_may or _all_requesters_privileged(alias):
        return "a privileged request", words
    return "not everyone who waits for a module now is privileged", None


def _budget_uid(words: Sequence[str]) -> int | None:
    """Whose budget of records it counts for: who the kernel says, or whoever waits where that is one user."""
    for word in words:
        uid = word.removeprefix(_NORMAL).removesuffix("_")
        if word == f"{_NORMAL}{uid}_" and uid.isascii() and uid.isdigit() and len(uid) <= 10:
            return int(uid)
    try:
        users = {proc.real_uid(tid) for tid in proc.blocked_requesters()[0]}
    except (OSError, ValueError, IndexError, proc.WalkLimitError):
        return None
    return users.pop() if len(users) == 1 else None


def _record(kind: str, what: str, alias: str, then: str, uid: int | None = None) -> None:
    """Of these there must not be too many either, as long as the counting works."""
    message = f"safe-modprobe failed ({what}); {then}"
    try:
        from safe_modprobe.log.message_ids import FAILED
        from safe_modprobe.log.rate_limited import record_trouble

        named = {
            "MESSAGE_ID": FAILED,
            "SAFE_MODPROBE_ALIAS": _printable(alias),
            "SAFE_MODPROBE_REASON": f"{what}; {then}",
        }
        record_trouble(kind, uid, message, 3, named)
    except Exception:  # whatever broke may have broken this, too
        record(message, 3)


def _printable(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:300]


def _complain(message: str) -> None:
    record(message, 3)
    try:
        os.write(2, message.encode() + b"\n")
    except OSError:
        pass


def _all_requesters_privileged(alias: str) -> bool:
    """As the `proc` source: everyone who waits holds CAP_SYS_MODULE, and nobody asked and is gone."""
    try:
        for _ in range(proc.ATTEMPTS):
            tids, helpers = proc.blocked_requesters()
            everyone = 0 < len(tids) >= helpers and all(_surely_privileged(tid, alias) for tid in tids)
            now = proc.count_helpers()
            if everyone and now <= helpers:
                return not proc.has_no_requester()
            if now == helpers:
                return False
            time.sleep(proc.RETRY_DELAY_S)
    except (OSError, ValueError, proc.WalkLimitError):
        pass
    return False


def _surely_privileged(tid: int, alias: str) -> bool:
    try:
        return _privileged(tid, alias)
    except (OSError, ValueError):  # it may have got its answer, and be gone
        return False


def _privileged(tid: int, alias: str) -> bool:
    """Holds CAP_SYS_MODULE before and after it is seen to wait, and is not loading for somebody else.

    What a module asks for without waiting, maybe after its load, is refused with all that nobody waits for.
    """
    if alias.startswith("crypto-") and proc.stat(tid).kernel_thread:
        return False  # cryptomgr_probe, which asks on behalf of anybody (crypto/algboss.c)
    holds, nested = proc.holds_sys_module(tid), _is_nested(tid)
    still = proc.blocked_call_site(tid) is not None
    return holds and still and not nested


def _is_nested(tid: int) -> bool:
    """Whether this task or a process that started it is a helper that loads (callers/nested.py), whomever for."""
    for _ in range(_MAX_ANCESTORS):
        about = proc.stat(tid)
        try:
            start = read(f"{_NESTED}/{tid}").partition(b" ")[0]
        except FileNotFoundError:
            start = b"0"
        # A record that no helper wrote is no proof of anything; one of an earlier task with this TID is none at all.
        if not (start.isdigit() and len(start) <= _DIGITS) or int(start) == about.start:
            return True
        if about.parent == 0 or about.kernel_thread:
            return False
        tid = about.parent
    return True
