"""The option `--since`: the time that a text stands for."""

import argparse
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from safe_modprobe.admin.commands.since import add_since, parse, since

NOW = datetime(2026, 3, 30, 10, 30, 20, tzinfo=UTC)  # 12:30:20 in Berlin, a day after the change to summer time


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # This is the European Union's rule for CET, written out so that the test needs no tzdata.
    monkeypatch.setitem(os.environ, "TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-03-30 10:30:20"),
        ("today", "2026-03-29 22:00:00"),
        ("yesterday", "2026-03-28 23:00:00"),
        ("2026-03-30", "2026-03-29 22:00:00"),
        ("2026-03-01", "2026-02-28 23:00:00"),
        ("2026-03-30 12:00", "2026-03-30 10:00:00"),
        ("2026-03-30 12:00:01", "2026-03-30 10:00:01"),
        ("2026-03-30T12:00:01", "2026-03-30 10:00:01"),
        (" 2026-03-30 ", "2026-03-29 22:00:00"),
        ("08:15", "2026-03-30 06:15:00"),
        ("08:15:30", "2026-03-30 06:15:30"),
        ("-1h", "2026-03-30 09:30:20"),
        ("1h ago", "2026-03-30 09:30:20"),
        ("2h ago", "2026-03-30 08:30:20"),
        ("7d", "2026-03-23 10:30:20"),
        ("-7d", "2026-03-23 10:30:20"),
        ("1 week ago", "2026-03-23 10:30:20"),
        ("2 hours ago", "2026-03-30 08:30:20"),
        ("1h 30min ago", "2026-03-30 09:00:20"),
        ("1h30m", "2026-03-30 09:00:20"),
        ("20s", "2026-03-30 10:30:00"),
        ("0s", "2026-03-30 10:30:20"),
        ("1M", "2026-02-28 00:00:20"),
        ("1y", "2025-03-30 04:30:20"),
    ],
)
def test_each_form_of_a_time_is_parsed(text: str, expected: str) -> None:
    found = parse(text, NOW)
    assert found is not None and found.tzinfo is not None
    assert f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S}" == expected


WRONG = [
    "", " ", "-", "ago", "- ago", "1", "-1", "h", "1 parsec", "1h 2", "1h,2h", "+1h", "1.5h", "١h", "tomorrow", "2026", "2026-3",
    "2026-02-30", "2026-13-01", "2026-03-30 25:00", "2026-03-30 12", "25:00", "999999999y", "999999999w", "1h ago ago", "2026-03-30\0",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_text_that_is_not_a_time_is_an_error(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        since(text)
    assert str(caught.value) == (
        f"{text!a} is not a time; use 'YYYY-MM-DD', 'YYYY-MM-DD HH:MM', 'HH:MM', 'today', 'yesterday', '-1h', '2h ago' or '7d'"
    )


@pytest.mark.parametrize("argv", [["--since", "-1h"], ["--since=-1h"], ["--since", "-1h 30min"], ["--since", "1h ago"]])
def test_a_time_span_with_a_minus_sign_is_a_value(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_since(parser)
    assert parser.parse_args(argv).since.tzinfo is not None


@pytest.mark.parametrize("argv", [["--since"], ["--since", "-x"], ["--since", "--since"]])
def test_another_option_is_not_a_value(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_since(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(argv)
    assert "argument --since: expected one argument" in capsys.readouterr().err
