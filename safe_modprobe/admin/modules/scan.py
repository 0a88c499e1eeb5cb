"""Every module of a kernel, read by libkmod and by pyelftools, on all processors.

A broken module is a row with a finding, never the end of the scan: not even one on which libkmod crashes.
"""

import faulthandler
import multiprocessing
import os
import resource
import signal
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from safe_modprobe.admin.modules.elf import read_modinfo
from safe_modprobe.admin.modules.indexes import loadable_paths, module_name
from safe_modprobe.capability import SYS_MODULE
from safe_modprobe.errors import UntrustedInputError, UsageError, reason_of
from safe_modprobe.kmod import Kmod, KmodError
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Marker
from safe_modprobe.modules.image import compression, sealed_copy
from safe_modprobe.modules.plan import doubtful_marker, parse_marker

_ENDINGS = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_CHUNK = 25
"""Modules that a worker takes at once: often enough for a progress bar, rarely enough for the pipe."""

_MAX_BYTES = 1 << 30
"""Of a decompressed module: the biggest of a distribution's has some 30 MiB with its debug information."""
_MAX_MEMORY = 4 << 30
"""A worker's address space. A few kilobytes of xz may say that they are a terabyte."""

_FORK = multiprocessing.get_context("fork")
"""Any other way of starting a worker (Python 3.14's default is one) would run the command itself in it, once more."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_SIGNATURE = {"sig_id", "signer", "sig_key", "sig_hashalgo", "signature"}
"""What libkmod adds to .modinfo's pairs, behind them, for a signed module."""


class Scanned(NamedTuple):
    """A module's file, by its path below the folder of modules, and what both readers found in it."""

    path: str
    module: str
    aliases: tuple[str, ...] = ()
    marker: Marker = Marker()
    findings: tuple[str, ...] = ()


def module_files(folder: str) -> list[str]:
    """The paths of all modules below the folder: those that lie there, and those that modules.dep names.

    Raises OSError, UsageError when there is no such folder.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder of modules; give the right --root and --kernel")
    found: set[str] = set()
    with suppress(FileNotFoundError):  # which an image may still lack
        found.update(loadable_paths(folder))
    for top, _, names in os.walk(folder, onerror=_raise):
        found |= {os.path.relpath(os.path.join(top, name), folder) for name in names if name.endswith(_ENDINGS)}
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def scan(folder: str, paths: Sequence[str], workers: int | None = None) -> Iterator[Scanned]:
    """All these modules, in no order. `workers`: processes, one for each processor by default.

    The workers start at the first call of next(), and a file on which one of them dies is a finding. Raises KmodError.
    """
    Kmod(folder, [])  # what a worker could not do either, it could not say
    lost: list[str] = []
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    for chunk, found in _parallel(folder, chunks, workers or _processors()):
        if found is None:
            lost += chunk
        else:
            yield from found
    while lost:
        # One of these made a worker die, and the others went down with it: each by itself, until it is found.
        left = set(lost)
        for chunk, found in _parallel(folder, [[path] for path in lost], 1):
            if found is None:
                break
            left -= set(chunk)
            yield from found
        else:
            return
        (culprit,) = chunk
        yield _failed(culprit, "it makes the reader crash")
        lost = [path for path in lost if path in left and path != culprit]


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _parallel(
    folder: str, chunks: Sequence[Sequence[str]], workers: int
) -> Iterator[tuple[Sequence[str], list[Scanned] | None]]:
    """Each chunk with its modules, None where the workers died."""
    if not chunks:
        return
    pool = ProcessPoolExecutor(min(workers, len(chunks)), _FORK, _start, (folder,))
    try:
        waiting: dict[Future[list[Scanned]], Sequence[str]] = {}
        died = []
        for chunk in chunks:
            try:
                waiting[pool.submit(_read_all, chunk)] = chunk
            except BrokenProcessPool:
                died.append(chunk)
        for done in _in_order(waiting, workers):
            try:
                yield waiting[done], done.result()
            except BrokenProcessPool:
                yield waiting[done], None
        for chunk in died:
            yield chunk, None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(waiting: Iterable[Future[list[Scanned]]], workers: int) -> Iterable[Future[list[Scanned]]]:
    """As they come; but a single worker does one after another, and the first that fails is the one that failed."""
    return waiting if workers == 1 else as_completed(waiting)


_kmod: Kmod
"""A worker's context. libkmod's are not to be shared, and a fork shares."""
_folder: str


def _start(folder: str) -> None:
    global _kmod, _folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, without a traceback of ours
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libkmod's assertions speak there, and the findings say it better
    faulthandler.disable()
    _limit(resource.RLIMIT_FSIZE, _MAX_BYTES)
    _limit(resource.RLIMIT_AS, _MAX_MEMORY)
    _limit(resource.RLIMIT_CORE, 0)
    # No modprobe.d: what a file says does not depend on it.
    _kmod, _folder = Kmod(folder, []), folder


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _read_all(paths: Sequence[str]) -> list[Scanned]:
    return [_scan(path) for path in paths]


def _scan(path: str) -> Scanned:
    try:
        fd = os.open(os.path.join(_folder, path), _OPEN)
    except (OSError, ValueError) as error:
        return _failed(path, f"unreadable: {_text(error)}")
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return _failed(path, "unreadable: it is not a file")
        kind = compression(fd)
        if kind is None:
            return _both(path, fd)
        image = sealed_copy(fd, kind)
        try:
            return _both(path, image)
        finally:
            os.close(image)
    except (OSError, UntrustedInputError, MemoryError) as error:
        return _failed(path, f"unreadable: {_text(error)}")
    finally:
        os.close(fd)


def _failed(path: str, finding: str) -> Scanned:
    return Scanned(path, module_name(path), (), doubtful_marker(finding), (finding,))


def _both(path: str, fd: int) -> Scanned:
    """libkmod's word counts, since the helper goes by it; pyelftools' is there to differ."""
    findings: list[str] = []
    kmod_pairs = elf_pairs = None
    try:
        kmod_pairs = _kmod.module_from_path(f"/proc/self/fd/{fd}").info
    except KmodError as error:
        findings.append(f"libkmod cannot read it: {reason_of(error)}")
    try:
        modinfo = read_modinfo(fd)
        findings += modinfo.findings
        elf_pairs = list(modinfo.pairs)
    except UntrustedInputError as error:
        findings.append(f"pyelftools cannot read it: {error}")
    if kmod_pairs is None:
        return Scanned(path, module_name(path), (), doubtful_marker(findings[0]), tuple(findings))
    if elf_pairs is not None:
        findings += _differences(kmod_pairs, elf_pairs)
    found = parse_marker(kmod_pairs)
    if found.capability == SYS_MODULE and found.written not in ("Y", "CAP_SYS_MODULE"):
        findings.append(f"its marker privileged= has {found.written}")
    aliases = tuple(value for key, value in kmod_pairs if key == "alias")
    return Scanned(path, module_name(path), aliases, found, tuple(findings))


def _differences(kmod: list[tuple[str, str]], elf: list[tuple[str, str]]) -> list[str]:
    """What the readers disagree on, by keys; the order counts, and a signature's pairs behind them do not."""
    shared, rest = kmod[: len(elf)], kmod[len(elf) :]
    if shared == elf and {key for key, _ in rest} <= _SIGNATURE:
        return []
    only = [key for key in dict.fromkeys(key for key, _ in kmod + elf) if _of(kmod, key) != _of(elf, key)]
    named = ", ".join(ascii(key[:40]) for key in only if key not in _SIGNATURE)
    return [f"libkmod and pyelftools read different values of {named or 'the same keys, in another order'}"]


def _of(pairs: list[tuple[str, str]], key: str) -> list[str]:
    return [value for each, value in pairs if each == key]


def _text(error: Exception) -> str:
    return "too big, more than a module can have" if isinstance(error, MemoryError) else reason_of(error)
