"""Every parser of outside bytes returns a value or raises its one error, and never gives more privilege."""

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
"""Inputs for each parser. It is a constant, so that each run tests the same inputs."""

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
    try:  # with any layout, parse_page() returns a page or raises its error
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


def nested_record(data: bytes) -> None:
    start, caller = parse_caller(data)
    assert dump_caller(start, caller) == data


def journal(data: bytes) -> None:
    """Fields as python3-systemd returns them: bytes if they are not UTF-8, a list if a field appears several times."""
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
    """A helper goes on from any content: it counts, and the next helper can read what it writes."""
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
    (nested_record, UntrustedInputError, [dump_caller(4711, CALLER), dump_caller(1, ROOT)]),
    (counts, UntrustedInputError, [dump_counts(COUNTS)]),
]  # fmt: skip


@pytest.mark.parametrize(("parser", "error", "valid"), PARSERS, ids=[parser.__name__ for parser, *_ in PARSERS])
def test_a_parser_returns_a_value_or_raises_its_one_error(
    parser: Callable[[bytes], None], error: type[Exception], valid: list[bytes]
) -> None:
    accepted = 0
    for data in inputs(parser.__name__, valid, COUNT):
        try:
            parser(data)
            accepted += 1
        except error:
            pass
    for data in valid:
        parser(data)
    # If the parser rejected nearly all inputs, they would test only its first check.
    assert accepted > COUNT // 100


def test_the_last_resort_finds_no_capability_that_the_strict_parser_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own reader of /proc/TID/status is simpler than tasks.py."""
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
    """Real ELF objects: one has a marker, one has two that contradict each other."""
    rows = (Mod("marked", info=(b"privileged=CAP_NET_ADMIN",)), Mod("odd", info=(b"privileged=N", b"privileged=\xff")))
    folder = build_tree(tmp_path_factory.mktemp("tree"), rows)
    return [path.read_bytes() for path in sorted((folder / "kernel").glob("*.ko"))]


def test_libkmod_reads_broken_modules_or_fails_without_a_crash(modules: list[bytes]) -> None:
    """libkmod runs in children. It returns pairs, fails, or aborts by an assertion, which refuses the request.

    libkmod 30 (Debian 12) asserts that a section number is one of the file's. No other signal is allowed.
    """
    data = list(inputs("modinfo", modules, COUNT))
    shared = mmap.mmap(-1, 16)  # the number of the current input, and how many were readable
    start, asserted = 0, 0
    while start < COUNT:
        code = in_child(read_all, data, start, shared)
        at, readable = struct.unpack("=QQ", shared[:16])
        if code != -signal.SIGABRT:
            assert (code, at) == (0, COUNT - 1), f"input {at} ended with {code}"
            break
        start, asserted = at + 1, asserted + 1
    assert readable > COUNT // 100 > asserted


def in_child(function: Callable[..., None], *arguments: object) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            faulthandler.disable()
            function(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read_all(data: list[bytes], start: int, shared: mmap.mmap) -> None:
    kmod = Kmod("/nowhere")
    _, readable = struct.unpack("=QQ", shared[:16])
    for at in range(start, len(data)):
        shared[:16] = struct.pack("=QQ", at, readable)
        fd = os.memfd_create("module")
        os.write(fd, data[at])
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
        del module  # the next descriptor has the same path, for which libkmod would return this object again
    shared[:16] = struct.pack("=QQ", len(data) - 1, readable)
