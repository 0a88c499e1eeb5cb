"""A verdict in words: one line that a person can read and act on, and the journal's fields. Pure."""

from collections.abc import Mapping

from safe_modprobe import message_ids
from safe_modprobe.kernel_args import escape
from safe_modprobe.model import Action, Caller, TargetState, Verdict
from safe_modprobe.policy.dropins import FOLDERS, SITE
from safe_modprobe.policy.text import remedy

ADMIN_FILE = f"{FOLDERS[-1]}/{SITE}"

MOST_GROUPS = 256
"""A caller may have 65,536 groups (NGROUPS_MAX); more than these are not recorded, and a cut list would be a lie."""

_IDS = {Action.ALLOW: message_ids.ALLOWED, Action.LOG: message_ids.LOGGED, Action.DENY: message_ids.DENIED}
_DONE = {Action.ALLOW: "allowed", Action.LOG: "allowed (log)", Action.DENY: "denied"}
_YES_NO = ("no", "yes")
_PRIORITY = {Action.ALLOW: 6, Action.LOG: 5, Action.DENY: 4}  # LOG_INFO, LOG_NOTICE, LOG_WARNING


def modules(verdict: Verdict) -> list[str]:
    """The modules to be inserted, each once, in order."""
    steps = (judged.step.module for target in verdict.targets for judged in target.steps)
    return list(dict.fromkeys(steps))


def refused(verdict: Verdict) -> list[str]:
    """The modules that an admin would have to allow, each once, in order: soft ones that were skipped, too."""
    return list(
        dict.fromkeys(
            judged.step.module
            for target in verdict.targets
            for judged in target.steps
            if judged.action is not Action.ALLOW
        )
    )


def skipped(verdict: Verdict) -> list[str]:
    """The refused soft dependencies of targets that go on without them."""
    return [
        judged.step.module
        for target in verdict.targets
        for judged in target.steps
        if judged.action is Action.DENY and target.action is not Action.DENY
    ]


def barred(verdict: Verdict) -> str:
    """What would have to be changed, where no new rule can help; "" where one can."""
    return next((judged.barred for target in verdict.targets for judged in target.steps if judged.barred), "")


def who(caller: Caller) -> str:
    """The caller in a few words."""
    if not caller.known:
        return f"an unknown caller ({caller.source})"
    words = ["a kernel thread" if caller.kernel_thread else f"uid {caller.uid}"]
    if caller.euid != caller.uid:
        words.append(f"euid {caller.euid}")
    if caller.tid is not None:
        words.append(f"tid {caller.tid}")
    if caller.comm is not None:
        words.append(f"'{escape(caller.comm)}'")
    if caller.unit is not None:
        words.append(f"of {escape(caller.unit)}")
    if not caller.initial_user_namespace:
        words.append("in another user namespace")
    return " ".join(words)


def headline(verdict: Verdict) -> str:
    """What was decided for whom, why, and where that is written."""
    names = modules(verdict)
    what = f"'{escape(verdict.request.alias)}'" + (f" ({', '.join(map(escape, names))})" if names else "")
    return f"{_DONE[verdict.action]} {what} to {who(verdict.caller)}: {verdict.reason} [{verdict.origin}]"


def line(verdict: Verdict) -> str:
    """The headline, and the line that would change it."""
    text = headline(verdict)
    if verdict.action is Action.DENY:
        if bar := barred(verdict):
            return f"{text}; to let it through, change {bar}"
        rule = _rule(verdict)
        return f"{text}; to let it through: {rule} in {FOLDERS[-1]}/10-NAME.toml, a file of its own"
    left_out = skipped(verdict)
    return f"{text}; without its soft dependencies {', '.join(map(escape, left_out))}" if left_out else text


def _rule(verdict: Verdict) -> str:
    """The line that would let it through; "" where nothing was kept from anybody, or no new rule can help."""
    names = refused(verdict)
    return remedy(names, verdict.caller) if names and not barred(verdict) else ""


def worth_a_record(verdict: Verdict) -> bool:
    """Whether anything was to be decided: a new module, and a policy that does not want it quiet."""
    new = any(target.target.state is TargetState.NEW for target in verdict.targets)
    return new and not verdict.quiet


def priority(verdict: Verdict) -> int:
    """syslog(3)'s level."""
    return _PRIORITY[verdict.action]


def fields(verdict: Verdict) -> Mapping[str, str]:
    """The journal's fields of a verdict; names and values that came from outside are escaped."""
    caller = verdict.caller
    named = {
        "MESSAGE_ID": _IDS[verdict.action],
        "SAFE_MODPROBE_VERDICT": str(verdict.action),
        "SAFE_MODPROBE_ALIAS": escape(verdict.request.alias),
        "SAFE_MODPROBE_KERNEL_ARGS": " ".join(map(escape, verdict.request.kernel_args)),
        "SAFE_MODPROBE_MODULES": " ".join(map(escape, modules(verdict))),
        "SAFE_MODPROBE_REFUSED": " ".join(map(escape, refused(verdict))),
        "SAFE_MODPROBE_REASON": verdict.reason,
        "SAFE_MODPROBE_ORIGIN": str(verdict.origin),
        "SAFE_MODPROBE_BARRED": barred(verdict),
        "SAFE_MODPROBE_REMEDY": _rule(verdict),
        "SAFE_MODPROBE_SOURCE": str(caller.source),
        "SAFE_MODPROBE_CALLER_UID": _text(caller.uid),
        "SAFE_MODPROBE_CALLER_EUID": _text(caller.euid),
        "SAFE_MODPROBE_CALLER_GROUPS": _numbers(caller.gids),
        "SAFE_MODPROBE_CALLER_PID": _text(caller.pid),
        "SAFE_MODPROBE_CALLER_TID": _text(caller.tid),
        "SAFE_MODPROBE_CALLER_COMM": escape(caller.comm or ""),
        "SAFE_MODPROBE_CALLER_EXE": escape(caller.executable or ""),
        "SAFE_MODPROBE_CALLER_UNIT": escape(caller.unit or ""),
        "SAFE_MODPROBE_CALL_SITE": escape(caller.call_site or ""),
    }
    if caller.known:
        named |= {
            "SAFE_MODPROBE_CALLER_CAPS": f"{caller.capabilities:016x}",
            "SAFE_MODPROBE_CALLER_USERNS": "initial" if caller.initial_user_namespace else "other",
            "SAFE_MODPROBE_CALLER_NO_NEW_PRIVS": _YES_NO[caller.no_new_privs],
            "SAFE_MODPROBE_CALLER_KERNEL_THREAD": _YES_NO[caller.kernel_thread],
        }
    return {key: value for key, value in named.items() if value}


def _numbers(gids: frozenset[int]) -> str:
    return " ".join(map(str, sorted(gids))) if len(gids) <= MOST_GROUPS else ""


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
