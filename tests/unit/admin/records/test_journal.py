"""Records of a real journald: those of safe-modprobe are read back unchanged, all others are skipped."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.records.history import caller_of
from safe_modprobe.admin.records.journal import Journal, is_ours
from safe_modprobe.admin.records.remedy import remedy
from safe_modprobe.errors import SafeModprobeError, UsageError
from safe_modprobe.log.counts import Budget, Repeats
from safe_modprobe.log.message_ids import REPEATED, VERDICTS
from safe_modprobe.log.report import fields, line, repeats_fields, repeats_line
from safe_modprobe.model import Caller, Plan, Source
from tests.tree.build import VERSION, Mod, build_tree
from tests.unit.journald import Sender, keep
from tests.unit.make import ROOT, UNKNOWN, USER, Y, plan, step, verdict

MARKED = plan(step("marked", Y), alias="test-alias")
ODD = USER._replace(
    gids=frozenset({1000, 29}), pid=8, tid=9, comm="a\n'\udcff", executable="/x y", unit="u.service", call_site="f [m]"
)
USERNS = USER._replace(uid=1001, euid=1001, capabilities=5, initial_user_namespace=False)


def rec(alias: str, who: Caller, steps: Plan = MARKED, text: str = "", *args: str) -> tuple[str, dict[str, str]]:
    decided = verdict(alias, who, steps, text, *args)
    return line(decided), dict(fields(decided))


DENIED = rec("test-alias", ODD)
OURS = [
    DENIED,
    DENIED,
    rec("a\nb\udcff", USERNS),
    rec("test-alias", ROOT),
    rec("test-alias", UNKNOWN),
    rec("test-alias", USER._replace(source=Source.KERNEL_ARGS), MARKED, "", "grsec_modharden_normal1000_"),
    rec("test-alias", USER, MARKED, "[settings]\ntrial = true"),
    rec("test-alias", ROOT, MARKED, '[settings]\nmode = "disabled"'),
]
FORGED = [rec("test-alias", ROOT, MARKED, '[settings]\nmode = "disabled"')]
COUNTED = [
    (repeats_line(each), dict(repeats_fields(each)))
    for each in (Repeats(Budget("deny", 1000, 1000), 470), Repeats(Budget("allow", 131072, 196607), 3))
]
BROKEN = [
    ("no verdict", DENIED[1] | {"SAFE_MODPROBE_VERDICT": "perhaps"}),
    ("a newline", DENIED[1] | {"SAFE_MODPROBE_REASON": "two\nlines"}),
    ("not UTF-8", DENIED[1] | {"SAFE_MODPROBE_CALLER_COMM": "\udcff"}),
]
SENDERS = [
    Sender(OURS[:5]),
    Sender(FORGED, prefix="setpriv --reuid 1000 --clear-groups"),
    Sender(FORGED, name="unattended-upgrade"),
    Sender(FORGED, name="safe-modprobectl"),
    Sender(FORGED, prefix="setpriv --bounding-set=-sys_module --inh-caps=-all"),
    Sender(OURS[5:] + BROKEN),
    Sender([("of another id", DENIED[1] | {"MESSAGE_ID": "f" * 32})]),
    Sender(COUNTED[:1]),
    Sender(COUNTED[:1], prefix="setpriv --reuid 1000 --clear-groups"),
    Sender(COUNTED[:1], name="unattended-upgrade"),
    # The service of 'repeats --write' has no capability.
    Sender(COUNTED, name="safe-modprobectl", prefix="setpriv --bounding-set=-sys_module --inh-caps=-all"),
]
TRUSTED = {"_TRANSPORT": "journal", "_UID": "0"}
HELPER = TRUSTED | {
    "_EXE": "/usr/bin/python3.11",
    "_CMDLINE": "/usr/bin/python3 -IBS /usr/sbin/safe-modprobe -q -- net-pf-38",
    "_CAP_EFFECTIVE": "1ffffffffff",
}


COUNTER = HELPER | {
    "MESSAGE_ID": REPEATED,
    "_CMDLINE": "/usr/bin/python3 -IBS /usr/sbin/safe-modprobectl repeats --write",
}


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (HELPER, True),
        (TRUSTED, True),  # the sender had exited before journald read /proc
        (TRUSTED | {"_EXE": "/usr/bin/python3.13"}, True),
        (TRUSTED | {"_EXE": "/usr/sbin/safe-modprobe"}, True),
        ({}, False),
        (HELPER | {"_UID": "1000"}, False),
        (HELPER | {"_UID": "00"}, False),
        (HELPER | {"_UID": ["0", "0"]}, False),
        (HELPER | {"_TRANSPORT": "syslog"}, False),
        (HELPER | {"_TRANSPORT": "stdout"}, False),
        (HELPER | {"_EXE": "/usr/bin/sudo"}, False),
        (HELPER | {"_EXE": "/usr/bin/python2.7"}, False),
        (HELPER | {"_EXE": "/home/u/safe-modprobe-not"}, False),
        (HELPER | {"_EXE": b"/\xff"}, False),
        (HELPER | {"_CMDLINE": "/usr/bin/python3 /usr/bin/unattended-upgrade /usr/sbin/safe-modprobe"}, False),
        (HELPER | {"_CMDLINE": "/usr/bin/python3 -IBS /usr/sbin/safe-modprobectl explain x"}, False),
        (HELPER | {"_CMDLINE": ["a", "b"]}, False),
        (HELPER | {"_CAP_EFFECTIVE": "0"}, False),
        (COUNTER, True),
        (COUNTER | {"_CAP_EFFECTIVE": "0"}, True),
        (COUNTER | {"MESSAGE_ID": VERDICTS[0]}, False),
        (COUNTER | {"_UID": "1000"}, False),
        (COUNTER | {"_TRANSPORT": "stdout"}, False),
        (COUNTER | {"_CMDLINE": "/usr/bin/python3 /tmp/x"}, False),
        (HELPER | {"_CAP_EFFECTIVE": "1fffffeffff"}, False),
        (HELPER | {"_CAP_EFFECTIVE": "?"}, False),
    ],
)
def test_is_ours_checks_the_trusted_fields(given: dict[str, object], ours: bool) -> None:
    assert is_ours(given) is ours


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(keep(tmp_path_factory.mktemp("journal"), SENDERS))


def test_our_records_are_read_and_others_only_counted(journal: str) -> None:
    reader = Journal(files=[journal])
    found = list(reader.events())
    assert [event.message for event in found] == [message for message, _ in OURS]
    assert (reader.forged, reader.malformed) == (4, 3)
    assert all(abs(datetime.now(UTC) - event.time) < timedelta(minutes=5) for event in found)


def test_caller_and_alias_are_read_back_unchanged(journal: str) -> None:
    first, _, third, fourth, fifth, *_ = Journal(files=[journal]).events()
    assert caller_of(first) == ODD
    assert (third.alias, caller_of(third)) == ("a\nb\udcff", USERNS)
    assert caller_of(fourth) == ROOT
    assert caller_of(fifth) == UNKNOWN
    assert third.refused == ("marked",) and fourth.refused == ()


def test_events_can_be_read_backwards_by_cursor_and_since_a_time(journal: str) -> None:
    found = list(Journal(files=[journal]).events())
    assert [event.cursor for event in Journal(files=[journal]).backwards()] == [e.cursor for e in reversed(found)]
    assert [Journal(files=[journal]).at(event.cursor) for event in found] == found
    assert list(Journal(files=[journal]).events(since=found[3].time)) == found[3:]
    assert list(Journal(files=[journal]).events(since=found[-1].time + timedelta(microseconds=1))) == []


def test_a_cursor_of_a_forged_or_missing_record_is_refused(journal: str, tmp_path: Path) -> None:
    from systemd import journal as library

    reader = library.Reader(files=[journal])
    for message_id in VERDICTS:
        reader.add_match(f"MESSAGE_ID={message_id}")
    cursors = [entry["__CURSOR"] for entry in reader]
    assert len(cursors) == len(OURS) + len(FORGED) * 4 + len(BROKEN)
    good = {event.cursor for event in Journal(files=[journal]).events()}
    for cursor in [*(set(cursors) - good), "", "x", "s=1", cursors[0][:-1], "\udcff", "a\0b"]:
        with pytest.raises(UsageError) as caught:
            Journal(files=[journal]).at(cursor)
        assert str(caught.value) == (
            f"{cursor!a}: no recorded verdict has this cursor; 'safe-modprobectl log --each' shows all cursors"
        )


def test_files_that_are_not_journals_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n" * 100)
    with pytest.raises(UsageError) as caught:
        Journal(files=[str(tmp_path / "text")])
    assert str(caught.value).startswith(f"{tmp_path}/text: ")
    with pytest.raises(UsageError) as caught:
        Journal(files=[str(tmp_path)])
    assert str(caught.value) == (
        f"{tmp_path}: it is not a regular file; give a journal file with --file, or a system's top folder with --root"
    )
    with pytest.raises(FileNotFoundError):
        Journal(files=[str(tmp_path / "none")])
    with pytest.raises(SafeModprobeError) as empty:
        Journal(root=str(tmp_path))
    assert str(empty.value).startswith(f"{tmp_path}/var/log/journal: cannot read a journal there; run as root")


@pytest.mark.parametrize("at", range(0, 4096, 97))
def test_a_damaged_file_gives_an_error_or_fewer_records(journal: str, tmp_path: Path, at: int) -> None:
    data = bytearray(Path(journal).read_bytes()[: 1 << 20])
    data[at * 16 : at * 16 + 64] = b"\xff" * 64
    (tmp_path / "broken").write_bytes(data)
    try:
        found = list(Journal(files=[str(tmp_path / "broken")]).events())
    except SafeModprobeError as error:
        assert str(tmp_path) in str(error)
    else:
        assert {event.message for event in found} <= {message for message, _ in OURS}


@pytest.fixture(scope="module")
def image(journal: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder like the root of a system, with a journal, users, a policy and modules."""
    root = tmp_path_factory.mktemp("image")
    (root / "var/log/journal" / ("0" * 32)).mkdir(parents=True)
    shutil.copy(journal, root / "var/log/journal" / ("0" * 32) / "system.journal")
    (root / "etc/safe-modprobe/policy.d").mkdir(parents=True)
    (root / "etc/safe-modprobe/policy.d/90-settings.toml").write_text('[settings]\nmode = "marked"\n')
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n")
    (root / "etc/group").write_text("")
    build_tree(root, (Mod("marked", ("test-alias",), info=(b"privileged=Y",)), Mod("open", ("open-alias",))))
    return str(root)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


LEFT_OUT = (
    "safe-modprobectl: skipped forged records (not written by safe-modprobe): 6\n"
    "safe-modprobectl: skipped malformed records: 3\n"
)
EVERY = len(OURS)


def test_log_prints_groups_with_remedies(capsys: pytest.CaptureFixture[str], image: str) -> None:
    code, out, err = run(capsys, "log", "--root", image)
    assert (code, err) == (0, LEFT_OUT), "two of the counts are forged"
    table, _, snippets = out.partition("\nRules that would allow them, for /etc/safe-modprobe/policy.d/10-site.toml")
    assert table.split()[:7] == ["verdict", "caller", "modules", "requested", "as", "times", "last"]
    rows = [" ".join(row.split()[:-2]) for row in table.splitlines()[1:]]
    assert rows == [
        "1 deny alice, uid 1000 of u.service marked test-alias 2",
        "2 deny uid 1001 in another user namespace marked a\\x0ab\\xff 1",
        "3 allow root, uid 0 marked test-alias 1",
        "4 deny an unknown caller (none) marked test-alias 1",
        "5 deny alice, uid 1000 marked test-alias 1",
        "6 log alice, uid 1000 marked test-alias 1",
        "7 deny root, uid 0 marked test-alias 1",
    ]
    assert "# 3: " not in snippets
    assert '[[rule]]\naction = "allow"\nmodules = ["marked"]\nusers = [1000]\nunits = ["u.service"]\n' in snippets
    assert (
        "# 7: marked: mode is disabled, so no caller may load a module [50-test.toml:2]\n# No new rule can override this; change the mode.\n"
        in snippets
    )


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], EVERY),
        (["--refused"], EVERY - 1),
        (["--user", "alice"], 4),
        (["--user", "1000"], 4),
        (["--user", "1001"], 1),
        (["--user", "0"], 2),
        (["--user", "4242"], 0),
        (["--module", "mark*"], EVERY),
        (["--module", "mark"], 0),
        (["--since", "-1h"], EVERY),
        (["--since", "today", "--since", "1h ago"], EVERY),
        (["--since", "now"], 0),
        (["--since", "2999-01-01"], 0),
        (["--since", "1970-01-01"], EVERY),
    ],
)
def test_log_each_prints_one_line_for_each_verdict(
    capsys: pytest.CaptureFixture[str], image: str, options: list[str], count: int
) -> None:
    code, out, _ = run(capsys, "log", "--root", image, "--each", *options)
    lines = out.splitlines()
    if count == 0:
        assert (code, lines) == (0, ["no matching verdict is recorded"])
    else:
        assert (code, len(lines)) == (0, count)
        assert all(" to " in each and "s=" in each and each.isascii() for each in lines)
    found = json.loads(run(capsys, "log", "--root", image, "--each", "--json", *options)[1])
    assert len(found["events"]) == count


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ([], [470, 470, 3]),
        (["--refused"], [470, 470]),
        (["--user", "alice"], [470, 470]),
        (["--user", "140000"], [3]),
        (["--user", "0"], []),
        (["--module", "mark*"], []),
        (["--since", "now"], []),
    ],
)
def test_log_shows_decisions_that_were_only_counted(
    capsys: pytest.CaptureFixture[str], image: str, options: list[str], times: list[int]
) -> None:
    found = json.loads(run(capsys, "log", "--root", image, "--json", *options)[1])
    assert [each["times"] for each in found["counted"]] == times
    out = run(capsys, "log", "--root", image, *options)[1]
    assert ("\nRate-limited records, which were only counted (see 'safe-modprobectl repeats'):\n" in out) is bool(times)
    assert ("\n  940 more: deny, uid 1000\n" in out) is (470 in times)


def test_log_prints_json(capsys: pytest.CaptureFixture[str], image: str) -> None:
    found = json.loads(run(capsys, "log", "--root", image, "--json")[1])
    assert (found["forged"], found["malformed"]) == (6, 3)
    first = found["groups"][0]
    assert (first["verdict"], first["times"], first["modules"], first["aliases"]) == (
        "deny",
        2,
        ["marked"],
        ["test-alias"],
    )
    assert [bool(each["remedy"]) for each in found["groups"]] == [True, True, False, True, True, True, False]
    assert first["latest"]["unit"] == "u.service"
    assert {"cursor", "time", "origin", "reason", "verdict"} <= first["latest"].keys()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["log", "--user", "bob"], "--user: 'bob' is not in /etc/passwd of that system; give the user id instead"),
        (["explain", "--last", "--uid", "0"], "--uid: the record already names the caller; omit --uid, or give an ALIAS instead"),
        (["explain", "--last", "--user-namespace"], "--user-namespace: the record already names the caller; omit --user-namespace, or give an ALIAS instead"),
        (["explain", "--event", "s=1"], "'s=1': no recorded verdict has this cursor; 'safe-modprobectl log --each' shows all cursors"),
        (["explain", "x", "--file", "y"], "--file: only --last and --event read a journal file; give one of them instead of an alias"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(capsys: pytest.CaptureFixture[str], image: str, argv: list[str], text: str) -> None:
    assert run(capsys, *argv, "--root", image) == (1, "", f"safe-modprobectl: {text}\n")


def explain(capsys: pytest.CaptureFixture[str], image: str, *argv: str) -> tuple[int, dict]:
    code, out, _ = run(capsys, "explain", "--root", image, "--kernel", VERSION, "--json", *argv)
    return code, json.loads(out)


def test_explain_last_explains_the_latest_refusal(capsys: pytest.CaptureFixture[str], image: str) -> None:
    code, found = explain(capsys, image, "--last")
    assert (code, found["verdict"], found["recorded"]["verdict"]) == (0, "allow", "deny")
    assert (found["changed"], found["recorded"]["origin"], found["remedy"]) == (True, "50-test.toml:2", None)
    text = run(capsys, "explain", "--root", image, "--kernel", VERSION, "--last")[1]
    assert text.splitlines()[-1] == "         the verdict was deny then, and would be allow now"
    assert "deny: marked: mode is disabled, so no caller may load a module [50-test.toml:2]" in text.splitlines()[-2]


def test_explain_event_decides_again_with_the_current_policy(capsys: pytest.CaptureFixture[str], image: str) -> None:
    events = list(Journal(files=[f"{image}/var/log/journal/{'0' * 32}/system.journal"]).events())
    code, found = explain(capsys, image, "--event", events[0].cursor)
    assert (code, found["verdict"], found["changed"], found["caller"]["uid"]) == (1, "deny", False, 1000)
    assert [each["module"] for each in found["steps"]] == ["marked"]
    assert found["remedy"] == (
        '[[rule]]\naction = "allow"\nmodules = ["marked"]\nusers = [1000]\nunits = ["u.service"]\nuser_namespace = "initial"\n'
    )
    code, found = explain(capsys, image, "--event", events[3].cursor)
    assert (code, found["verdict"], found["changed"]) == (0, "allow", False)
    code, found = explain(capsys, image, "--event", events[2].cursor)
    assert (code, found["verdict"], found["alias"]) == (0, "allow", "a\nb\udcff"), "no module answers that in the image"
    code, found = explain(capsys, image, "--event", events[5].cursor)
    assert (code, found["caller"]["source"]) == (1, "kernel-args")
    code, found = explain(capsys, image, "--event", events[6].cursor)
    assert (code, found["verdict"], found["recorded"]["verdict"]) == (1, "deny", "log"), "the trial is over"


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ('groups = [29], action = "allow"', 0),
        ('groups = [30], action = "allow"', 1),
        ('groups = [29], no_new_privs = true, action = "allow"', 1),
        ('groups = [30, 1000], no_new_privs = false, action = "allow"', 0),
    ],
)
def test_explain_event_applies_rules_by_group(
    capsys: pytest.CaptureFixture[str], image: str, rule: str, code: int
) -> None:
    first = next(Journal(files=[f"{image}/var/log/journal/{'0' * 32}/system.journal"]).events())
    path = Path(image) / "etc/safe-modprobe/policy.d/20-group.toml"
    path.write_text(f"rule = [{{ {rule} }}]\n")
    try:
        assert explain(capsys, image, "--event", first.cursor)[0] == code
    finally:
        path.unlink()


def test_the_suggested_rules_allow_the_refused_requests(capsys: pytest.CaptureFixture[str], image: str) -> None:
    code, out, err = run(capsys, "suggest", "--root", image)
    only_counted = "safe-modprobectl: no rules for rate-limited refusals, whose modules were not recorded: 940\n"
    assert (code, err) == (0, only_counted + LEFT_OUT)
    assert out.count("[[rule]]") == 2, "alice's rule without the unit is enough"
    assert "# - marked to an unknown caller (none), once" in out
    assert "# The current policy already allows 1 of the recorded refusals.\n" in out, "the mode has changed since"
    path = Path(image) / "etc/safe-modprobe/policy.d/20-suggested.toml"
    path.write_text(out)
    try:
        for event in Journal(files=[f"{image}/var/log/journal/{'0' * 32}/system.journal"]).events():
            found = explain(capsys, image, "--event", event.cursor)[1]
            refused = event.uid is None
            assert (found["verdict"] == "deny") is refused, event
        for caller, code in (
            (["--uid", "1000"], 0),
            (["--uid", "1001", "--user-namespace"], 0),
            (["--uid", "1001"], 1),
            (["--uid", "1002"], 1),
        ):
            assert explain(capsys, image, "test-alias", *caller)[0] == code, caller
        again = run(capsys, "suggest", "--root", image)[1]
        assert "[[rule]]" not in again and again.startswith("# No rule is proposed.\n")
        assert "# The current policy already allows 6 of the recorded refusals." in again
    finally:
        path.unlink()


def test_suggest_prints_json(capsys: pytest.CaptureFixture[str], image: str) -> None:
    found = json.loads(run(capsys, "suggest", "--root", image, "--json", "--user", "1001")[1])
    (only,) = found["proposals"]
    assert (only["users"], only["user_namespace"], only["modules"], only["units"]) == (
        [1001],
        "other",
        ["marked"],
        None,
    )
    assert only["evidence"][0]["aliases"] == ["a\\x0ab\\xff"] or only["evidence"][0]["aliases"] == ["a\nb\udcff"]
    assert (found["not_proposed"], found["settled"], found["counted"], found["forged"]) == ([], 0, 0, 6)


def test_remedy_is_none_if_no_rule_helps() -> None:
    for text, who, there in (
        ("", USER, True), ("", ROOT, False), ('[settings]\nmode = "disabled"', USER, False),
        ('rule = [{ modules = ["marked"], action = "deny" }]', ROOT, False),
    ):  # fmt: skip
        assert bool(remedy(verdict("x", who, MARKED, text))) is there
