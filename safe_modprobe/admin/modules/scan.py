"""Read every module of a kernel with libkmod and with pyelftools, on all processors.

A broken module is a row with a finding. It does not end the scan, even if libkmod crashes on it.
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
"""Modules in a worker's task: few enough for a smooth progress bar, enough to keep the overhead low."""

_MAX_BYTES = 1 << 30
"""Size limit of a decompressed module. A distribution's biggest has about 30 MiB with its debug information."""
_MAX_MEMORY = 4 << 30
"""Limit of a worker's address space, in bytes. A few kilobytes of xz can unpack to a terabyte."""

_FORK = multiprocessing.get_context("fork")
"""Any other start method, such as Python 3.14's default, would run the command again in each worker."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_SIGNATURE = {"sig_id", "signer", "sig_key", "sig_hashalgo", "signature"}
"""Keys that libkmod appends to the pairs of .modinfo for a signed module."""


class Scanned(NamedTuple):
    """A module's file and what both readers found in it. `path` is relative to the module folder."""

    path: str
    module: str
    aliases: tuple[str, ...] = ()
    marker: Marker = Marker()
    findings: tuple[str, ...] = ()


def module_files(folder: str) -> list[str]:
    """Return the paths of all modules below the folder: the files in it, and those that modules.dep names.

    Raises OSError, and UsageError if there is no such folder.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder of modules; check --root and --kernel")
    found: set[str] = set()
    with suppress(FileNotFoundError):  # an image may not have modules.dep yet
        found.update(loadable_paths(folder))
    for top, _, names in os.walk(folder, onerror=_raise):
        found |= {os.path.relpath(os.path.join(top, name), folder) for name in names if name.endswith(_ENDINGS)}
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def scan(folder: str, paths: Sequence[str], workers: int | None = None) -> Iterator[Scanned]:
    """Yield the scan of each module, in no order. `workers` is the number of processes; default: one a processor.

    The workers start at the first call of next(). A file on which a worker dies gets a finding. Raises KmodError.
    """
    Kmod(folder, [])  # an error must show here, because a worker could not report it
    lost: list[str] = []
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    for chunk, found in _parallel(folder, chunks, workers or _processors()):
        if found is None:
            lost += chunk
        else:
            yield from found
    while lost:
        # A worker that dies breaks the whole pool. Read these files one by one until the culprit is found.
        left = set(lost)
        for chunk, found in _parallel(folder, [[path] for path in lost], 1):
            if found is None:
                break
            left -= set(chunk)
            yield from found
        else:
            return
        (culprit,) = chunk
        yield _failed(culprit, "reading it crashes the worker process")
        lost = [path for path in lost if path in left and path != culprit]


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _parallel(
    folder: str, chunks: Sequence[Sequence[str]], workers: int
) -> Iterator[tuple[Sequence[str], list[Scanned] | None]]:
    """Yield each chunk with its modules, or with None if the workers died."""
    if not chunks:
        return
    pool = ProcessPoolExecutor(min(workers, len(chunks)), _FORK, _start, (folder,))
    try:
        waiting: dict[Future[list[Scanned]], Sequence[str]] = {}
        rejected = []
        for chunk in chunks:
            try:
                waiting[pool.submit(_read_all, chunk)] = chunk
            except BrokenProcessPool:
                rejected.append(chunk)
        for done in _in_order(waiting, workers):
            try:
                yield waiting[done], done.result()
            except BrokenProcessPool:
                yield waiting[done], None
        for chunk in rejected:
            yield chunk, None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(waiting: Iterable[Future[list[Scanned]]], workers: int) -> Iterable[Future[list[Scanned]]]:
    """Yield the futures as they complete. A single worker keeps their order, so the first failed is the culprit."""
    return waiting if workers == 1 else as_completed(waiting)


_kmod: Kmod
"""A worker's own context: libkmod contexts must not be shared, and a fork would share the parent's."""
_folder: str


def _start(folder: str) -> None:
    global _kmod, _folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the worker, without a traceback
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libkmod prints assertions there, and a finding reports them already
    faulthandler.disable()
    _limit(resource.RLIMIT_FSIZE, _MAX_BYTES)
    _limit(resource.RLIMIT_AS, _MAX_MEMORY)
    _limit(resource.RLIMIT_CORE, 0)
    # No modprobe.d, because a file's content does not depend on it.
    _kmod, _folder = Kmod(folder, []), folder


def _limit(resource_kind: int, most: int) -> None:
    _, hard = resource.getrlimit(resource_kind)
    resource.setrlimit(resource_kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _read_all(paths: Sequence[str]) -> list[Scanned]:
    return [_scan(path) for path in paths]


def _scan(path: str) -> Scanned:
    try:
        fd = os.open(os.path.join(_folder, path), _OPEN)
    except (OSError, ValueError) as error:
        return _failed(path, f"unreadable: {_reason(error)}")
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return _failed(path, "unreadable: it is not a file")
        kind = compression(fd)
        if kind is None:
            return _read_by_both(path, fd)
        image = sealed_copy(fd, kind)
        try:
            return _read_by_both(path, image)
        finally:
            os.close(image)
    except (OSError, UntrustedInputError, MemoryError) as error:
        return _failed(path, f"unreadable: {_reason(error)}")
    finally:
        os.close(fd)


def _failed(path: str, finding: str) -> Scanned:
    return Scanned(path, module_name(path), (), doubtful_marker(finding), (finding,))


def _read_by_both(path: str, fd: int) -> Scanned:
    """Read with both. The result is libkmod's, as in the helper; pyelftools only adds findings."""
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
    """Report keys with different values. The order counts; the pairs that libkmod adds for a signature do not."""
    shared, rest = kmod[: len(elf)], kmod[len(elf) :]
    if shared == elf and {key for key, _ in rest} <= _SIGNATURE:
        return []
    different = [key for key in dict.fromkeys(key for key, _ in kmod + elf) if _values(kmod, key) != _values(elf, key)]
    names = ", ".join(ascii(key[:40]) for key in different if key not in _SIGNATURE)
    return [f"libkmod and pyelftools read different values of {names or 'the same keys, in another order'}"]


def _values(pairs: list[tuple[str, str]], key: str) -> list[str]:
    return [value for each, value in pairs if each == key]


def _reason(error: Exception) -> str:
    return "too big for a module" if isinstance(error, MemoryError) else reason_of(error)
