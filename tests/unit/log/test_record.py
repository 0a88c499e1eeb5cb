"""Records: whole log lines, the journal's datagram on a real socket, and the fallbacks when no daemon listens."""

import os
import socket
from pathlib import Path

import pytest

from safe_modprobe.callers.kernel_args import claimed_caller, parse
from safe_modprobe.decide import decide
from safe_modprobe.errors import PolicyError
from safe_modprobe.log import record
from safe_modprobe.log.report import fields, line, needs_record, priority
from safe_modprobe.model import Caller, Claim, Plan
from safe_modprobe.policy.accounts import Accounts
from safe_modprobe.policy.schema import build
from tests.unit.make import ROOT, UNKNOWN, USER, N, Y, plan, policy, step

NEW_FILE = "in the new file /etc/safe-modprobe/policy.d/10-NAME.toml"
LACKS = "the caller lacks the required capability (CAP_SYS_MODULE)"
LINES = [
    ("x", ROOT, plan(step("m", Y)), "allowed 'x' (m) to uid 0: m: its marker is privileged=Y; the caller has sufficient privilege [/m/m.ko]"),
    ("x", USER, plan(step("m", Y)), f"denied 'x' (m) to uid 1000: m: its marker is privileged=Y; {LACKS} [/m/m.ko]; to allow it, add "
     f'rule = [{{ modules = ["m"], users = [1000], action = "allow" }}] {NEW_FILE}'),
    ("x", USER, plan(step("d", Y), step("m", N, "d")), f"denied 'x' (d, m) to uid 1000: d: its marker is privileged=Y; {LACKS} [/m/d.ko]; "
     f'to allow it, add rule = [{{ modules = ["d", "m"], users = [1000], action = "allow" }}] {NEW_FILE}'),
    ("x", UNKNOWN, plan(step("m", Y)), f"denied 'x' (m) to an unknown caller (none): m: its marker is privileged=Y; {LACKS} [/m/m.ko]; "
     f'to allow it, add rule = [{{ modules = ["m"], callers = "unknown", action = "allow" }}] {NEW_FILE}'),
    ("x", USER, plan(step("s", Y), step("m")), "allowed 'x' (s, m) to uid 1000: m: not marked [built-in]; without its soft dependencies s"),
    ("a\nb\udcff", USER, plan(step("m")), "allowed 'a\\x0ab\\xff' (m) to uid 1000: m: not marked [built-in]"),
    ("x", USER._replace(euid=0, tid=7, comm="a'\n", unit="u.service", initial_user_namespace=False), plan(step("m")),
     "allowed 'x' (m) to uid 1000 euid 0 tid 7 'a\\x27\\x0a' of u.service in another user namespace: m: not marked [built-in]"),
    ("x", ROOT._replace(kernel_thread=True), plan(step("m")), "allowed 'x' (m) to a kernel thread: m: not marked [built-in]"),
    ("x", USER, Plan("x"), "allowed 'x' to uid 1000: no module matches this alias [built-in]"),
]  # fmt: skip


@pytest.mark.parametrize(("alias", "who", "steps", "text"), LINES)
def test_line(alias: str, who: Caller, steps: Plan, text: str) -> None:
    assert line(decide(policy(""), parse(["--", alias]).request, who, steps)) == text


def test_fields_hold_no_newline_and_no_empty_value() -> None:
    who = USER._replace(comm="a\nb", executable="/x\ny", unit="u\n", call_site="f\n")
    found = fields(decide(policy(""), parse(["--", "a\nb"]).request, who, plan(step("m", Y))))
    assert found["SAFE_MODPROBE_VERDICT"] == "deny"
    assert found["SAFE_MODPROBE_ALIAS"] == "a\\x0ab"
    assert found["SAFE_MODPROBE_CALLER_UID"] == "1000"
    assert found["SAFE_MODPROBE_REFUSED"] == "m"
    assert all(value and "\n" not in value for value in found.values())


FIELDS = """MESSAGE_ID VERDICT ALIAS MODULES REFUSED REASON ORIGIN REMEDY SOURCE CALLER CALLER_PID CALLER_TID CALLER_UID
    CALLER_EUID CALLER_GROUPS CALLER_CAPS CALLER_USERNS CALLER_COMM CALLER_EXE CALLER_UNIT CALLER_NO_NEW_PRIVS
    CALLER_KERNEL_THREAD CALL_SITE""".split()
"""The fields that safe-modprobe(8) documents, without SAFE_MODPROBE_."""


@pytest.mark.parametrize(
    ("caller", "missing"),
    [
        (USER._replace(pid=1, tid=2, comm="c", executable="/x", unit="u", call_site="f"), ""),
        (UNKNOWN, "PID TID UID EUID GROUPS CAPS USERNS COMM EXE UNIT NO_NEW_PRIVS KERNEL_THREAD"),
        (claimed_caller(Claim(True, 7)), "PID TID EUID GROUPS USERNS COMM EXE UNIT NO_NEW_PRIVS KERNEL_THREAD"),
        (
            claimed_caller(Claim(True, 7, capabilities=1 << 12)),
            "PID TID EUID GROUPS COMM EXE UNIT NO_NEW_PRIVS KERNEL_THREAD",
        ),
    ],
)
def test_a_record_has_all_documented_fields_except_unknown_ones(caller: Caller, missing: str) -> None:
    found = fields(decide(policy(""), parse(["--", "x"]).request, caller, plan(step("m", Y))))
    without = {f"CALLER_{each}" for each in missing.split()} | (set() if caller.call_site else {"CALL_SITE"})
    assert {key.removeprefix("SAFE_MODPROBE_") for key in found} == set(FIELDS) - without
    manual = (Path(__file__).parents[3] / "docs/man/safe-modprobe.8.scd").read_text().replace("\\", "")
    assert [name for name in FIELDS if f"_{name.removeprefix('CALLER_')}*" not in manual and name not in manual] == []


@pytest.mark.parametrize(
    ("text", "who", "steps", "recorded", "level"),
    [
        ("", USER, plan(step("m", Y)), True, 4), ("", ROOT, plan(step("m", Y)), True, 6), ("", USER, Plan("x"), False, 6),
        ('rule = [{ modules = ["m"], action = "deny", quiet = true }]', USER, plan(step("m")), False, 4),
        ('[settings]\nmismatch = "log"', USER, plan(step("m", Y)), True, 5),
    ],
)  # fmt: skip
def test_which_verdicts_are_recorded_with_which_priority(
    text: str, who: Caller, steps: Plan, recorded: bool, level: int
) -> None:
    verdict = decide(policy(text), parse(["x"]).request, who, steps)
    assert (needs_record(verdict), priority(verdict)) == (recorded, level)


@pytest.fixture
def log_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the journal's socket, syslog's socket and /dev/kmsg, all absent at first."""
    for name in ("JOURNAL", "SYSLOG", "KMSG"):
        monkeypatch.setattr(record, name, str(tmp_path / name))
    return tmp_path


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(5)
    return sock


def test_the_journal_gets_the_record_first(log_paths: Path) -> None:
    with listen(log_paths / "JOURNAL") as journal, listen(log_paths / "SYSLOG") as syslog:
        record.record("hello", 4, {"A": "1", "B": "two\nlines"})
        assert journal.recv(4096) == (
            b"MESSAGE=hello\nPRIORITY=4\nSYSLOG_IDENTIFIER=safe-modprobe\nA=1\nB\n\x09\0\0\0\0\0\0\0two\nlines\n"
        )
        syslog.setblocking(False)
        with pytest.raises(BlockingIOError):
            syslog.recv(1)


def test_syslog_gets_the_record_without_a_journal(log_paths: Path) -> None:
    with listen(log_paths / "SYSLOG") as syslog:
        record.record("hello", 4)
        assert syslog.recv(4096) == f"<84>safe-modprobe[{os.getpid()}]: hello".encode()


def test_the_kernel_log_gets_the_record_without_any_daemon(log_paths: Path) -> None:
    (log_paths / "KMSG").touch()
    record.record("hello " + "x" * 2000, 4)
    text = (log_paths / "KMSG").read_text()
    assert text.startswith("<4>safe-modprobe: hello xxx") and text.endswith("x\n") and len(text) == 961


def test_a_socket_without_a_listener_is_skipped(log_paths: Path) -> None:
    listen(log_paths / "JOURNAL").close()
    (log_paths / "KMSG").touch()
    record.record("hello", 4)
    assert (log_paths / "KMSG").read_text() == "<4>safe-modprobe: hello\n"


def test_a_full_journal_does_not_block_the_helper(log_paths: Path) -> None:
    (log_paths / "KMSG").touch()
    with listen(log_paths / "JOURNAL"):
        for _ in range(2000):
            record.record("x" * 200, 6)
            if (log_paths / "KMSG").stat().st_size:
                return
    pytest.fail("it was never full")


@pytest.mark.parametrize("error", [ImportError, MemoryError])
def test_a_log_is_skipped_if_its_library_fails_to_import(
    log_paths: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Each load by root is recorded, even while an upgrade replaces Python."""

    def fails(path: str, datagram: bytes) -> None:
        raise error

    monkeypatch.setattr(record, "_send", fails)
    (log_paths / "KMSG").touch()
    record.record("hello", 4)
    assert (log_paths / "KMSG").read_text() == "<4>safe-modprobe: hello\n"


def test_recording_without_any_log_raises_nothing(log_paths: Path) -> None:
    record.record("hello", 4)
    assert list(log_paths.iterdir()) == []


BARRED = [
    ('[settings]\nmode = "disabled"', "x", [], "; to allow it, change the mode"),
    ('rule = [{ modules = ["m"], action = "deny" }]', "x", [], "; to allow it, change that rule"),
    ("", "x", ["grsec_modharden_netdev"], "; to allow it, change the requested name"),
    ("", "x", ["grsec_modharden_fs"], "; to allow it, change the module"),
]


@pytest.mark.parametrize(("text", "alias", "args", "end"), BARRED)
def test_no_rule_is_proposed_if_no_rule_can_allow_it(text: str, alias: str, args: list[str], end: str) -> None:
    steps = plan(step("m", registers_filesystem=False))
    message = line(decide(policy(text), parse(["--", alias, *args]).request, ROOT, steps))
    assert message.endswith(end) and "rule = [" not in message


def test_the_rules_of_two_refusals_work_only_in_separate_files() -> None:
    """`rule = [...]` twice in a file, or below a table, is an error that invalidates the whole policy."""
    messages = [line(decide(policy(""), parse(["x"]).request, USER, plan(step(name, Y)))) for name in ("m", "n")]
    rules = [each.partition("to allow it, add ")[2].partition(" in the new file ")[0].encode() for each in messages]
    together = build([("/etc/p/10-m.toml", rules[0]), ("/etc/p/10-n.toml", rules[1])], Accounts())
    assert [rule.modules for rule in together.rules] == [("m",), ("n",)]
    with pytest.raises(PolicyError):
        build([("/etc/p/10-site.toml", b"\n".join(rules))], Accounts())
    assert all(each.endswith(NEW_FILE) for each in messages)
