"""The common code of `mark`, `unmark` and `allow`: write a row to the administrator's drop-in.

The whole edit is first planned and checked without writing. Then it is planned again under the drop-in's lock, and
written.
"""

import argparse
import difflib
import os
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from safe_modprobe.admin.commands import machine
from safe_modprobe.admin.commands.machine import Machine
from safe_modprobe.admin.commands.output import print_json, printable
from safe_modprobe.admin.modules.indexes import read_indexes
from safe_modprobe.admin.modules.inspect_plan import UnloadedModule, read_as_unloaded
from safe_modprobe.admin.policy import atomic_write
from safe_modprobe.admin.policy.edit import rows_of, same_name
from safe_modprobe.admin.policy.edits import (
    Candidate,
    PlannedEdit,
    RequestedEdit,
    Verb,
    check_result,
    plan_edit,
    verdicts,
)
from safe_modprobe.admin.policy.reach import MAX_REQUEST
from safe_modprobe.capability import name_of
from safe_modprobe.errors import PolicyError, SafeModprobeError, UsageError
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import BY_MARKER, Action, Policy, Step, StepVerdict, Target, TargetState, Verdict
from safe_modprobe.policy.dropins import FOLDERS, SITE_FILE, UNTIL_REBOOT_FILE
from safe_modprobe.policy.files import open_folder, read_drop_ins, read_file
from safe_modprobe.policy.schema import Document, build

__all__ = ["RequestedEdit", "Verb", "apply_edit", "reason"]

_MAX_REASON = 500  # Characters. Every log record repeats the reason, and tomlkit takes quadratic time in its length.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_UNTIL_REBOOT = "until the next boot"


def reason(arguments: argparse.Namespace) -> str:
    """Return `--reason`, which is optional only with --until-reboot. Raises UsageError."""
    text: str | None = arguments.reason
    if text is None and arguments.until_reboot:
        return _UNTIL_REBOOT
    if text is None:
        raise UsageError("--reason: say why, for the next reader of the policy, or give --until-reboot")
    if not text.strip():
        raise UsageError("--reason: it is empty; say why, for the next reader of the policy")
    if not text.isprintable():
        raise UsageError(f"--reason: {text!a} contains an unprintable character; a reason is one line of text")
    if len(text) > _MAX_REASON:
        raise UsageError(f"--reason: it has {len(text)} characters; the limit is {_MAX_REASON}")
    return text.strip()


class _DropIn(NamedTuple):
    """A drop-in: its path, its text, and a function that builds the whole policy with another text in its place."""

    path: str
    text: str
    policy_with: Callable[[str], Policy]


def apply_edit(arguments: argparse.Namespace, edit: RequestedEdit) -> int:
    """Write the row that the edit needs, if any, and print the result. Return 0. Raises SafeModprobeError."""
    host = machine.from_arguments(arguments)
    named = [_find_module(host, name, arguments.force) for name in arguments.modules]
    modules = list({each.target.module: each for each in named}.values())
    candidates = [Candidate(each.target, each.aliases) for each in modules]
    folder, name = (FOLDERS[1], UNTIL_REBOOT_FILE) if arguments.until_reboot else (FOLDERS[2], SITE_FILE)
    path = host.path(f"{folder}/{name}")

    def plan() -> tuple[_DropIn, PlannedEdit]:
        try:
            drop_in = _read(host, path)
            return drop_in, plan_edit(drop_in.text, name, edit, candidates, drop_in.policy_with)
        except (PolicyError, UsageError) as error:
            raise SafeModprobeError(f"{error}; nothing was changed") from None

    drop_in, change = plan()
    if change.text != drop_in.text and not arguments.dry_run:
        with atomic_write.open_draft(path) as draft:
            drop_in, change = plan()
            draft.commit(change.text.encode())
    policy = drop_in.policy_with(change.text) if arguments.dry_run else host.policy()
    check_result(policy, edit, candidates)  # Check what is on disk, not what was planned.
    live = tuple(each.target.module for each in modules if each.now is TargetState.LIVE)
    worst = tuple(_worst_verdict(policy, edit, each) for each in candidates)
    result = _Result(edit, drop_in, change, policy, worst, live)
    if arguments.json:
        print_json(_as_json(result))
    else:
        for line in _as_text(result, arguments):
            print(printable(line))
    return 0


class _Result(NamedTuple):
    """The result to report: `verdicts` has one for each module, `live` names the modules in the kernel now."""

    edit: RequestedEdit
    drop_in: _DropIn
    change: PlannedEdit
    policy: Policy
    verdicts: tuple[Verdict, ...]
    live: tuple[str, ...]


def _find_module(host: Machine, untrusted_name: str, force: bool) -> UnloadedModule:
    """Return the module of this name on that machine. Raises UsageError."""
    if not _NAME.fullmatch(untrusted_name) or len(untrusted_name) > MAX_REQUEST:
        raise UsageError(
            f"{untrusted_name!a} is not a module name, which has up to {MAX_REQUEST} letters, digits, - and _;"
            " patterns and aliases belong in policy files"
        )
    name = untrusted_name.replace("-", "_")
    try:
        found = read_as_unloaded(name, host.modules(), host.config())
    except UsageError:  # The machine has no modules at all.
        if not force:
            raise
        found = None
    if found is not None and found.now is not TargetState.BUILT_IN:
        return found
    if force:
        return UnloadedModule(Target(name, TargetState.NEW, (Step(name),)), (name,), TargetState.NEW)
    problem = "it is built in, so no policy can refuse it" if found else f"no such module{_hint(host, name)}"
    raise UsageError(f"{name}: {problem}; --force writes the row anyway")


def _hint(host: Machine, name: str) -> str:
    similar = difflib.get_close_matches(name, read_indexes(host.modules(), host.config()).modules, 3, 0.7)
    return f" in this kernel (did you mean {' or '.join(similar)}?)" if similar else " in this kernel"


def _read(host: Machine, path: str) -> _DropIn:
    """Read the drop-in. Raises PolicyError if the policy is broken, SafeModprobeError if the drop-in has no effect."""
    folders, accounts = host.folders(), host.accounts()
    folder, _, name = path.rpartition("/")
    atomic_write.require_regular_file(path)
    content = _content(folder, name, path)
    files = read_drop_ins(folders, {path: content or b""})
    if path not in dict(files):
        other = f"{folders[-1]}/{name}"
        raise SafeModprobeError(f"{other}: it replaces {path}; nothing was changed; remove it")
    if content is None and len(files) == 1:
        raise SafeModprobeError(
            f"{folders[0]}: no drop-in is in force, so the built-in policy is: every module needs privilege; your row"
            " would replace it; nothing was changed; install the default policy first"
        )
    text = "" if content is None else _text(path, content)

    def policy_with(text: str) -> Policy:
        return build([(each, text.encode() if each == path else old) for each, old in files], accounts)

    return _DropIn(path, text, policy_with)


def _content(folder: str, name: str, path: str) -> bytes | None:
    try:
        fd = open_folder(folder)
        if fd is None:
            return None
        try:
            return read_file(fd, name, path) if name in os.listdir(fd) else None
        finally:
            os.close(fd)
    except OSError as error:
        raise atomic_write.cannot_write(path, error) from None


def _text(path: str, content: bytes) -> str:
    Document(path, content)  # Raises PolicyError with the line, unless it is TOML.
    return content.decode()


def _as_text(result: _Result, arguments: argparse.Namespace) -> list[str]:
    drop_in, change, dry_run = result.drop_in, result.change, arguments.dry_run
    lines = []
    if change.text == drop_in.text:
        lines.append(f"{drop_in.path}: nothing to change")
    elif dry_run:
        lines += _diff(drop_in, change)
    else:
        if change.line:
            lines += [f"{drop_in.path}:{change.line}: written", *(f"  {line}" for line in _row(result))]
        if change.taken_out:
            lines.append(f"{drop_in.path}: {', '.join(change.taken_out)} removed from an earlier mark")
    lines += [_outcome(result.edit, verdict) for verdict in result.verdicts]
    lines += [f"note: {note}" for note in _notes(result)]
    if change.text != drop_in.text and not dry_run:
        lines.append(f"to undo: {_undo(result, arguments)}")
    return lines


def _diff(drop_in: _DropIn, change: PlannedEdit) -> list[str]:
    before, after = _lines(drop_in.text), _lines(change.text)
    return list(difflib.unified_diff(before, after, drop_in.path, f"{drop_in.path} (not written)", lineterm=""))


def _lines(text: str) -> list[str]:
    """Split at TOML's line ends only. str.splitlines() knows more."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _row(result: _Result) -> list[str]:
    lines = _lines(result.change.text)[result.change.line - 1 :]
    return lines[: len(result.edit.row) + 2] if lines[0].startswith("[[") else lines[:1]


def _worst_verdict(policy: Policy, edit: RequestedEdit, candidate: Candidate) -> Verdict:
    """Return the verdict furthest from what the edit asks for, over all aliases of the module."""
    order = [Action.ALLOW, Action.LOG, Action.DENY]
    if edit.verb is Verb.MARK:
        order.reverse()
    return max(verdicts(policy, edit, candidate), key=lambda verdict: order.index(verdict.action))


def _own_step(verdict: Verdict) -> StepVerdict:
    """Return the verdict on the module itself, without its dependencies."""
    (target,) = verdict.targets
    return next(judged for judged in target.steps if judged.step.module == target.target.module)


def _outcome(edit: RequestedEdit, verdict: Verdict) -> str:
    own = _own_step(verdict)
    outcome = "allowed" if verdict.action is Action.ALLOW else "denied"
    user = f"uid {verdict.caller.uid}" if edit.uids else "a user without privilege"
    unit = f" of {verdict.caller.unit}" if verdict.caller.unit else ""
    return f"{own.step.module}: {outcome} to {user}{unit}: {own.reason} [{own.origin}]"


def _notes(result: _Result) -> list[str]:
    settings, change = result.policy.settings, result.change
    notes = []
    if change.added:
        notes.append(f"the row also names {', '.join(change.added)}, needed to load the rest")
    if result.live and result.edit.verb is Verb.MARK:
        notes.append(f"it is in the kernel already, so every user has it until 'rmmod {' '.join(result.live)}'")
    if settings.trial:
        notes.append(f"a trial is on, so nothing is refused yet [{settings.origin('trial')}]")
    elif settings.mismatch is not Action.DENY:
        place = settings.origin("mismatch")
        notes.append(f"mismatch is {settings.mismatch}, so a mark refuses nothing [{place}]")
    return notes


def _undo(result: _Result, arguments: argparse.Namespace) -> str:
    change, taken_out = result.change, " ".join(result.change.taken_out)
    if not change.line:
        return "; ".join(_restore_command(result, name, arguments) for name in change.taken_out)
    restore = f", and add {taken_out} to the earlier mark again" if taken_out else ""
    boot = "; the next boot undoes it too" if arguments.until_reboot else ""
    return f"remove the row at {result.drop_in.path}:{change.line}{restore}{boot}"


def _restore_command(result: _Result, module: str, arguments: argparse.Namespace) -> str:
    """Return the command that marks the module again, as the row did that it was removed from."""
    row = next(each for each in rows_of(result.drop_in.text, "mark") if _names(each, module))
    verb = Verb.MARK if row["privileged"] not in (False, BY_MARKER) else Verb.UNMARK
    words = ["safe-modprobectl", str(verb), module]
    words += ["--cap", row["privileged"]] if isinstance(row["privileged"], str) and verb is Verb.MARK else []
    words += ["--over-marker"] if row["privileged"] is False else []
    words += ["--until-reboot"] if arguments.until_reboot else []
    words += ["--root", arguments.root] if arguments.root is not None else []
    words += ["--kernel", arguments.kernel] if arguments.kernel is not None else []
    words += ["--force"] if arguments.force else []
    return shlex.join([*words, "--reason", row.get("reason", "as before")])


def _names(row: Mapping[str, Any], module: str) -> bool:
    return "aliases" not in row and any(same_name(name, module) for name in row["modules"])


def _as_json(result: _Result) -> dict[str, Any]:
    change = result.change
    return {
        "path": result.drop_in.path,
        "changed": change.text != result.drop_in.text,
        "line": change.line or None,
        "diff": "\n".join(_diff(result.drop_in, change)),
        "modules": list(change.modules),
        "added": list(change.added),
        "taken_out": list(change.taken_out),
        "trial": result.policy.settings.trial,
        "mismatch": str(result.policy.settings.mismatch),
        "verdicts": [_json_verdict(result.edit, verdict) for verdict in result.verdicts],
    }


def _json_verdict(edit: RequestedEdit, verdict: Verdict) -> dict[str, Any]:
    own = _own_step(verdict)
    return {
        "module": own.step.module,
        "uid": verdict.caller.uid if edit.uids else None,
        "unit": verdict.caller.unit,
        "verdict": str(verdict.action),
        "need": None if own.need is None else name_of(own.need),
        "reason": own.reason,
        "origin": str(own.origin),
    }
