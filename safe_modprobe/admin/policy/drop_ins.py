"""Read drop-ins for `check`: the installed ones, those that they replace or mask, and drafts.

read_policy() stops at the first invalid file. This module reads every file, and each error is a finding.
"""

import os
import stat
from collections.abc import Sequence

from safe_modprobe.admin.policy.findings import Finding, Severity
from safe_modprobe.errors import PolicyError, reason_of
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.policy.dropins import MAX_BYTES, SUFFIX, effective_files
from safe_modprobe.policy.files import is_mask, open_folder, read_file
from safe_modprobe.runtime import read


class DropIns(NamedTuple):
    """The files of one policy, (path, content) in order of precedence, and the findings from reading them."""

    files: tuple[tuple[str, bytes], ...]
    findings: tuple[Finding, ...]


def read_installed(folders: Sequence[str]) -> DropIns:
    """Read the drop-ins in force in these folders, the administrator's last. Errors become findings."""
    found: list[Finding] = []
    opened = [_open(path, found) for path in folders]
    try:
        listings = [[] if fd is None else sorted(os.listdir(fd)) for fd in opened]
        files = []
        for name, index in effective_files(listings):
            path = f"{folders[index]}/{name}"
            others = [f"{folders[each]}/{name}" for each in range(index) if name in listings[each]]
            try:
                content = read_file(opened[index], name, path)
            except (PolicyError, OSError) as error:
                found.append(_error(path, error))
                continue
            found += _note_replaced(path, others, masks=content is None)
            if content is not None:
                files.append((path, content))
    finally:
        for fd in opened:
            if fd is not None:
                os.close(fd)
    for folder, names in zip(folders, listings, strict=True):
        found += _ignored_files(folder, names)
    if not files and not any(each.severity is Severity.ERROR for each in found):
        message = "no drop-in is in force; the built-in policy applies: every module needs privilege"
        found.append(Finding(Severity.NOTE, folders[-1], 0, "", message))
    return DropIns(tuple(files), tuple(found))


def read_draft(path: str) -> DropIns:
    """Read a file, or a folder's drop-ins, as if they were installed alone. Owner and mode are not checked yet."""
    if not os.path.isdir(path):
        found = [] if path.endswith(SUFFIX) or not os.path.isfile(path) else _ignored_files(*_split(path))
        return _drafts([path], found)
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        return DropIns((), (_error(path, error),))
    top = path.rstrip("/") or "/"
    drop_ins, found = effective_files([names]), _ignored_files(top, names)
    if not drop_ins:  # `check --strict` in a pipeline must not pass because of a wrong folder
        found.append(
            Finding(Severity.WARNING, path, 0, "", f"no drop-in found; the name of a drop-in ends in {SUFFIX}")
        )
    return _drafts([os.path.join(top, name) for name, _ in drop_ins], found)


def _split(path: str) -> tuple[str, list[str]]:
    folder, slash, name = path.rpartition("/")
    return folder + slash, [name]


def _drafts(paths: Sequence[str], found: list[Finding]) -> DropIns:
    files = []
    for path in paths:
        try:
            status = os.stat(path)
            if is_mask(status):
                found.append(Finding(Severity.NOTE, path, 0, "", "it masks the drop-in of the same name"))
            elif stat.S_ISREG(status.st_mode):
                files.append((path, read(path, MAX_BYTES + 1)))
            else:
                found.append(
                    Finding(Severity.ERROR, path, 0, "", "it is not a file; a drop-in is one, or a link to /dev/null")
                )
        except (OSError, ValueError) as error:
            found.append(_error(path, error))
    return DropIns(tuple(files), tuple(found))


def _open(path: str, found: list[Finding]) -> int | None:
    try:
        return open_folder(path)
    except (PolicyError, OSError) as error:
        found.append(_error(path, error))
        return None


def _error(path: str, error: Exception) -> Finding:
    return Finding(Severity.ERROR, path, 0, "", reason_of(error).removeprefix(f"{path}: "))


def _note_replaced(path: str, others: Sequence[str], masks: bool) -> list[Finding]:
    if others:
        message = f"it {'masks' if masks else 'replaces'} {' and '.join(others)}"
        return [Finding(Severity.NOTE, path, 0, "", message)]
    if masks:
        return [
            Finding(Severity.WARNING, path, 0, "", "it masks nothing: no earlier folder has a drop-in of the same name")
        ]
    return []


def _ignored_files(folder: str, names: Sequence[str]) -> list[Finding]:
    message = f"it is not read: a drop-in's name ends in {SUFFIX} and does not start with a dot"
    inside = folder if not folder or folder.endswith("/") else f"{folder}/"
    wrong = [name for name in names if not effective_files([[name]]) and not os.path.isdir(f"{inside}{name}")]
    return [Finding(Severity.NOTE, f"{inside}{name}", 0, "", message) for name in wrong]
