"""Read a tree of kernel sources: its version, its files, and every mention of request_module in them."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from survey.model import Call, Grep, Mention, Survey, SurveyError
from survey.names import definitions, inside, name_of, wanted
from survey.parse import DECLARING, Argument, RawCall, parse

_THREAD = re.compile(rb"request_module\b")
_VERSION = re.compile(rb"^(VERSION|PATCHLEVEL|SUBLEVEL) *= *(\d+) *$", re.MULTILINE)
_BINARY = 8000
"""git(1) treats a file with a NUL in this many first bytes as binary."""
_PARTIAL = "the survey would be incomplete"


def survey(top: Path, after: Mapping[str, bytes] | None = None) -> Survey:
    """Survey a clean tree. `after` maps the files that the series changes to their content after it.

    Raises SurveyError if the folder is not a kernel source tree, or a file cannot be read.
    """
    version = version_of(top)
    lines: list[bytes] = []
    mentions: list[Mention] = []
    raw: list[RawCall] = []
    headers: list[Path] = []
    mentioning: dict[str, bytes] = {}
    for file in _files(top):
        data = read(top / file)
        if file.endswith(".h"):
            headers.append(top / file)
        if b"request_module" not in data or b"\0" in data[:_BINARY]:
            continue
        # grep prefixes each line with the file's name, which may match as well.
        lines += [os.fsencode(f"{file}:") + line for line in data.split(b"\n") if _THREAD.search(line)]
        found, calls_here = parse(file, data)
        mentions += found
        raw += calls_here
        mentioning[file] = data
    later = [call for file, data in (after or {}).items() for call in parse(file, data)[1]]
    macros = _macros([*raw, *later], headers)
    calls = [_call(call, macros, mentioning) for call in raw]
    if after is not None:
        calls = _converted(calls, [_call(call, macros, after) for call in later])
    ordered = sorted(calls, key=lambda call: (call.file, call.line))
    series = after is not None or any(call.capability is not None for call in calls)
    return Survey(version, _grep(lines), tuple(mentions), tuple(ordered), series)


def version_of(top: Path) -> str:
    """Return VERSION.PATCHLEVEL.SUBLEVEL of the Makefile. Raises SurveyError if this is not a kernel source tree."""
    makefile = top / "Makefile"
    found = dict(_VERSION.findall(read(makefile)[:4096])) if makefile.is_file() else {}
    sources = any((top / each).is_file() for each in ("kernel/module/kmod.c", "kernel/kmod.c"))
    if len(found) != 3 or not sources:
        missing = "kernel/module/kmod.c or kernel/kmod.c" if len(found) == 3 else "a Makefile with the kernel's VERSION"
        raise SurveyError(f"{top}: not a kernel source tree, it lacks {missing}; pass the top of a Linux tree")
    return ".".join(found[key].decode() for key in (b"VERSION", b"PATCHLEVEL", b"SUBLEVEL"))


def read(path: Path) -> bytes:
    """Return a file's bytes. Raises SurveyError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SurveyError(f"{path}: {error.strerror}; {_PARTIAL}") from None


def _files(top: Path) -> Iterator[str]:
    """Yield every regular file below a folder, in order. Links are skipped, because their targets are listed anyway."""

    def fail(error: OSError) -> None:
        raise SurveyError(f"{error.filename}: {error.strerror}; {_PARTIAL}")

    for folder, folders, files in os.walk(top, onerror=fail):
        folders[:] = sorted(set(folders) - {".git"})
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(top))


def _grep(lines: Sequence[bytes]) -> Grep:
    formatted = [line for line in lines if b"%" in line]
    constant = [line for line in lines if b"%" not in line and b'"' in line]
    return Grep(len(lines), len(constant), len(formatted))


def _macros(raw: Sequence[RawCall], files: Iterable[Path | bytes]) -> Mapping[str, Argument]:
    """Return the values of the macros that calls use. A macro with different definitions is unknown."""
    found: dict[str, set[Argument]] = {}
    names, looked_up = wanted(raw), set[str]()
    while names:  # A macro's value may name other macros.
        looked_up |= names
        for file in files:
            for name, value in definitions(file if isinstance(file, bytes) else read(file), names):
                found.setdefault(name, set()).add(value)
        names = inside(found.values()) - looked_up
    return {name: next(iter(values)) if len(values) == 1 else (None,) for name, values in found.items()}


def _call(call: RawCall, macros: Mapping[str, Argument], files: Mapping[str, bytes]) -> Call:
    """Return a call with its name resolved. A macro of the same file takes precedence over one of a header."""
    own = _macros([call], [files[call.file]])
    capability = call.before[-2] if call.api in DECLARING and len(call.before) > 1 else None
    name = name_of(call, {**macros, **own})
    return Call(call.file, call.line, call.function, call.api, call.format, name, capability)


def _converted(calls: Sequence[Call], later: Sequence[Call]) -> list[Call]:
    """Return the calls with the capability that the series declares at the same place: same function, same name.

    Raises SurveyError if the series declares a call that the tree does not have.
    """
    named: dict[tuple[str, str, str], list[Call]] = {}
    for call in later:
        named.setdefault((call.file, call.function, call.name), []).append(call)
    found = []
    for call in calls:
        queue = named.get((call.file, call.function, call.name))
        found.append(replace(call, capability=queue.pop(0).capability) if queue else call)
    for call in (each for queue in named.values() for each in queue if each.capability is not None):
        raise SurveyError(
            f"{call.file}: the series makes {call.function}() request '{call.name}', and the tree does not;"
            " use a series for this kernel"
        )
    return found
