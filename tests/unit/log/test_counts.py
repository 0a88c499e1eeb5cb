"""The rate limit: no user can fill the log or suppress another user's records, and the numbers of all helpers add up."""

import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_modprobe import last_resort
from safe_modprobe.callers import proc
from safe_modprobe.log import counts as pure
from safe_modprobe.log import rate_limited as act
from safe_modprobe.log import record
from safe_modprobe.log.counts import (
    ACCOUNTS,
    BLOCK,
    KINDS,
    MAX_RECORDS,
    MAX_SUMMARIES,
    MAX_TOTALS,
    OTHERS,
    SECONDS,
    SIZE,
    USERS_PER_BLOCK,
    Budget,
    Counts,
    Repeats,
    Window,
    admit,
    close_windows,
    count_request,
    dump,
    origin_label,
    parse,
    seconds_until_due,
)
from safe_modprobe.log.counts_file import read_counts
from safe_modprobe.model import UID_MAX, Action, Caller, Origin, Source, Verdict
from tests.unit.make import ROOT, UNKNOWN, USER, Y, plan, step, verdict

Attempt = tuple[str, int | None, int]
"""An attempt to write a record: its kind, the uid (None if unknown), and the time in seconds after boot."""

SUBORDINATE = range(100000, 165536)  # useradd(8)'s first range, which lies in two blocks


def admit_all(
    attempts: Iterable[Attempt], counts: Counts | None = None
) -> tuple[Counter[Budget], Counts, list[Repeats]]:
    """Return (records written for each kind and uid, the counts afterwards, the summaries)."""
    counts = counts or Counts()
    written: Counter[Budget] = Counter()
    summaries: list[Repeats] = []
    for kind, uid, now in attempts:
        counts, write, due = admit(counts, kind, uid, now)
        summaries += due
        if write:
            number = -1 if uid is None else uid
            written[Budget(kind, number, number)] += 1
    return written, counts, summaries


def times(count: int, kind: str = "deny", uid: int | None = 1000, now: int = 0) -> list[Attempt]:
    return [(kind, uid, now)] * count


MINE = Budget("deny", 1000, 1000)
SEQUENCES = [
    ("none", [], 0, []),
    ("the whole budget", times(MAX_RECORDS), MAX_RECORDS, []),
    ("one more, and no further request", times(MAX_RECORDS + 1), MAX_RECORDS, []),
    ("one more, and the minute is over", [*times(MAX_RECORDS + 1), *times(1, now=SECONDS)], MAX_RECORDS + 1, [Repeats(MINE, 1)]),
    ("one more, and the minute is nearly over", [*times(MAX_RECORDS + 1), *times(1, now=SECONDS - 1)], MAX_RECORDS, []),
    ("no more, and the minute is over", [*times(MAX_RECORDS), *times(1, now=SECONDS)], MAX_RECORDS + 1, []),
    ("two minutes", [*times(MAX_RECORDS + 5), *times(MAX_RECORDS + 7, now=SECONDS), *times(1, now=999)], 2 * MAX_RECORDS + 1, [Repeats(MINE, 5), Repeats(MINE, 7)]),
    ("another user's request writes the summary", [*times(MAX_RECORDS + 5), *times(1, uid=1001, now=SECONDS)], MAX_RECORDS, [Repeats(MINE, 5)]),
    ("another user's request comes too early", [*times(MAX_RECORDS + 5), *times(1, uid=1001, now=SECONDS - 1)], MAX_RECORDS, []),
    ("another kind's request writes the summary", [*times(MAX_RECORDS + 5), *times(1, "log", now=SECONDS)], MAX_RECORDS, [Repeats(MINE, 5)]),
    ("a clock that went back", [*times(MAX_RECORDS + 5, now=500), *times(1, now=100)], MAX_RECORDS + 1, [Repeats(MINE, 5)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("attempts", "written", "summaries"), [row[1:] for row in SEQUENCES], ids=[row[0] for row in SEQUENCES]
)
def test_a_budget_is_used_up_and_renewed_each_minute(
    attempts: list[Attempt], written: int, summaries: list[Repeats]
) -> None:
    found, _, due = admit_all(attempts)
    assert (found[MINE], due) == (written, summaries)


# These are functions because every pytest process imports this file, and its children inherit its memory.
FLOODS: list[tuple[str, Callable[[], list[Attempt]]]] = [
    ("of one user", lambda: times(100_000)),
    ("of one user and every kind", lambda: [attempt for kind in KINDS for attempt in times(1000, kind)]),
    ("of unknown callers", lambda: times(20_000, uid=None)),
    ("of subordinate ids", lambda: [("deny", uid, 0) for uid in SUBORDINATE]),
    ("of subordinate ids, nine times each", lambda: [("deny", uid, 0) for uid in SUBORDINATE[::9] for _ in range(9)]),
    ("of subordinate ids and two kinds", lambda: [(kind, uid, 0) for uid in SUBORDINATE[::9] for kind in ("deny", "load")]),
    ("of uids in all blocks", lambda: [("deny", uid, 0) for uid in range(BLOCK + 1, UID_MAX, BLOCK * 5)]),
]  # fmt: skip
BYSTANDERS: list[tuple[str, int | None]] = [("deny", 0), ("allow", 0), ("deny", 33), ("deny", 1001), ("deny", 65534)]


@pytest.mark.parametrize("make_flood", [row[1] for row in FLOODS], ids=[row[0] for row in FLOODS])
def test_a_flood_writes_few_records_and_suppresses_no_other_user(make_flood: Callable[[], list[Attempt]]) -> None:
    flood = make_flood()
    written, counts, summaries = admit_all(flood)
    blocks = len({uid // BLOCK for _, uid, _ in flood if uid is not None and uid >= BLOCK})
    kinds = len({kind for kind, _, _ in flood})
    budgets = min(max(1, blocks * (USERS_PER_BLOCK + 1)), OTHERS + 1) * kinds
    assert written.total() <= budgets * MAX_RECORDS
    assert len(counts.windows) <= budgets and len(dump(counts)) < SIZE
    assert written.total() + sum(window.counted for window in counts.windows.values()) == len(flood)
    assert sum(counts.suppressed.values()) + written.total() == len(flood) and summaries == []
    for kind, uid in BYSTANDERS:
        counts, write, _ = admit(counts, kind, uid, 1)
        assert write, (kind, uid)


def test_a_users_budget_is_apart_from_its_subordinate_ids() -> None:
    """This also holds if both are in one block, as with a directory service."""
    mine = 100000 // BLOCK * BLOCK + 1
    _, counts, _ = admit_all([("deny", mine, 0)])
    _, counts, _ = admit_all([("deny", uid, 0) for uid in SUBORDINATE[::99] for _ in range(40)], counts)
    assert admit(counts, "deny", mine, 1)[1]


def test_a_directory_user_who_floods_suppresses_no_other_directory_user() -> None:
    first = 1_894_400_000
    _, counts, _ = admit_all(times(10_000, uid=first))
    for uid in range(first + 1, first + 10):
        counts, write, _ = admit(counts, "deny", uid, 1)
        assert write, uid


def test_root_keeps_its_budget_if_the_accounts_used_up_theirs() -> None:
    written, counts, _ = admit_all([("deny", uid, 0) for uid in range(1, BLOCK, 29)])
    assert len(counts.windows) == ACCOUNTS + 1 and written.total() == ACCOUNTS + MAX_RECORDS
    for kind in KINDS:
        for _ in range(MAX_RECORDS):
            counts, write, _ = admit(counts, kind, 0, 1)
            assert write
        assert not admit(counts, kind, 0, 1)[1], "root's own flood is limited, too"


def test_the_largest_counts_fit_into_the_file() -> None:
    counts = Counts(refused_at=10**18)
    for number in range(MAX_TOTALS * 2):
        for action in (*map(str, Action), "none"):
            for source in Source:
                counts = count_request(counts, (action, str(source), f"{number:064d}"), 10**18)
    rng = random.Random(1)
    for _ in range(6_000):
        uid = rng.choice((None, 0, rng.randrange(BLOCK), rng.randrange(BLOCK * 9), rng.randrange(UID_MAX)))
        counts, _, _ = admit(counts, rng.choice(KINDS), uid, 10**9)
    full = {key: 10**19 - 1 for key in counts.totals}
    windows = {key: Window(10**18, MAX_RECORDS, 10**18) for key in counts.windows}
    counts = counts._replace(totals=full, windows=windows, suppressed=dict.fromkeys(KINDS, 10**18))
    assert len(counts.totals) <= MAX_TOTALS + 4 * len(Source)
    assert len(windows) <= ACCOUNTS + OTHERS + 4 * len(KINDS)
    assert len(dump(counts)) < SIZE and parse(dump(counts)) == counts


def test_a_helper_writes_few_summaries_and_its_own_users_is_among_them() -> None:
    _, counts, _ = admit_all([attempt for uid in range(1, 51) for attempt in times(MAX_RECORDS + uid, uid=uid)])
    counts, write, due = admit(counts, "deny", 50, SECONDS)
    assert write and len(due) == MAX_SUMMARIES and Repeats(Budget("deny", 50, 50), 50) in due
    summaries = list(due)
    while seconds_until_due(counts, SECONDS) is not None:
        counts, due = close_windows(counts, SECONDS, MAX_SUMMARIES)
        summaries += due
    assert sorted(each.times for each in summaries) == list(range(1, 51)), "each once"
    assert seconds_until_due(counts, SECONDS) is None and close_windows(counts, SECONDS)[1] == ()


@pytest.mark.parametrize(
    ("windows", "now", "seconds"),
    [
        ({}, 5, None),
        ({MINE: Window(5, 30, 0)}, 5, None),
        ({MINE: Window(5, 30, 1)}, 5, SECONDS),
        ({MINE: Window(5, 30, 1)}, 25, SECONDS - 20),
        ({MINE: Window(5, 30, 1)}, 500, 0),
        ({MINE: Window(5, 30, 1), Budget("log", 1, 1): Window(1, 30, 1)}, 6, SECONDS - 5),
        ({MINE: Window(10**9, 30, 1)}, 5, SECONDS),
    ],
)
def test_seconds_until_a_summary_is_due(windows: dict[Budget, Window], now: int, seconds: int | None) -> None:
    assert seconds_until_due(Counts(windows=windows), now) == seconds


numbers = st.integers(0, 10**19 - 1)
budgets = st.builds(Budget, st.sampled_from(KINDS), numbers, numbers) | st.builds(
    lambda kind: Budget(kind, -1, -1), st.sampled_from(KINDS)
)
labels = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
totals = st.tuples(st.sampled_from([*map(str, Action), "none"]), st.sampled_from([*map(str, Source)]), labels)


@given(
    st.builds(
        Counts,
        st.dictionaries(totals, numbers, max_size=9),
        st.dictionaries(st.sampled_from(KINDS), numbers),
        numbers,
        st.dictionaries(budgets, st.builds(Window, numbers, numbers, numbers), max_size=9),
    )
)
def test_parse_returns_what_dump_wrote(counts: Counts) -> None:
    assert parse(dump(counts) + b"\0rest") == counts


HEAD = b"safe-modprobe counts 1\n"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\0", b"\xff" * 99, b"safe-modprobe counts 2\ncounted deny 5\n", b"counted deny 5\n", HEAD + b"counted deny -5\n",
        HEAD + b"counted deny\n", HEAD + b"counted shout 5\n", HEAD + b"counted deny " + b"9" * 5000 + b"\n",
        HEAD + b"request 5 deny\n", HEAD + b"request 5 deny rumour x\n", HEAD + b"request 5 perhaps tracefs x\n",
        HEAD + b"request 5 deny tracefs \n", HEAD + b"request 5 deny tracefs a b\n", HEAD + b"request 5 deny tracefs a\x1b\n",
        HEAD + b"request 5 deny tracefs " + b"x" * 65 + b"\n", HEAD + b"request \xd9\xa1 deny tracefs x\n",
        HEAD + b"window deny 1 1 1 1\n", HEAD + b"window deny 1 1 1 1 1 1\n", HEAD + b"window deny -1 0 1 1 1\n",
        HEAD + b"window deny -2 -2 1 1 1\n", HEAD + b"window deny 1 1 1 1 1.0\n", HEAD + b"refused-at\n", HEAD + b"refused-at x\n",
        HEAD + b"\0counted deny 5\n",
    ],
)  # fmt: skip
def test_parse_skips_invalid_lines(text: bytes) -> None:
    assert parse(text) == Counts()


@pytest.mark.parametrize(
    ("origin", "label"),
    [
        (Origin("50-exploited-2026.toml", 4), "50-exploited-2026.toml"),
        (Origin("built-in"), "built-in"),
        (Origin("/lib/modules/6.1/x.ko"), "marker"),
        (Origin("the module's .modinfo"), "marker"),
        (Origin("grsecurity's kernel argument"), "grsecurity\\x27s\\x20kernel\\x20argument"),
        (Origin("10-a b\n\udcff.toml", 1), "10-a\\x20b\\x0a\\xff.toml"),
        (Origin("x" * 300), "x" * 64),
        (Origin(""), "other"),
    ],
)
def test_origin_label(origin: Origin, label: str) -> None:
    assert origin_label(origin) == label


def test_many_policy_files_share_a_limited_number_of_counters() -> None:
    counts = Counts()
    for number in range(1000):
        counts = count_request(counts, ("deny", "tracefs", f"{number}.toml"), 7)
    assert len(counts.totals) == MAX_TOTALS + 1 and sum(counts.totals.values()) == 1000
    assert counts.totals["deny", "tracefs", "other"] == 1000 - MAX_TOTALS and counts.refused_at == 7


# The tests below share one state between many helpers, in files, with a log file in place of the journal.


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that records are appended to, a line each. The counts are kept beside it."""
    for name in ("JOURNAL", "SYSLOG"):
        monkeypatch.setattr(record, name, str(tmp_path / "nobody"))
    monkeypatch.setattr(record, "_kmsg", lambda message, priority, fields: append(tmp_path / "log", message))
    monkeypatch.setattr(act, "COUNTS", str(tmp_path / "run/counts"))
    monkeypatch.setattr(act, "PENDING", str(tmp_path / "run/counts.pending"))
    (tmp_path / "log").touch()
    yield tmp_path / "log"


def append(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def refusal(who: Caller = USER, alias: str = "x", text: str = "") -> Verdict:
    return verdict(alias, who, plan(step("m", Y), alias=alias), text)


HELPERS, EACH = 40, 25


def test_the_counts_of_many_simultaneous_helpers_add_up(log: Path) -> None:
    children = []
    for number in range(HELPERS):
        pid = os.fork()
        if pid == 0:
            try:
                for time_ in range(EACH):
                    act.record_verdict(refusal(alias=f"name-{number}-{time_}"))
                if number == HELPERS // 2:
                    act.record_verdict(refusal(USER._replace(uid=1001, euid=1001)))
                    act.record_verdict(refusal(ROOT, text='[settings]\nmode = "disabled"'))
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    lines = log.read_text().splitlines()
    mine = [line for line in lines if "to uid 1000" in line]
    counts = read_counts(act.COUNTS)
    assert len(mine) == MAX_RECORDS and [len(lines) - len(mine)] == [2], lines
    assert counts.suppressed == {"deny": HELPERS * EACH - MAX_RECORDS}
    assert counts.totals == {
        ("deny", "tracefs", "marker"): HELPERS * EACH + 1,
        ("deny", "tracefs", "50-test.toml"): 1,
    }
    assert (log.parent / "run/counts.pending").exists()
    assert os.stat(act.COUNTS).st_size == SIZE


def test_the_next_request_writes_a_due_summary(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(MAX_RECORDS + 7):
        act.record_verdict(refusal())
    assert len(log.read_text().splitlines()) == MAX_RECORDS
    monkeypatch.setattr(act, "_now", lambda: int(time.clock_gettime(time.CLOCK_BOOTTIME)) + SECONDS + 1)
    act.record_verdict(verdict("x", ROOT, plan(step("m", Y))._replace(targets=())))
    assert log.read_text().splitlines()[MAX_RECORDS:] == [
        f"7 more requests by uid 1000 were denied within {SECONDS} s; they were only counted, to limit the rate of records"
    ]
    assert read_counts(act.COUNTS).windows == {}


def test_write_due_writes_a_summary_without_a_further_request(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(MAX_RECORDS + 7):
        act.record_verdict(refusal(UNKNOWN))
    left, due = act.write_due()
    assert due == () and len(left.windows) == 1
    assert not (log.parent / "run/counts.pending").exists(), "the next record that is only counted creates it again"
    act.record_verdict(refusal(UNKNOWN))
    assert (log.parent / "run/counts.pending").exists()
    monkeypatch.setattr(act, "_now", lambda: int(time.clock_gettime(time.CLOCK_BOOTTIME)) + SECONDS + 1)
    left, due = act.write_due()
    assert [each.times for each in due] == [8] and left.windows == {}
    assert log.read_text().splitlines()[-1].startswith("8 more requests by unknown callers were denied within")
    assert act.write_due()[1] == ()


def test_quiet_rules_are_counted_and_not_recorded(log: Path) -> None:
    for _ in range(3):
        act.record_verdict(refusal(text='rule = [{ modules = ["m"], action = "deny", quiet = true }]'))
    assert log.read_text() == ""
    counts = read_counts(act.COUNTS)
    assert (counts.totals, counts.windows) == ({("deny", "tracefs", "50-test.toml"): 3}, {})


def test_failures_have_separate_budgets(log: Path) -> None:
    for _ in range(MAX_RECORDS + 9):
        act.record_trouble("load", 1000, "m: could not be loaded", 4, {})
        act.record_trouble("policy", None, "policy error", 3, {})
    act.record_verdict(refusal())
    lines = Counter(log.read_text().splitlines())
    assert (lines["m: could not be loaded"], lines["policy error"], lines.total()) == (
        MAX_RECORDS,
        MAX_RECORDS,
        2 * MAX_RECORDS + 1,
    )


def test_the_limit_holds_for_a_broken_helper(log: Path) -> None:
    for _ in range(MAX_RECORDS + 9):
        last_resort._record("failure", "x", "net-pf-38", "refused")
        last_resort._record("left", "x", "net-pf-38", "left to modprobe: the request is privileged")
    assert set(Counter(log.read_text().splitlines()).values()) == {MAX_RECORDS}


WAITING_TASKS = [
    ("one user", (), {7: 1000}, 1000),
    ("several requests of one user", (), {7: 1000, 8: 1000}, 1000),
    ("two users", (), {7: 1000, 8: 1001}, None),
    ("no task", (), {}, None),
    ("a task that ended", (), {7: OSError()}, None),
    ("a task that cannot be read", (), {7: ValueError()}, None),
    ("too many", (), {7: proc.WalkLimitError()}, None),
    (
        "the kernel names the user",
        ("grsec_modharden_fs", "grsec_modharden_normal1000_", "modharden_cap12_"),
        {7: 0},
        1000,
    ),
    (
        "invalid kernel arguments",
        ("grsec_modharden_normal-1_", "grsec_modharden_normal1000", "grsec_modharden_normal_"),
        {7: 1},
        1,
    ),
    ("a number too long", ("grsec_modharden_normal" + "9" * 99 + "_",), {7: 1}, 1),
]


@pytest.mark.parametrize(
    ("kernel_args", "tasks", "uid"), [row[1:] for row in WAITING_TASKS], ids=[row[0] for row in WAITING_TASKS]
)
def test_a_broken_helper_charges_the_user_of_the_waiting_task(
    monkeypatch: pytest.MonkeyPatch, kernel_args: tuple[str, ...], tasks: dict[int, int | Exception], uid: int | None
) -> None:
    def real_uid(tid: int) -> int:
        found = tasks[tid]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(proc, "blocked_requesters", lambda: (list(tasks), 1))
    monkeypatch.setattr(proc, "real_uid", real_uid)
    assert last_resort._budget_uid(kernel_args) == uid


def test_one_user_suppresses_no_other_while_the_helper_is_broken(log: Path) -> None:
    for uid in (1000, 1001):
        for _ in range(MAX_RECORDS + 9):
            last_resort._record("failure", f"x of {uid}", "net-pf-38", "refused", uid)
    assert sorted(Counter(line[:32] for line in log.read_text().splitlines()).values()) == [MAX_RECORDS, MAX_RECORDS]


def test_real_uid_returns_a_tasks_real_uid() -> None:
    assert proc.real_uid(os.getpid()) == os.getuid()
    with subprocess.Popen(["setpriv", "--ruid", "1234", "sleep", "60"]) as child:
        while proc.read(f"/proc/{child.pid}/comm") != b"sleep\n":
            time.sleep(0.01)
        assert proc.real_uid(child.pid) == 1234, "not the effective one"
        child.kill()
    with pytest.raises(OSError):
        proc.real_uid(child.pid)


@pytest.mark.parametrize("broken", [None, object()], ids=["missing", "another version"])
def test_a_failure_is_recorded_if_counting_itself_is_broken(
    log: Path, monkeypatch: pytest.MonkeyPatch, broken: object
) -> None:
    monkeypatch.setitem(sys.modules, "safe_modprobe.log.rate_limited", broken)
    for _ in range(MAX_RECORDS + 9):
        last_resort._record("failure", "x", "net-pf-38", "refused")
    assert log.read_text().splitlines() == ["safe-modprobe failed (x); refused"] * (MAX_RECORDS + 9)


def a_folder(run: Path) -> None:
    (run / "counts").mkdir(parents=True)


def a_link(run: Path) -> None:
    run.mkdir()
    (run / "victim").write_text("precious")
    (run / "counts").symlink_to(run / "victim")


def a_pipe(run: Path) -> None:
    run.mkdir()
    os.mkfifo(run / "counts")


def a_socket(run: Path) -> None:
    run.mkdir()
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind(str(run / "counts"))


def no_folder(run: Path) -> None:
    run.write_text("a file where the folder should be")


@pytest.mark.parametrize("broken", [a_folder, a_link, a_pipe, a_socket, no_folder])
def test_a_record_that_cannot_be_counted_is_written(log: Path, broken: object) -> None:
    broken(log.parent / "run")  # type: ignore[operator]
    for _ in range(MAX_RECORDS + 5):
        act.record_verdict(refusal())
    assert len(log.read_text().splitlines()) == MAX_RECORDS + 5
    victim = log.parent / "run/victim"
    assert not victim.exists() or victim.read_text() == "precious"


@pytest.mark.parametrize(
    "content",
    [b"\xff" * SIZE, b"\0" * SIZE, b"", b"safe-modprobe counts 1\nwindow deny 1000 1000 999999999999 30 5\n", os.urandom(999)],
    ids=["ones", "zeros", "empty", "a window without an end", "random"],
)  # fmt: skip
def test_a_damaged_file_suppresses_no_user(log: Path, content: bytes) -> None:
    (log.parent / "run").mkdir()
    (log.parent / "run/counts").write_bytes(content)
    for _ in range(MAX_RECORDS + 5):
        act.record_verdict(refusal())
    lines = [line for line in log.read_text().splitlines() if line.startswith("denied")]
    assert len(lines) == MAX_RECORDS
    assert read_counts(act.COUNTS).suppressed == {"deny": 5}


def test_a_lock_that_is_never_free_blocks_a_helper_briefly(log: Path) -> None:
    act.record_verdict(refusal())
    import fcntl

    with open(act.COUNTS) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        started = time.monotonic()
        act.record_verdict(refusal())
        assert time.monotonic() - started < 2
    assert len(log.read_text().splitlines()) == 2


_FULL_RUN_FOLDER = """set -e
mount -t tmpfs -o size=192k none "$1"
{before}
dd if=/dev/zero of="$1/filler" bs=4k 2>/dev/null || true
exec "$2" -c "$3" "$1"
"""
_REFUSE = """
import sys
from safe_modprobe.log import rate_limited as counts
from safe_modprobe.log import record
from safe_modprobe.log.counts import MAX_RECORDS
from tests.unit.make import USER, Y, plan, step, verdict
counts.COUNTS, counts.PENDING = f"{sys.argv[1]}/counts", f"{sys.argv[1]}/counts.pending"
written = []
record.JOURNAL = record.SYSLOG = "/nonexistent"
record._kmsg = lambda *arguments: written.append(arguments)
for _ in range(MAX_RECORDS + 5):
    counts.record_verdict(verdict("x", USER, plan(step("m", Y), alias="x")))
print(len(written))
"""


@pytest.mark.parametrize(
    ("before", "written"),
    [
        ("", MAX_RECORDS + 5),
        ('"$2" -c "$3" "$1" >/dev/null; truncate -s 0 "$1/counts"', MAX_RECORDS + 5),
        ("PRE", MAX_RECORDS),
    ],
    ids=["without a file of counts", "with a truncated file", "with a whole file"],
)
def test_no_record_is_lost_if_run_is_full(tmp_path: Path, before: str, written: int) -> None:
    """A file that was allocated before still limits the records."""
    prepare = (
        '"$2" -c "from safe_modprobe.log import rate_limited as counts; import sys; counts.COUNTS = sys.argv[1] + \'/counts\'; '
        'counts.write_due()" "$1"'
    )
    script = _FULL_RUN_FOLDER.replace("{before}", prepare if before == "PRE" else before)
    python = os.path.abspath(".cache/venv/bin/python3")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", tmp_path, python, _REFUSE], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(written), "")


def test_a_missing_file_means_empty_counts(tmp_path: Path) -> None:
    assert read_counts(str(tmp_path / "none")) == Counts()
    assert pure.seconds_until_due(Counts(), 5) is None
