"""Every parser of bytes from outside: whatever comes, a value or its one kind of error, and never more power."""

import faulthandler
import mmap
import os
import signal
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from safe_modprobe.admin.records.history import caller_of, parse_event, plan_of, request_of
from safe_modprobe.callers import proc, tasks
from safe_modprobe.callers.kernel_args import MAX_ALIAS, parse
from safe_modprobe.callers.nested import dump_caller, parse_caller
from safe_modprobe.callers.proc import Stat, call_site, parse_stack
from safe_modprobe.callers.ring import parse_layout, parse_page
from safe_modprobe.callers.tasks import parse_status, parse_unit
from safe_modprobe.callers.tracefs import dump_memory, parse_memory
from safe_modprobe.capability import SYS_MODULE, holds
from safe_modprobe.errors import UntrustedInputError, UsageError
from safe_modprobe.escape import escape
from safe_modprobe.kmod import Kmod, KmodError
from safe_modprobe.log.counts import Budget, Counts, Window, admit
from safe_modprobe.log.counts import dump as dump_counts
from safe_modprobe.log.counts import parse as parse_counts
from safe_modprobe.model import UID_MAX, Caller, Source
from safe_modprobe.modules.plan import parse_marker
from tests.fuzz.mutate import inputs
from tests.tree.build import Mod, build_tree
from tests.unit.callers.test_ring import FORMAT, HEADER, LAYOUT, extend, large, padding, page, record, small, stamp
from tests.unit.callers.test_tasks import STACKS, UNITS, stat_line
from tests.unit.make import ROOT

COUNT = 20_000
"""Of each; a constant, so that what passes here passes everywhere."""

STATUS = Path("/proc/self/status").read_bytes()
CALLER = Caller(Source.TRACEFS, 1000, 0, frozenset({5, 6}), 7, True, True, False, 9, "a\nb", "/x", "u.service", "f [m]")
EVENTS = [small(record(7, b"net-pf-38"), 5), large(record(8, b"a\nb"), 6), extend(1 << 40), stamp(1 << 60), padding(40)]


def argv(data: bytes) -> None:
    found = parse([os.fsdecode(word) for word in data.split(b"\0")])
    claim = found.request.claim
    assert 0 < len(os.fsencode(found.request.alias)) <= MAX_ALIAS
    assert claim.uid is None or (claim.unprivileged and 0 <= claim.uid <= UID_MAX)
    assert claim.unprivileged is (
        found.request.kernel_args not in ((), ("grsec_modharden_fs",), ("grsec_modharden_netdev",))
    )
    assert not holds(claim.capabilities, SYS_MODULE)
    assert claim.capabilities == 0 or (claim.uid is not None and claim.capabilities.bit_count() == 1)
    assert escape(found.request.alias).isprintable()


def ring(data: bytes) -> None:
    found = parse_page(data, LAYOUT)
    assert len(found.events) <= len(data) // 4
    assert all(event.name in data for event in found.events)


def layout(data: bytes) -> None:
    header, _, event = data.partition(b"====")
    found = parse_layout(header, event)
    assert min(found) >= 0
    try:  # whatever layout it is, a page is a page or none
        parse_page(page(*EVENTS), found)
    except UntrustedInputError:
        pass


def memory(data: bytes) -> None:
    events, lost_at = parse_memory(data)
    assert parse_memory(dump_memory(events, lost_at)) == (events, lost_at)


def status(data: bytes) -> None:
    fields = parse_status(data)
    numbers = [
        *tasks._numbers(fields, "Uid", 4),
        *tasks._numbers(fields, "Gid", 4),
        *tasks._numbers(fields, "Groups", None),
    ]
    assert all(0 <= number < 10**10 for number in numbers)
    assert 0 <= tasks._mask(fields, "CapEff") < 1 << 64


def stat(data: bytes) -> None:
    found = Stat(data)
    assert isinstance(found.kernel_thread, bool)


def stack(data: bytes) -> None:
    site = call_site(parse_stack(data))
    assert site is None or (b"call_usermodehelper_exec" in data and b"__request_module" in data)


def cgroup(data: bytes) -> None:
    unit = parse_unit(data)
    assert unit is None or (unit.endswith((".service", ".scope")) and "/" not in unit)


def behalf(data: bytes) -> None:
    start, caller = parse_caller(data)
    assert dump_caller(start, caller) == data


def journal(data: bytes) -> None:
    """Fields as python3-systemd gives them: bytes where they are not UTF-8, a list where there are several."""
    fields: dict[str, object] = {}
    for pair in data.split(b"\0"):
        key, _, raw = pair.partition(b"=")
        try:
            value: object = raw.decode()
        except UnicodeDecodeError:
            value = raw
        name = key.decode(errors="replace")
        fields[name] = [fields[name], value] if name in fields else value
    event = parse_event("cursor", datetime(2026, 1, 1, tzinfo=UTC), fields)
    assert 0 < len(os.fsencode(request_of(event).alias)) <= MAX_ALIAS
    caller = caller_of(event)
    assert caller.uid is None or 0 <= caller.uid <= UID_MAX
    assert 0 <= caller.capabilities < 1 << 64
    assert len(plan_of(event).targets) == len(event.refused)


def counts(data: bytes) -> None:
    """Whatever stands there, a helper goes on from it: it decides, counts, and what it writes is read again."""
    found = parse_counts(data)
    assert parse_counts(dump_counts(found)) == found
    left, write, _ = admit(found, "deny", 1000, 5)
    assert parse_counts(dump_counts(left)) == left
    assert write or b"window deny 1000 1000 " in data or b"window deny 1 65535 " in data


ARGV = [
    b"-q\0--\0net-pf-38", b"-nq\0-d\0/x\0--set-version=1\0--\0x\0grsec_modharden_normal1000_",
    b"-S1\0x\0grsec_modharden_fs", b"-q\0--\0x\0grsec_modharden_fs\0grsec_modharden_normal0_\0modharden_cap21_",
]  # fmt: skip
RECORD = {
    "MESSAGE": "denied", "SAFE_MODPROBE_VERDICT": "deny", "SAFE_MODPROBE_ALIAS": "net-pf-38\\x0a",
    "SAFE_MODPROBE_MODULES": "a b", "SAFE_MODPROBE_REFUSED": "a", "SAFE_MODPROBE_SOURCE": "tracefs",
    "SAFE_MODPROBE_CALLER_UID": "1000", "SAFE_MODPROBE_CALLER_EUID": "0", "SAFE_MODPROBE_CALLER_USERNS": "initial",
    "SAFE_MODPROBE_CALLER_TID": "7", "SAFE_MODPROBE_CALLER_CAPS": f"{255:016x}",
    "SAFE_MODPROBE_KERNEL_ARGS": "grsec_modharden_normal1000_",
}  # fmt: skip
RECORDS = [b"\0".join(f"{key}={value}".encode() for key, value in RECORD.items())]
COUNTS = Counts(
    {("deny", "tracefs", "50-x.toml"): 5, ("none", "none", "none"): 7}, {"deny": 470}, 99,
    {Budget("deny", 1000, 1000): Window(4, 30, 470), Budget("load", -1, -1): Window(5, 1, 0)},
)  # fmt: skip
PARSERS = [
    (argv, UsageError, ARGV),
    (ring, UntrustedInputError, [page(*EVENTS)[:200], page(*EVENTS[:2]), page(*EVENTS, flags=1 << 31)[:160]]),
    (layout, UntrustedInputError, [HEADER + b"====" + FORMAT]),
    (memory, (), [dump_memory(dict(enumerate(parse_page(page(*EVENTS[:2]), LAYOUT).events, 7)), 3)]),
    (status, UntrustedInputError, [STATUS, STATUS[: STATUS.index(b"VmPeak")] + STATUS[STATUS.index(b"Cap") :]]),
    (stat, ValueError, [stat_line(b"sh"), stat_line(b"a) R 1 (")]),
    (stack, (), [text for text, site in STACKS if site]),
    (cgroup, (), [text.encode() for text, unit in UNITS if unit]),
    (journal, UntrustedInputError, RECORDS),
    (behalf, UntrustedInputError, [dump_caller(4711, CALLER), dump_caller(1, ROOT)]),
    (counts, UntrustedInputError, [dump_counts(COUNTS)]),
]  # fmt: skip


@pytest.mark.parametrize(("parser", "family", "valid"), PARSERS, ids=[parser.__name__ for parser, *_ in PARSERS])
def test_a_value_or_its_one_error(parser: Callable[[bytes], None], family: type[Exception], valid: list[bytes]) -> None:
    accepted = 0
    for data in inputs(parser.__name__, valid, COUNT):
        try:
            parser(data)
            accepted += 1
        except family:
            pass
    for data in valid:
        parser(data)
    # A fuzzer whose inputs are all refused at the door tests the door.
    assert accepted > COUNT // 100


def test_the_last_resort_reads_status_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than the strict parser would believe."""
    text = STATUS[STATUS.index(b"CapInh") : STATUS.index(b"CapAmb")]
    for data in inputs("last resort", [text, text.replace(b"CapEff:\t", b"CapEff:\t\xff")], COUNT):
        monkeypatch.setattr(proc, "read", lambda path, limit=0, data=data: data)
        try:
            holds = proc.holds_sys_module(os.getpid())
        except ValueError:
            continue
        if holds:
            (mask,) = [row for row in data.split(b"\n") if row.startswith(b"CapEff:")]
            assert int(mask[7:], 16) >= 1 << 16


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Real ELF objects, one marked, one with what a marker may be taken for."""
    rows = (Mod("marked", info=(b"privileged=CAP_NET_ADMIN",)), Mod("odd", info=(b"privileged=N", b"privileged=\xff")))
    folder = build_tree(tmp_path_factory.mktemp("tree"), rows)
    return [path.read_bytes() for path in sorted((folder / "kernel").glob("*.ko"))]


def test_modinfo_of_broken_modules(modules: list[bytes]) -> None:
    """Through libkmod, in children: an error or pairs, or libkmod's own assertion, which ends a request as refused.

    Debian's libkmod 30 asserts that a section's number is one of the file's. No other signal may happen there.
    """
    every = list(inputs("modinfo", modules, COUNT))
    here = mmap.mmap(-1, 16)  # shared: the input that is looked at, and how many were readable
    start, asserted = 0, 0
    while start < COUNT:
        code = in_child(read_all, every, start, here)
        at, readable = struct.unpack("=QQ", here[:16])
        if code != -signal.SIGABRT:
            assert (code, at) == (0, COUNT - 1), f"input {at} ended with {code}"
            break
        start, asserted = at + 1, asserted + 1
    assert readable > COUNT // 100 > asserted


def in_child(work: Callable[..., None], *arguments: object) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            faulthandler.disable()
            work(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read_all(every: list[bytes], start: int, here: mmap.mmap) -> None:
    kmod = Kmod("/nowhere")
    _, readable = struct.unpack("=QQ", here[:16])
    for at in range(start, len(every)):
        here[:16] = struct.pack("=QQ", at, readable)
        fd = os.memfd_create("module")
        os.write(fd, every[at])
        module = kmod.module_from_path(f"/proc/self/fd/{fd}")
        for attribute in ("info", "dependency_symbols"):
            try:
                found = getattr(module, attribute)
            except KmodError:
                continue
            if attribute == "info":
                readable += 1
                written = parse_marker(found).written
                assert written is None or (written.isascii() and "\n" not in written)
        os.close(fd)
        del module  # libkmod gives out a living one again for the same path, and the next descriptor has the same
    here[:16] = struct.pack("=QQ", len(every) - 1, readable)
