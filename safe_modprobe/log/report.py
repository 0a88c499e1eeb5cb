"""Describe a verdict as one log line that an administrator can act on, and as journal fields. Pure."""

from _collections_abc import Mapping

from safe_modprobe.escape import escape
from safe_modprobe.log import message_ids
from safe_modprobe.log.counts import FAILURE, LEFT, LOAD, NOTHING, POLICY, SECONDS, Budget, Repeats, origin_label
from safe_modprobe.model import Action, Caller, TargetState, Verdict
from safe_modprobe.policy.dropins import FOLDERS, SITE_FILE
from safe_modprobe.policy.text import rule_line

ADMIN_FILE = f"{FOLDERS[-1]}/{SITE_FILE}"

MOST_GROUPS = 256
"""Groups recorded at most. A caller may have 65,536 (NGROUPS_MAX). A longer list is left out, not cut."""

_IDS = {Action.ALLOW: message_ids.ALLOWED, Action.LOG: message_ids.LOGGED, Action.DENY: message_ids.DENIED}
_DONE = {Action.ALLOW: "allowed", Action.LOG: "allowed (log)", Action.DENY: "denied"}
_YES_NO = ("no", "yes")
_PRIORITY = {Action.ALLOW: 6, Action.LOG: 5, Action.DENY: 4}  # LOG_INFO, LOG_NOTICE, LOG_WARNING


def module_names(verdict: Verdict) -> list[str]:
    """Return the modules of all steps, each once, in order."""
    steps = (judged.step.module for target in verdict.targets for judged in target.steps)
    return list(dict.fromkeys(steps))


def refused_modules(verdict: Verdict) -> list[str]:
    """Return the modules that the administrator would have to allow, each once, in order.

    Skipped soft dependencies are among them.
    """
    return list(
        dict.fromkeys(
            judged.step.module
            for target in verdict.targets
            for judged in target.steps
            if judged.action is not Action.ALLOW
        )
    )


def skipped_modules(verdict: Verdict) -> list[str]:
    """Return the refused soft dependencies of targets that load without them."""
    return [
        judged.step.module
        for target in verdict.targets
        for judged in target.steps
        if judged.action is Action.DENY and target.action is not Action.DENY
    ]


def barred(verdict: Verdict) -> str:
    """Return what must change because no new rule can allow the request; "" if a rule can."""
    return next((judged.barred for target in verdict.targets for judged in target.steps if judged.barred), "")


def describe_caller(caller: Caller) -> str:
    """Return the caller in a few words."""
    if not caller.known:
        return f"an unknown caller ({caller.source})"
    user = "a caller with CAP_SYS_MODULE" if caller.uid is None else f"uid {caller.uid}"
    words = ["a kernel thread" if caller.kernel_thread else user]
    if caller.euid not in (caller.uid, None):
        words.append(f"euid {caller.euid}")
    if caller.tid is not None:
        words.append(f"tid {caller.tid}")
    if caller.comm is not None:
        words.append(f"'{escape(caller.comm)}'")
    if caller.unit is not None:
        words.append(f"of {escape(caller.unit)}")
    if caller.initial_user_namespace is False:
        words.append("in another user namespace")
    return " ".join(words)


def user_namespace(caller: Caller) -> str | None:
    """Return `initial` or `other`, as in a rule's `user_namespace`; None if unknown."""
    return None if caller.initial_user_namespace is None else "initial" if caller.initial_user_namespace else "other"


def headline(verdict: Verdict) -> str:
    """Return the action, the request, the caller, the reason and the origin as one line."""
    names = module_names(verdict)
    requested = f"'{escape(verdict.request.alias)}'" + (f" ({', '.join(map(escape, names))})" if names else "")
    caller = describe_caller(verdict.caller)
    return f"{_DONE[verdict.action]} {requested} to {caller}: {verdict.reason} [{verdict.origin}]"


def line(verdict: Verdict) -> str:
    """Return the log line: the headline, and how to allow a refused request."""
    text = headline(verdict)
    if verdict.action is Action.DENY:
        return f"{text}; to allow it, {_remedy(verdict)}"
    skipped = skipped_modules(verdict)
    return f"{text}; without its soft dependencies {', '.join(map(escape, skipped))}" if skipped else text


def _remedy(verdict: Verdict) -> str:
    """Return the rule that would allow the request and its file, or what must change because no rule can."""
    if obstacle := barred(verdict):
        return f"change {obstacle}"
    # A file may set `rule = [...]` once, so each such line needs its own file.
    return f"add {rule_line(refused_modules(verdict), verdict.caller)} in the new file {FOLDERS[-1]}/10-NAME.toml"


def needs_record(verdict: Verdict) -> bool:
    """Return whether the verdict is on a new module and the policy does not make it quiet."""
    return _anything_new(verdict) and not verdict.quiet


def count_key(verdict: Verdict) -> tuple[str, str, str]:
    """Return the counter that this request increases, a counts.Total."""
    if not _anything_new(verdict):
        return NOTHING, str(verdict.caller.source), NOTHING
    return str(verdict.action), str(verdict.caller.source), origin_label(verdict.origin)


def _anything_new(verdict: Verdict) -> bool:
    return any(target.target.state is TargetState.NEW for target in verdict.targets)


def priority(verdict: Verdict) -> int:
    """Return the priority of syslog(3)."""
    return _PRIORITY[verdict.action]


def fields(verdict: Verdict) -> Mapping[str, str]:
    """Return the journal fields of a verdict; untrusted names and values are escaped, empty values left out."""
    caller = verdict.caller
    values = {
        "MESSAGE_ID": _IDS[verdict.action],
        "SAFE_MODPROBE_VERDICT": str(verdict.action),
        "SAFE_MODPROBE_ALIAS": escape(verdict.request.alias),
        "SAFE_MODPROBE_KERNEL_ARGS": " ".join(map(escape, verdict.request.kernel_args)),
        "SAFE_MODPROBE_MODULES": " ".join(map(escape, module_names(verdict))),
        "SAFE_MODPROBE_REFUSED": " ".join(map(escape, refused_modules(verdict))),
        "SAFE_MODPROBE_REASON": verdict.reason,
        "SAFE_MODPROBE_ORIGIN": str(verdict.origin),
        "SAFE_MODPROBE_BARRED": barred(verdict),
        "SAFE_MODPROBE_REMEDY": "" if verdict.action is Action.ALLOW else _remedy(verdict),
        "SAFE_MODPROBE_SOURCE": str(caller.source),
        "SAFE_MODPROBE_CALLER": describe_caller(caller),
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
        values |= {
            "SAFE_MODPROBE_CALLER_CAPS": f"{caller.capabilities:016x}",
            "SAFE_MODPROBE_CALLER_USERNS": user_namespace(caller) or "",
            "SAFE_MODPROBE_CALLER_NO_NEW_PRIVS": "" if caller.no_new_privs is None else _YES_NO[caller.no_new_privs],
            "SAFE_MODPROBE_CALLER_KERNEL_THREAD": _YES_NO[caller.kernel_thread]
            if caller.seen or caller.kernel_thread
            else "",
        }
    return {key: value for key, value in values.items() if value}


def load_failure(verdict: Verdict, module: str, reason: str) -> Mapping[str, str]:
    """Return the journal fields of a module that was allowed and could not be loaded."""
    values = {
        "MESSAGE_ID": message_ids.NOT_LOADED,
        "SAFE_MODPROBE_ALIAS": escape(verdict.request.alias),
        "SAFE_MODPROBE_MODULES": escape(module),
        "SAFE_MODPROBE_REASON": reason,
        "SAFE_MODPROBE_CALLER_UID": _text(verdict.caller.uid),
    }
    return {key: value for key, value in values.items() if value}


def _numbers(gids: frozenset[int] | None) -> str:
    return "" if gids is None or len(gids) > MOST_GROUPS else " ".join(map(str, sorted(gids)))


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


_REPEATED: Mapping[str, tuple[int, str]] = {
    **{str(action): (_PRIORITY[action], f"more requests by {{}} were {done}") for action, done in _DONE.items()},
    LOAD: (4, "more loads for {} failed"),
    POLICY: (3, "more times the policy was found broken"),
    FAILURE: (3, "more times safe-modprobe failed and refused the request"),
    LEFT: (3, "more times safe-modprobe failed and left the request to modprobe"),
}
"""Kind of record -> (priority, what happened so many times; {} is the budget's users)."""


def repeats_line(repeats: Repeats) -> str:
    """Return the log line for the records that were only counted."""
    event = _REPEATED[repeats.budget.kind][1].format(describe_budget(repeats.budget))
    return f"{repeats.times} {event} within {SECONDS} s; they were only counted, to limit the rate of records"


def repeats_priority(repeats: Repeats) -> int:
    """Return the syslog(3) priority of the counted records."""
    return _REPEATED[repeats.budget.kind][0]


def repeats_fields(repeats: Repeats) -> Mapping[str, str]:
    """Return the journal fields of such a record."""
    kind, first, last = repeats.budget
    values = {
        "MESSAGE_ID": message_ids.REPEATED,
        "SAFE_MODPROBE_KIND": kind,
        "SAFE_MODPROBE_VERDICT": kind if kind in list(Action) else "",
        "SAFE_MODPROBE_TIMES": str(repeats.times),
        "SAFE_MODPROBE_CALLER": describe_budget(repeats.budget),
        "SAFE_MODPROBE_CALLER_UID": str(first) if 0 <= first == last else "",
        "SAFE_MODPROBE_CALLER_UIDS": f"{first}-{last}" if first < last else "",
    }
    return {key: value for key, value in values.items() if value}


def describe_budget(budget: Budget) -> str:
    """Return the users of a budget in a few words."""
    if budget.first < 0:
        return "unknown callers"
    return f"uid {budget.first}" if budget.first == budget.last else f"uids from {budget.first} to {budget.last}"
