"""A problem: how much it weighs, what it is, how to mend it."""

from enum import StrEnum

from safe_modprobe.light_types import NamedTuple


class Severity(StrEnum):
    """How much a problem weighs.

    `moot`: because of it alone, nothing is decided, or nothing that is decided counts. `weaker`: less is known, or
    less is kept from users, than the policy says. `note`: good to know, and may well be meant.
    """

    MOOT = "moot"
    WEAKER = "weaker"
    NOTE = "note"


class Problem(NamedTuple):
    """`key` is its name for programs, and never changes; `what` and `mend` are a sentence each."""

    key: str
    severity: Severity
    what: str
    mend: str


def moot(key: str, what: str, mend: str) -> Problem:
    """A problem that makes all the rest moot."""
    return Problem(key, Severity.MOOT, what, mend)


def weaker(key: str, what: str, mend: str) -> Problem:
    """A problem that leaves less than the policy says."""
    return Problem(key, Severity.WEAKER, what, mend)


def note(key: str, what: str, mend: str) -> Problem:
    """Something that is good to know."""
    return Problem(key, Severity.NOTE, what, mend)
