"""A verdict in words: one line that a person can read and act on, and the journal's fields. Pure."""

from _collections_abc import Mapping

from safe_modprobe.escape import escape
from safe_modprobe.log import message_ids
from safe_modprobe.log.counts import FAILURE, LEFT, LOAD, NOTHING, POLICY, SECONDS, Budget, Repeats, origin_label
from safe_modprobe.model import Action, Caller, TargetState, Verdict
from safe_modprobe.policy.dropins import FOLDERS, SITE_FILE
from safe_modprobe.policy.text import rule_line

ADMIN_FILE = f"{FOLDERS[-1]}/{SITE_FILE}"

MOST_GROUPS = 256
"""A caller may have 65,536 groups (NGROUPS_MAX); more than these are not recorded, and a cut list would be a lie."""

_IDS = {Action.ALLOW: message_ids.ALLOWED, Action.LOG: message_ids.LOGGED, Action.DENY: message_ids.DENIED}
_DONE = {Action.ALLOW: "allowed", Action.LOG: "allowed (log)", Action.DENY: "denied"}
_YES_NO = ("no", "yes")
_PRIORITY = {Action.ALLOW: 6, Action.LOG: 5, Action.DENY: 4}  # LOG_INFO, LOG_NOTICE, LOG_WARNING


def module_names(verdict: Verdict) -> list[str]:
    """The modules to be inserted, each once, in order."""
    steps = (judged.step.module for target in verdict.targets for judged in target.steps)
    return list(dict.fromkeys(steps))


def refused_modules(verdict: Verdict) -> list[str]:
    """The modules that an admin would have to allow, each once, in order: soft ones that were skipped, too."""
    return list(
        dict.fromkeys(
            judged.step.module
            for target in verdict.targets
            for judged in target.steps
            if judged.action is not Action.ALLOW
        )
    )


def skipped_modules(verdict: Verdict) -> list[str]:
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


def describe_caller(caller: Caller) -> str:
    """The caller in a few words."""
    if not caller.known:
        return f"an unknown caller ({caller.source})"
    person = "somebody with CAP_SYS_MODULE" if caller.uid is None else f"uid {caller.uid}"
    words = ["a kernel thread" if caller.kernel_thread else person]
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
    """`initial` or `other`, as a rule has it; None where nobody could say."""
    return None if caller.initial_user_namespace is None else "initial" if caller.initial_user_namespace else "other"


def headline(verdict: Verdict) -> str:
    """What was decided for whom, why, and where that is written."""
    names = module_names(verdict)
    what = f"'{escape(verdict.request.alias)}'" + (f" ({', '.join(map(escape, names))})" if names else "")
    return f"{_DONE[verdict.action]} {what} to {describe_caller(verdict.caller)}: {verdict.reason} [{verdict.origin}]"


def line(verdict: Verdict) -> str:
    """The headline, and the line that would change it."""
    text = headline(verdict)
    if verdict.action is Action.DENY:
        return f"{text}; to let it through: {_remedy(verdict)}"
    left_out = skipped_modules(verdict)
    return f"{text}; without its soft dependencies {', '.join(map(escape, left_out))}" if left_out else text


def _remedy(verdict: Verdict) -> str:
    """The line that would let it through and where it goes, or what to change where no new rule can help."""
    if bar := barred(verdict):
        return f"change {bar}"
    return f"{rule_line(refused_modules(verdict), verdict.caller)} in {FOLDERS[-1]}/10-NAME.toml, a file of its own"


def needs_record(verdict: Verdict) -> bool:
    """Whether anything was to be decided: a new module, and a policy that does not want it quiet."""
    return _anything_new(verdict) and not verdict.quiet


def count_key(verdict: Verdict) -> tuple[str, str, str]:
    """What the request is counted by: see counts.Total."""
    if not _anything_new(verdict):
        return NOTHING, str(verdict.caller.source), NOTHING
    return str(verdict.action), str(verdict.caller.source), origin_label(verdict.origin)


def _anything_new(verdict: Verdict) -> bool:
    return any(target.target.state is TargetState.NEW for target in verdict.targets)


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
        named |= {
            "SAFE_MODPROBE_CALLER_CAPS": f"{caller.capabilities:016x}",
            "SAFE_MODPROBE_CALLER_USERNS": user_namespace(caller) or "",
            "SAFE_MODPROBE_CALLER_NO_NEW_PRIVS": "" if caller.no_new_privs is None else _YES_NO[caller.no_new_privs],
            "SAFE_MODPROBE_CALLER_KERNEL_THREAD": _YES_NO[caller.kernel_thread]
            if caller.seen or caller.kernel_thread
            else "",
        }
    return {key: value for key, value in named.items() if value}


def load_failure(verdict: Verdict, module: str, why: str) -> Mapping[str, str]:
    """The journal's fields of a module that was let through and did not get in."""
    named = {
        "MESSAGE_ID": message_ids.NOT_LOADED,
        "SAFE_MODPROBE_ALIAS": escape(verdict.request.alias),
        "SAFE_MODPROBE_MODULES": escape(module),
        "SAFE_MODPROBE_REASON": why,
        "SAFE_MODPROBE_CALLER_UID": _text(verdict.caller.uid),
    }
    return {key: value for key, value in named.items() if value}


def _numbers(gids: frozenset[int] | None) -> str:
    return "" if gids is None or len(gids) > MOST_GROUPS else " ".join(map(str, sorted(gids)))


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


_REPEATED: Mapping[str, tuple[int, str]] = {
    **{str(action): (_PRIORITY[action], f"more requests of {{}} were {done}") for action, done in _DONE.items()},
    LOAD: (4, "more loads for {} failed"),
    POLICY: (3, "more times the policy was found broken"),
    FAILURE: (3, "more times safe-modprobe failed and refused"),
    LEFT: (3, "more times safe-modprobe failed and left it to modprobe"),
}


def repeats_line(repeats: Repeats) -> str:
    """How many were not recorded one by one."""
    what = _REPEATED[repeats.budget.kind][1].format(describe_budget(repeats.budget))
    return f"{repeats.times} {what} within {SECONDS} s; they were only counted"


def repeats_priority(repeats: Repeats) -> int:
    """That of what was counted."""
    return _REPEATED[repeats.budget.kind][0]


def repeats_fields(repeats: Repeats) -> Mapping[str, str]:
    """The journal's fields of such a record."""
    kind, first, last = repeats.budget
    named = {
        "MESSAGE_ID": message_ids.REPEATED,
        "SAFE_MODPROBE_KIND": kind,
        "SAFE_MODPROBE_VERDICT": kind if kind in list(Action) else "",
        "SAFE_MODPROBE_TIMES": str(repeats.times),
        "SAFE_MODPROBE_CALLER": describe_budget(repeats.budget),
        "SAFE_MODPROBE_CALLER_UID": str(first) if 0 <= first == last else "",
        "SAFE_MODPROBE_CALLER_UIDS": f"{first}-{last}" if first < last else "",
    }
    return {key: value for key, value in named.items() if value}


def describe_budget(budget: Budget) -> str:
    """Whose budget it is, in a few words."""
    if budget.first < 0:
        return "unknown callers"
    return f"uid {budget.first}" if budget.first == budget.last else f"uids from {budget.first} to {budget.last}"
