"""What `mark`, `unmark` and `allow` have in common: a row for the admin's own drop-in, checked before it lands.

First the whole edit is made and judged without touching anything; then once more under the drop-in's lock, and written.
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

_MAX_REASON = 500  # characters; every record of the log repeats it, and tomlkit's time grows with its square
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_UNTIL_REBOOT = "until the next boot"


def reason(arguments: argparse.Namespace) -> str:
    """`--reason`, which only what the next boot forgets can do without. Raises UsageError."""
    text: str | None = arguments.reason
    if text is None and arguments.until_reboot:
        return _UNTIL_REBOOT
    if text is None:
        raise UsageError("--reason: say why, for whoever reads the policy next; or give --until-reboot")
    if not text.strip():
        raise UsageError("--reason: it is empty; say why, for whoever reads the policy next")
    if not text.isprintable():
        raise UsageError(f"--reason: {text!a} holds what is no printable character; a reason is one line of text")
    if len(text) > _MAX_REASON:
        raise UsageError(f"--reason: it has {len(text)} characters; it may have {_MAX_REASON}")
    return text.strip()


class _Drop(NamedTuple):
    """A drop-in as it is, and the whole policy as it would be with another text in it."""

    path: str
    text: str
    in_force: Callable[[str], Policy]


def apply_edit(arguments: argparse.Namespace, wish: RequestedEdit) -> int:
    """Write the row that the wish takes, if it takes one, and say what came of it. Raises SafeModprobeError."""
    on = machine.from_arguments(arguments)
    found = [_known(on, name, arguments.force) for name in arguments.modules]
    known = list({each.target.module: each for each in found}.values())
    candidates = [Candidate(each.target, each.aliases) for each in known]
    folder, name = (FOLDERS[1], UNTIL_REBOOT_FILE) if arguments.until_reboot else (FOLDERS[2], SITE_FILE)
    path = on.path(f"{folder}/{name}")

    def plan() -> tuple[_Drop, PlannedEdit]:
        try:
            drop = _read(on, path)
            return drop, plan_edit(drop.text, name, wish, candidates, drop.in_force)
        except (PolicyError, UsageError) as error:
            raise SafeModprobeError(f"{error}; nothing was changed") from None

    drop, change = plan()
    if change.text != drop.text and not arguments.dry_run:
        with atomic_write.open_draft(path) as draft:
            drop, change = plan()
            draft.commit(change.text.encode())
    policy = drop.in_force(change.text) if arguments.dry_run else on.policy()
    check_result(policy, wish, candidates)  # what is on disk, not what was planned
    live = tuple(each.target.module for each in known if each.now is TargetState.LIVE)
    done = _Done(wish, drop, change, policy, tuple(_worst(policy, wish, each) for each in candidates), live)
    if arguments.json:
        print_json(_as_json(done))
    else:
        for line in _as_text(done, arguments):
            print(printable(line))
    return 0


class _Done(NamedTuple):
    """What is to be said: `verdicts` are the modules' own in their order, `live` those in the kernel now."""

    wish: RequestedEdit
    drop: _Drop
    change: PlannedEdit
    policy: Policy
    verdicts: tuple[Verdict, ...]
    live: tuple[str, ...]


def _known(on: Machine, untrusted_name: str, force: bool) -> UnloadedModule:
    """The module of this name on that machine. Raises UsageError."""
    if not _NAME.fullmatch(untrusted_name) or len(untrusted_name) > MAX_REQUEST:
        raise UsageError(
            f"{untrusted_name!a} is not a module's name, which has up to {MAX_REQUEST} letters, digits, - and _;"
            " patterns and aliases are for policy files"
        )
    name = untrusted_name.replace("-", "_")
    try:
        found = read_as_unloaded(name, on.modules(), on.config())
    except UsageError:  # there are no modules at all
        if not force:
            raise
        found = None
    if found is not None and found.now is not TargetState.BUILT_IN:
        return found
    if force:
        return UnloadedModule(Target(name, TargetState.NEW, (Step(name),)), (name,), TargetState.NEW)
    wrong = "it is built in, so no policy keeps anybody from it" if found else f"no such module{_near(on, name)}"
    raise UsageError(f"{name}: {wrong}; --force writes the row all the same")


def _near(on: Machine, name: str) -> str:
    near = difflib.get_close_matches(name, read_indexes(on.modules(), on.config()).modules, 3, 0.7)
    return f" in this kernel; did you mean {' or '.join(near)}?" if near else " in this kernel"


def _read(on: Machine, path: str) -> _Drop:
    """Raises PolicyError for a policy that is broken now, SafeModprobeError where the drop-in could not count."""
    folders, accounts = on.folders(), on.accounts()
    folder, _, name = path.rpartition("/")
    atomic_write.require_regular_file(path)
    content = _content(folder, name, path)
    files = read_drop_ins(folders, {path: content or b""})
    if path not in dict(files):
        other = f"{folders[-1]}/{name}"
        raise SafeModprobeError(f"{other}: it takes the place of {path}; nothing was changed, remove it")
    if content is None and len(files) == 1:
        raise SafeModprobeError(
            f"{folders[0]}: no drop-in is in force, so the built-in policy is, in which every module needs privilege,"
            " and a row of yours would replace it; nothing was changed, install the default policy first"
        )
    text = "" if content is None else _text(path, content)

    def in_force(text: str) -> Policy:
        return build([(each, text.encode() if each == path else old) for each, old in files], accounts)

    return _Drop(path, text, in_force)


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
    Document(path, content)  # raises the sentence, with the place, where it is no TOML
    return content.decode()


def _as_text(done: _Done, arguments: argparse.Namespace) -> list[str]:
    drop, change, dry_run = done.drop, done.change, arguments.dry_run
    said = []
    if change.text == drop.text:
        said.append(f"{drop.path}: nothing to change")
    elif dry_run:
        said += _diff(drop, change)
    else:
        if change.line:
            said += [f"{drop.path}:{change.line}: written", *(f"  {line}" for line in _row(done))]
        if change.taken_out:
            said.append(f"{drop.path}: {', '.join(change.taken_out)} taken out of an earlier mark")
    said += [_outcome(done.wish, verdict) for verdict in done.verdicts]
    said += [f"note: {note}" for note in _notes(done)]
    if change.text != drop.text and not dry_run:
        said.append(f"to undo: {_undo(done, arguments)}")
    return said


def _diff(drop: _Drop, change: PlannedEdit) -> list[str]:
    before, after = _lines(drop.text), _lines(change.text)
    return list(difflib.unified_diff(before, after, drop.path, f"{drop.path} (not written)", lineterm=""))


def _lines(text: str) -> list[str]:
    """Lines as TOML has them; str.splitlines() cuts at more."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _row(done: _Done) -> list[str]:
    lines = _lines(done.change.text)[done.change.line - 1 :]
    return lines[: len(done.wish.row) + 2] if lines[0].startswith("[[") else lines[:1]


def _worst(policy: Policy, wish: RequestedEdit, candidate: Candidate) -> Verdict:
    """Of all that a module can be asked for by, what is the least of what was wished."""
    order = [Action.ALLOW, Action.LOG, Action.DENY]
    if wish.verb is Verb.MARK:
        order.reverse()
    return max(verdicts(policy, wish, candidate), key=lambda verdict: order.index(verdict.action))


def _own(verdict: Verdict) -> StepVerdict:
    """What was said of the module itself, not of what it needs."""
    (target,) = verdict.targets
    return next(judged for judged in target.steps if judged.step.module == target.target.module)


def _outcome(wish: RequestedEdit, verdict: Verdict) -> str:
    own = _own(verdict)
    word = "allowed" if verdict.action is Action.ALLOW else "denied"
    user = f"uid {verdict.caller.uid}" if wish.uids else "a user without privilege"
    unit = f" of {verdict.caller.unit}" if verdict.caller.unit else ""
    return f"{own.step.module}: {word} to {user}{unit}: {own.reason} [{own.origin}]"


def _notes(done: _Done) -> list[str]:
    settings, change = done.policy.settings, done.change
    notes = []
    if change.added:
        notes.append(f"the row names {', '.join(change.added)} as well, without which that would not load")
    if done.live and done.wish.verb is Verb.MARK:
        notes.append(f"in the kernel already, so everybody has it until 'rmmod {' '.join(done.live)}'")
    if settings.trial:
        notes.append(f"a trial is on, so nobody is refused anything yet [{settings.origin('trial')}]")
    elif settings.mismatch is not Action.DENY:
        place = settings.origin("mismatch")
        notes.append(f"mismatch is {settings.mismatch}, so nobody is refused for a mark [{place}]")
    return notes


def _undo(done: _Done, arguments: argparse.Namespace) -> str:
    change, taken_out = done.change, " ".join(done.change.taken_out)
    if not change.line:
        return "; ".join(_put_back(done, name, arguments) for name in change.taken_out)
    put_back = f", and name {taken_out} in the earlier mark again" if taken_out else ""
    boot = "; a boot does it, too" if arguments.until_reboot else ""
    return f"remove the row at {done.drop.path}:{change.line}{put_back}{boot}"


def _put_back(done: _Done, module: str, arguments: argparse.Namespace) -> str:
    """The command that marks the module again as the row did that it was taken out of."""
    row = next(each for each in rows_of(done.drop.text, "mark") if _names(each, module))
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


def _as_json(done: _Done) -> dict[str, Any]:
    change = done.change
    return {
        "path": done.drop.path,
        "changed": change.text != done.drop.text,
        "line": change.line or None,
        "diff": "\n".join(_diff(done.drop, change)),
        "modules": list(change.modules),
        "added": list(change.added),
        "taken_out": list(change.taken_out),
        "trial": done.policy.settings.trial,
        "mismatch": str(done.policy.settings.mismatch),
        "verdicts": [_json_verdict(done.wish, verdict) for verdict in done.verdicts],
    }


def _json_verdict(wish: RequestedEdit, verdict: Verdict) -> dict[str, Any]:
    own = _own(verdict)
    return {
        "module": own.step.module,
        "uid": verdict.caller.uid if wish.uids else None,
        "unit": verdict.caller.unit,
        "verdict": str(verdict.action),
        "need": None if own.need is None else name_of(own.need),
        "reason": own.reason,
        "origin": str(own.origin),
    }
