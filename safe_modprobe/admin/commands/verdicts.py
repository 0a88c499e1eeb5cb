"""Show a verdict as text and as JSON: the request, caller, targets, steps, and the policy line that decides."""

from typing import Any

from safe_modprobe import capability
from safe_modprobe.admin.records.remedy import remedy
from safe_modprobe.escape import escape
from safe_modprobe.log.report import ADMIN_FILE, barred, describe_caller, headline, skipped_modules, user_namespace
from safe_modprobe.model import CallSite, Mark, Policy, StepVerdict, TargetVerdict, Verdict
from safe_modprobe.policy.match import call_site, first_mark


def as_json(policy: Policy, verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as JSON values. `remedy` and `barred` are null where they do not apply."""
    caller, site = verdict.caller, call_site(policy, verdict.request.alias)
    return {
        "alias": verdict.request.alias,
        "verdict": str(verdict.action),
        "reason": verdict.reason,
        "origin": str(verdict.origin),
        "caller": {
            "source": str(caller.source),
            "uid": caller.uid,
            "capabilities": capability.names_of(caller.capabilities),
            "user_namespace": user_namespace(caller),
            "seen": caller.seen,
        },
        "targets": [
            {"module": each.target.module, "state": str(each.target.state), "verdict": str(each.action)}
            for each in verdict.targets
        ],
        "steps": [
            _json_step(first_mark(policy, verdict.request.alias, judged.step.module), judged, target)
            for target in verdict.targets
            for judged in target.steps
        ],
        "call_site": None if site is None else {"grants": _grants(site), "origin": str(site.origin)},
        "remedy": remedy(verdict),
        "barred": barred(verdict) or None,
    }


def _json_step(mark: Mark | None, judged: StepVerdict, target: TargetVerdict) -> dict[str, Any]:
    step = judged.step
    return {
        "target": target.target.module,
        "module": step.module,
        "path": step.path,
        "options": step.options,
        "install": step.install,
        "marker": step.marker.written,
        "mark": None if mark is None else _privilege(mark),
        "mark_origin": None if mark is None else str(mark.origin),
        "needs": None if judged.need is None else capability.name_of(judged.need),
        "verdict": str(judged.action),
        "reason": judged.reason,
        "origin": str(judged.origin),
    }


def as_text(policy: Policy, verdict: Verdict, admin_file: str = ADMIN_FILE) -> list[str]:
    """Return lines on the caller, the call site, each target with its steps, the verdict, and what would change it.

    `admin_file` is the path of the drop-in for which a rule is proposed.
    """
    site = call_site(policy, verdict.request.alias)
    lines = [f"request  {escape(verdict.request.alias)}", f"caller   {describe_caller(verdict.caller)}"]
    held = capability.names_of(verdict.caller.capabilities)
    holds_all = len(held) == len(capability.NAMES)
    lines.append(f"         holds {'every capability' if holds_all else ' '.join(held) or 'no capability'}")
    if verdict.caller.known and not verdict.caller.seen:
        lines.append(
            "         further details are unknown; a deny rule that needs them matches, an allow rule does not"
        )
    if site is not None:
        lines.append(f"site     {_grants(site)} [{site.origin}]")
    if not verdict.targets:
        lines.append("plan     no module answers")
    for target in verdict.targets:
        lines.append(f"target   {target.target.module} ({target.target.state})")
        for judged in target.steps:
            mark = first_mark(policy, verdict.request.alias, judged.step.module)
            written = "-" if mark is None else f"{_privilege(mark)} [{mark.origin}]"
            lines.append(
                f"  step   {judged.step.module:<20} marker {judged.step.marker.written or '-':<6} mark {written}"
            )
            lines.append(f"         {judged.action}: {judged.reason} [{judged.origin}]")
    skipped = skipped_modules(verdict)
    suffix = f"; without its soft dependencies {', '.join(skipped)}" if skipped else ""
    return [*lines, f"verdict  {headline(verdict)}{suffix}", *_remedy(policy, verdict, admin_file)]


def _remedy(policy: Policy, verdict: Verdict, admin_file: str) -> list[str]:
    if bar := barred(verdict):
        return [f"remedy   change {bar}, which takes precedence over any new rule"]
    text = remedy(verdict)
    if text is None:
        return []
    if not policy.files:
        return [
            "remedy   install the default policy first; a single rule would replace the built-in policy,"
            " and every unmarked module would be allowed"
        ]
    return [f"remedy   in {admin_file}:", *(f"         {line}" for line in text.splitlines())]


def _grants(site: CallSite) -> str:
    """Describe what a call site grants."""
    return "asked for by a deputy" if site.capability is None else f"{capability.name_of(site.capability)} suffices"


def _privilege(mark: Mark) -> str:
    if mark.by_marker:
        return "left to its marker"
    return "unprivileged" if mark.capability is None else capability.name_of(mark.capability)
