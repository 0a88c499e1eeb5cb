"""repeats: what is shown of the counts, and that --write ends when, and only when, nothing is left."""

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

Place = Callable[[Counts], None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Puts these counts where helpers would have; records go to a file `log`, and time passes only in sleep()."""
    path, clock = tmp_path / "counts", [NOW]
    monkeypatch.setattr(act, "COUNTS", str(path))
    monkeypatch.setattr(act, "PENDING", str(tmp_path / "pending"))
    monkeypatch.setattr(repeats, "read_counts", lambda: read_counts(str(path)))
    for module in (act, repeats):
        monkeypatch.setattr(module, "_now", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    for name in ("JOURNAL", "SYSLOG"):
        monkeypatch.setattr(record, name, str(tmp_path / "nobody"))
    monkeypatch.setattr(record, "_kmsg", lambda message, priority, fields: append(tmp_path / "log", message))
    (tmp_path / "log").touch()
    return lambda counts: path.write_bytes(dump(counts)) and None


def said(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["repeats", *options]) == 0
    return capsys.readouterr().out


def test_nothing_was_counted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == "nothing was only counted since boot; every record is in the log\n"
    assert json.loads(said(capsys, "--json")) == {"counted": {}, "pending": []}
    assert said(capsys, "--write") == ""


def test_what_was_counted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place(FLOOD)
    lines = [line.split() for line in said(capsys).splitlines()]
    assert lines == [
        ["deny:", "477", "since", "boot"], ["load:", "2", "since", "boot"], [], ["not", "in", "the", "log", "yet:"], [],
        ["kind", "who", "recorded", "only", "counted", "seconds", "left"],
        ["deny", "uid", "1000", "30", "470", str(SECONDS - 20)], ["deny", "unknown", "callers", "30", "7", "0"],
        ["load", "uids", "from", "131072", "to", "196607", "30", "2", str(SECONDS)],
    ]  # fmt: skip
    found = json.loads(said(capsys, "--json"))
    assert found["counted"] == {"deny": 477, "load": 2}
    assert [(each["kind"], each["first"], each["last"], each["counted"]) for each in found["pending"]] == [
        ("deny", 1000, 1000, 470),
        ("deny", -1, -1, 7),
        ("load", 131072, 196607, 2),
    ]


def test_all_is_written_each_in_its_time(place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place(FLOOD)
    found = json.loads(said(capsys, "--write", "--json"))["written"]
    assert [each["times"] for each in found] == [7, 470, 2]
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(" more")[0] for line in lines] == ["7", "470", "2"]
    assert json.loads(said(capsys, "--json"))["pending"] == []
