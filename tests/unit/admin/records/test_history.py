"""parse_event() and its reversal into caller, request and plan; groups of events."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_modprobe.admin.records.history import (
    Event,
    Group,
    Repeated,
    caller_of,
    describe_requester,
    group,
    parse_event,
    parse_repeated,
    plan_of,
    request_of,
    steady_unit,
    sum_repeated,
)
from safe_modprobe.callers.kernel_args import UNNAMED_CALLER, claimed_caller, parse
from safe_modprobe.decide import decide
from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.log.counts import KINDS, Budget, Repeats
from safe_modprobe.log.report import fields, repeats_fields, repeats_line, repeats_priority
from safe_modprobe.model import Action, Caller, Claim, Source
from tests.unit.make import ROOT, UNKNOWN, USER, Y, plan, policy, step

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
P = "SAFE_MODPROBE_"
GOOD: dict[str, object] = {
    "MESSAGE": "denied", f"{P}VERDICT": "deny", f"{P}ALIAS": "net-pf-38", f"{P}MODULES": "a b", f"{P}REFUSED": "b",
    f"{P}SOURCE": "tracefs", f"{P}CALLER_UID": "1000", f"{P}CALLER_EUID": "0", f"{P}CALLER_USERNS": "initial",
    f"{P}CALLER_CAPS": "00000000000000ff",
}  # fmt: skip


def test_a_valid_record_is_parsed() -> None:
    found = parse_event("c", NOON, GOOD)
    assert (found.modules, found.refused, found.uid, found.euid, found.capabilities) == (
        ("a", "b"),
        ("b",),
        1000,
        0,
        255,
    )
    assert (found.cursor, found.time, found.verdict, found.initial_user_namespace) == ("c", NOON, "deny", True)
    assert (found.comm, found.unit, found.tid) == (None, None, None)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ALIAS", "", "ALIAS: its length is not 1 to 4095 bytes"),
        ("ALIAS", "x" * 4096, "ALIAS: its length is not 1 to 4095 bytes"),
        ("ALIAS", None, "ALIAS: its length is not 1 to 4095 bytes"),
        ("ALIAS", b"\xff", "ALIAS: it is not a single text"),
        ("ALIAS", ["a", "b"], "ALIAS: it is not a single text"),
        ("ALIAS", "a\nb", "ALIAS: it has a control character, which safe-modprobe would escape"),
        ("REASON", "a\x1b[2J", "REASON: it has a control character, which safe-modprobe would escape"),
        ("VERDICT", "", "VERDICT or SOURCE: '' is not a valid Action"),
        ("VERDICT", "Deny", "VERDICT or SOURCE: 'Deny' is not a valid Action"),
        ("SOURCE", "rumour", "VERDICT or SOURCE: 'rumour' is not a valid Source"),
        ("CALLER_UID", "-1", "CALLER_UID: '-1' is not a number from 0 to 4294967294"),
        ("CALLER_UID", "4294967295", "CALLER_UID: '4294967295' is not a number from 0 to 4294967294"),
        ("CALLER_UID", "9" * 5000, f"CALLER_UID: '{'9' * 40}' is not a number from 0 to 4294967294"),
        ("CALLER_EUID", "١", "CALLER_EUID: '\\u0661' is not a number from 0 to 4294967294"),
        ("CALLER_TID", "1 ", "CALLER_TID: '1 ' is not a number from 0 to 4294967294"),
        ("CALLER_USERNS", "mine", "CALLER_USERNS: 'mine' is neither 'initial' nor 'other'"),
        ("CALLER_PID", "+1", "CALLER_PID: '+1' is not a number from 0 to 4294967294"),
        ("CALLER_GROUPS", "0  1", "CALLER_GROUPS: '' is not a number from 0 to 4294967294"),
        ("CALLER_GROUPS", "0,1", "CALLER_GROUPS: '0,1' is not a number from 0 to 4294967294"),
        ("CALLER_NO_NEW_PRIVS", "1", "CALLER_NO_NEW_PRIVS: '1' is neither 'yes' nor 'no'"),
        ("CALLER_KERNEL_THREAD", "Yes", "CALLER_KERNEL_THREAD: 'Yes' is neither 'yes' nor 'no'"),
        ("CALLER_CAPS", "ff", "CALLER_CAPS: 'ff' is not a mask of 16 hexadecimal digits"),
        ("CALLER_CAPS", "0" * 15 + "١", "CALLER_CAPS: '000000000000000\\u0661' is not a mask of 16 hexadecimal digits"),
    ],
)  # fmt: skip
def test_a_record_that_safe_modprobe_would_not_write_is_rejected(key: str, value: object, message: str) -> None:
    record = {k: v for k, v in {**GOOD, P + key: value}.items() if v is not None}
    with pytest.raises(UntrustedInputError) as caught:
        parse_event("c", NOON, record)
    assert str(caught.value) == message


names = st.text(st.characters(max_codepoint=255), min_size=1, max_size=9).map(
    lambda text: text.encode("latin-1").replace(b"\0", b"0").decode(errors="surrogateescape")
)
uids = st.integers(0, 2**32 - 2)
callers = st.builds(
    Caller,
    st.sampled_from(list(Source)), uids, st.none() | uids, st.none() | st.frozensets(uids, min_size=1, max_size=9),
    st.integers(0, 2**64 - 1), *[st.none() | st.booleans()] * 2, st.booleans(), st.none() | st.integers(1, 2**22), *[st.none() | names] * 4,
    working_for=st.just(()), pid=st.none() | st.integers(1, 2**22), may_hold=st.just(0),
)  # fmt: skip


@given(names, callers | st.just(UNKNOWN))
def test_a_written_record_is_read_back_unchanged(alias: str, caller: Caller) -> None:
    request = parse(["--", alias]).request
    verdict = decide(policy(""), request, caller, plan(step("soft", Y), step("m", Y)))
    event = parse_event("c", NOON, fields(verdict))
    assert (caller_of(event), request_of(event), event.verdict) == (caller, request, verdict.action)
    assert (event.reason, event.origin, event.modules) == (verdict.reason, str(verdict.origin), ("soft", "m"))
    assert tuple(each.module for each in plan_of(event).targets) == event.refused


@pytest.mark.parametrize("argument", ["grsec_modharden_normal1000_", "grsec_modharden_fs", "a b'\n"])
def test_kernel_arguments_are_read_back_as_the_same_claim(argument: str) -> None:
    request = parse(["--", "x", argument]).request
    found = request_of(parse_event("c", NOON, fields(decide(policy(""), request, USER, plan(step("m", Y))))))
    assert found.claim == request.claim


@pytest.mark.parametrize(
    ("unit", "steady"),
    [
        ("asterisk.service", True),
        ("openvpn@work.service", True),
        ("getty@tty1.service", True),
        (None, False),
        ("session-3.scope", False),
        ("run-r0123.service", False),
        ("run-u7.service", False),
        ("user@1000.service", False),
        ("sshd@12-10.0.0.1:22-10.0.0.2:4711.service", False),
        ("systemd-coredump@0-4711-0.service", False),
        ("a\nb.service", False),
        ("\udcff.service", False),
    ],
)
def test_steady_unit_keeps_only_permanent_services(unit: str | None, steady: bool) -> None:
    assert steady_unit(unit) == (unit if steady else None)


@pytest.mark.parametrize(
    ("caller", "names_", "text"),
    [
        (USER._replace(tid=4, comm="x", unit="u.service"), {1000: "alice"}, "alice, uid 1000 of u.service"),
        (USER._replace(unit="session-1.scope", initial_user_namespace=False), {}, "uid 1000 in another user namespace"),
        (ROOT, {0: "ro\not"}, "ro\\x0aot, uid 0"),
        (UNKNOWN, {0: "root"}, "an unknown caller (none)"),
    ],
)
def test_describe_requester(caller: Caller, names_: dict[int, str], text: str) -> None:
    verdict = decide(policy(""), parse(["x"]).request, caller, plan(step("m", Y)))
    assert describe_requester(parse_event("c", NOON, fields(verdict)), names_) == text


def test_details_that_were_not_recorded_stay_unknown() -> None:
    event = Event("c", NOON, Action.DENY, "x", uid=7)
    assert describe_requester(event) == "uid 7" and caller_of(event) == Caller(Source.NONE, 7)


@pytest.mark.parametrize(
    ("words", "caller", "text"),
    [
        ("", UNNAMED_CALLER, "a caller with CAP_SYS_MODULE"),
        ("grsec_modharden_normal7_", claimed_caller(Claim(True, 7)), "uid 7"),
        ("grsec_modharden_normal7_ modharden_cap12_", claimed_caller(Claim(True, 7, capabilities=1 << 12)), "uid 7"),
        ("nonsense", claimed_caller(Claim(True)), "an unknown caller (kernel-args)"),
    ],
)
def test_a_caller_known_only_by_kernel_arguments_is_read_back(words: str, caller: Caller, text: str) -> None:
    request = parse(["--", "x", *words.split()]).request
    event = parse_event("c", NOON, fields(decide(policy(""), request, caller, plan(step("m", Y)))))
    assert (caller_of(event), describe_requester(event)) == (caller, text)


def test_too_many_groups_are_omitted_instead_of_truncated() -> None:
    for count, recorded in ((256, 256), (257, 0), (65536, 0)):
        who = USER._replace(gids=frozenset(range(count)))
        event = parse_event("c", NOON, fields(decide(policy(""), parse(["x"]).request, who, plan(step("m", Y)))))
        assert len(event.groups or ()) == recorded and (event.groups is None) is (recorded == 0)


def test_events_are_grouped_by_verdict_caller_and_modules() -> None:
    one = Event("1", NOON, Action.DENY, "x", ("m",), ("m",), uid=1, euid=1, comm="a")
    same = one._replace(cursor="2", time=NOON + timedelta(1), alias="y", comm="b", tid=9)
    others = [
        one._replace(cursor="3", uid=2), one._replace(cursor="4", euid=0), one._replace(cursor="5", verdict=Action.LOG),
        one._replace(cursor="6", refused=("n",)), one._replace(cursor="7", unit="u.service"),
        one._replace(cursor="8", barred="the mode"), one._replace(cursor="9", initial_user_namespace=False),
    ]  # fmt: skip
    found = group([one, *others, same])
    assert [each.latest.cursor for each in found] == ["3", "4", "5", "6", "7", "8", "9", "2"]
    assert found[-1] == Group(same, ("m",), 2, NOON, ("x", "y"), ("a", "b"))
    assert found[3].modules == ("n",)


def test_a_group_keeps_a_bounded_number_of_names() -> None:
    one = Event("1", NOON, Action.DENY, "x", ("m",), ("m",), uid=1, euid=1)
    (found,) = group(one._replace(alias=f"x{n}", comm=f"c{n}") for n in range(1000))
    assert (found.times, len(found.aliases), len(found.comms)) == (1000, 32, 32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("users", [(0, 0), (1000, 1000), (131072, 196607), (65536, 2**32 - 2), (-1, -1)])
def test_a_written_count_is_read_back_unchanged(kind: str, users: tuple[int, int]) -> None:
    repeats = Repeats(Budget(kind, *users), 470)
    assert parse_repeated("c", NOON, repeats_fields(repeats)) == Repeated(NOON, *repeats)
    assert repeats_line(repeats).startswith("470 more ") and 3 <= repeats_priority(repeats) <= 6


COUNT: dict[str, object] = {f"{P}KIND": "deny", f"{P}TIMES": "470", f"{P}CALLER_UID": "1000"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("KIND", "shout", "KIND: 'shout' is not one of allow, log, deny, load, policy, failure, left"),
        ("KIND", "", "KIND: '' is not one of allow, log, deny, load, policy, failure, left"),
        ("TIMES", "", "TIMES: '' is not a number from 0 to 4294967294"),
        ("TIMES", "-1", "TIMES: '-1' is not a number from 0 to 4294967294"),
        ("TIMES", ["1", "2"], "TIMES: it is not a single text"),
        ("CALLER_UID", "x", "CALLER_UID: 'x' is not a number from 0 to 4294967294"),
        ("CALLER_UIDS", "1-", "CALLER_UIDS: '' is not a number from 0 to 4294967294"),
        ("CALLER_UIDS", "-1--1", "CALLER_UIDS: '' is not a number from 0 to 4294967294"),
    ],
)
def test_a_count_that_safe_modprobe_would_not_write_is_rejected(key: str, value: object, message: str) -> None:
    with pytest.raises(UntrustedInputError) as caught:
        parse_repeated("c", NOON, {**COUNT, P + key: value})
    assert str(caught.value) == message


def test_counts_of_one_user_are_summed() -> None:
    many, few = Budget("deny", 1000, 1000), Budget("log", 1, 65535)
    assert sum_repeated([Repeated(NOON, few, 3), Repeated(NOON, many, 4), Repeated(NOON, many, 5)]) == [
        ("deny", "uid 1000", 9),
        ("log", "uids from 1 to 65535", 3),
    ]
