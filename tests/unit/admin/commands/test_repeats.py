"""`repeats`: the counts that it shows, and that --write runs until every count is written."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_modprobe.admin.commands import repeats
from safe_modprobe.admin.commands.main import main
from safe_modprobe.log import rate_limited as act
from safe_modprobe.log import record
from safe_modprobe.log.counts import SECONDS, Budget, Counts, Window, dump
from safe_modprobe.log.counts_file import read_counts
from tests.unit.log.test_counts import append

NOW = 1000
FLOOD = Counts(
    {}, {"deny": 477, "load": 2}, 0,
    {
        Budget("deny", 1000, 1000): Window(NOW - 20, 30, 470), Budget("deny", -1, -1): Window(NOW - 90, 30, 7),
        Budget("load", 131072, 196607): Window(NOW, 30, 2), Budget("allow", 0, 0): Window(NOW, 3, 0),
    },
)  # fmt: skip

WriteCounts = Callable[[Counts], None]


@pytest.fixture
def write_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteCounts:
    """Return a function that writes counts to the helpers' file.

    Records go to the file `log`, and the clock advances only in sleep().
    """
    path, clock = tmp_path / "counts", [NOW]
    monkeypatch.setattr(act, "COUNTS", str(path))
    monkeypatch.setattr(act, "PENDING", str(tmp_path / "pending"))
    monkeypatch.setattr(repeats, "read_counts", lambda: read_counts(str(path)))
    for module in (act, repeats):
        monkeypatch.setattr(module, "_now", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    for name in ("JOURNAL", "SYSLOG"):
        monkeypatch.setattr(record, name, str(tmp_path / "no-listener"))
    monkeypatch.setattr(record, "_kmsg", lambda message, priority, fields: append(tmp_path / "log", message))
    (tmp_path / "log").touch()
    return lambda counts: path.write_bytes(dump(counts)) and None


def output(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["repeats", *options]) == 0
    return capsys.readouterr().out


def test_without_counts_nothing_is_shown_or_written(
    write_counts: WriteCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert output(capsys) == "no record was rate-limited since boot; the log has every record\n"
    assert json.loads(output(capsys, "--json")) == {"counted": {}, "pending": []}
    assert output(capsys, "--write") == ""


def test_counts_since_boot_and_pending_counts_are_shown(
    write_counts: WriteCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    write_counts(FLOOD)
    lines = [line.split() for line in output(capsys).splitlines()]
    assert lines == [
        ["deny:", "477", "since", "boot"], ["load:", "2", "since", "boot"], [], ["not", "in", "the", "log", "yet:"], [],
        ["kind", "caller", "recorded", "only", "counted", "seconds", "left"],
        ["deny", "uid", "1000", "30", "470", str(SECONDS - 20)], ["deny", "unknown", "callers", "30", "7", "0"],
        ["load", "uids", "from", "131072", "to", "196607", "30", "2", str(SECONDS)],
    ]  # fmt: skip
    found = json.loads(output(capsys, "--json"))
    assert found["counted"] == {"deny": 477, "load": 2}
    assert [(each["kind"], each["first"], each["last"], each["counted"]) for each in found["pending"]] == [
        ("deny", 1000, 1000, 470),
        ("deny", -1, -1, 7),
        ("load", 131072, 196607, 2),
    ]


def test_write_records_each_count_when_its_minute_is_over(
    write_counts: WriteCounts, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_counts(FLOOD)
    found = json.loads(output(capsys, "--write", "--json"))["written"]
    assert [each["times"] for each in found] == [7, 470, 2]
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(" more")[0] for line in lines] == ["7", "470", "2"]
    assert json.loads(output(capsys, "--json"))["pending"] == []
