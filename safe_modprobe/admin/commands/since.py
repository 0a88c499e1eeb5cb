"""The option `--since`: parse the forms of systemd.time(7) that people use for logs."""

import argparse
import re
from datetime import UTC, datetime, timedelta

_SECONDS = {
    "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "w": 604800, "week": 604800, "M": 2629800, "month": 2629800, "y": 31557600,
    "year": 31557600,
}  # fmt: skip
"""Seconds of each unit. As in systemd, a year has 365.25 days, and a month is a twelfth of a year."""

_SPAN = re.compile(r"(\d{1,9})\s*([A-Za-z]+)\s*", re.ASCII)
_CLOCK = ("%H:%M", "%H:%M:%S")
_DATE = ("%Y-%m-%d", *(f"%Y-%m-%d{between}{clock}" for between in (" ", "T") for clock in _CLOCK))


def add_since(parser: argparse.ArgumentParser) -> None:
    """Add `--since`."""
    # argparse takes `-1h` for an option, but a negative number for a value. journalctl(1) takes `-1h` for a value.
    parser._negative_number_matcher = re.compile(r"^-\d")
    parser.add_argument(
        "--since",
        type=since,
        metavar="TIME",
        help="only records after this time: 2026-05-01, '2026-05-01 12:30', yesterday, -1h, 7d",
    )


def since(text: str) -> datetime:
    """Parse an argument of argparse. Raises ArgumentTypeError for text that is not a time."""
    try:
        found = parse(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!a} is not a time; use 'YYYY-MM-DD', 'YYYY-MM-DD HH:MM', 'HH:MM', 'today', 'yesterday', '-1h',"
            " '2h ago' or '7d'"
        )
    return found


def parse(text: str, now: datetime) -> datetime | None:
    """Return the time, or None if the text is not a time. Dates and times of day are local.

    A time span, with or without a sign, counts back from now. Raises ValueError and OverflowError for dates that do not
    exist.
    """
    stripped = text.strip()
    today = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    named = {"now": now, "today": today, "yesterday": today - timedelta(days=1)}
    if stripped in named:
        return named[stripped].astimezone()
    for form in _DATE:
        try:
            return datetime.strptime(stripped, form).astimezone()
        except ValueError:
            continue
    for form in _CLOCK:
        try:
            return datetime.combine(today, datetime.strptime(stripped, form).time()).astimezone()
        except ValueError:
            continue
    seconds = _span_seconds(stripped.removesuffix("ago").removeprefix("-").strip())
    return None if seconds is None else (now - timedelta(seconds=seconds)).astimezone()


def _span_seconds(span: str) -> int | None:
    """Return the seconds of a time span such as `1h 30min`, or None if the text is not a time span."""
    total, position = 0, 0
    while position < len(span):
        found = _SPAN.match(span, position)
        unit = None if found is None else _SECONDS.get(found[2]) or _SECONDS.get(found[2].removesuffix("s"))
        if found is None or unit is None:
            return None
        total += int(found[1]) * unit
        position = found.end()
    return total if span else None
