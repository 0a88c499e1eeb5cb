"""`--since`: a time of systemd.time(7), as far as people write those for a log."""

import argparse
import re
from datetime import UTC, datetime, timedelta

_SECONDS = {
    "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "w": 604800, "week": 604800, "M": 2629800, "month": 2629800, "y": 31557600,
    "year": 31557600,
}  # fmt: skip
"""Months and years as long as systemd has them: 365.25 days, and a twelfth of that."""

_SPAN = re.compile(r"(\d{1,9})\s*([A-Za-z]+)\s*", re.ASCII)
_CLOCK = ("%H:%M", "%H:%M:%S")
_DATE = ("%Y-%m-%d", *(f"%Y-%m-%d{between}{clock}" for between in (" ", "T") for clock in _CLOCK))


def add_since(parser: argparse.ArgumentParser) -> None:
    """`--since`."""
    # To argparse `-1h` is an option, and what looks like a negative number a value; journalctl(1) takes it as a value.
    parser._negative_number_matcher = re.compile(r"^-\d")
    parser.add_argument(
        "--since",
        type=since,
        metavar="TIME",
        help="only what came after it: 2026-05-01, '2026-05-01 12:30', yesterday, -1h, 7d",
    )


def since(text: str) -> datetime:
    """argparse's type. Raises ArgumentTypeError for what is no time."""
    try:
        found = parse(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!a} is no time; write 'YYYY-MM-DD', 'YYYY-MM-DD HH:MM', 'HH:MM', 'today', 'yesterday', '-1h',"
            " '2h ago' or '7d'"
        )
    return found


def parse(text: str, now: datetime) -> datetime | None:
    """The time, None for what is none; dates and clocks are local, and a span, signed or not, is one before now.

    Raises ValueError and OverflowError for days and years that no calendar has.
    """
    words = text.strip()
    today = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    named = {"now": now, "today": today, "yesterday": today - timedelta(days=1)}
    if words in named:
        return named[words].astimezone()
    for form in _DATE:
        try:
            return datetime.strptime(words, form).astimezone()
        except ValueError:
            continue
    for form in _CLOCK:
        try:
            return datetime.combine(today, datetime.strptime(words, form).time()).astimezone()
        except ValueError:
            continue
    seconds = _seconds(words.removesuffix("ago").removeprefix("-").strip())
    return None if seconds is None else (now - timedelta(seconds=seconds)).astimezone()


def _seconds(span: str) -> int | None:
    """Of `1h 30min` and the like, None for what is none."""
    total, at = 0, 0
    while at < len(span):
        found = _SPAN.match(span, at)
        unit = None if found is None else _SECONDS.get(found[2]) or _SECONDS.get(found[2].removesuffix("s"))
        if found is None or unit is None:
            return None
        total += int(found[1]) * unit
        at = found.end()
    return total if span else None
