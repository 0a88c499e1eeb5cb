"""A problem that a check found: its severity, what is wrong, and what to do."""

from enum import StrEnum

from safe_modprobe.light_types import NamedTuple


class Severity(StrEnum):
    """How severe a problem is.

    `moot`: this problem alone makes the decisions pointless, because none is made or none takes effect.
    `weaker`: the helper knows less, or refuses less, than the policy says. `note`: information; often intended.
    """

    MOOT = "moot"
    WEAKER = "weaker"
    NOTE = "note"


class Problem(NamedTuple):
    """`key` is a stable name for programs. `what` (what is wrong) and `mend` (what to do) are one sentence each."""

    key: str
    severity: Severity
    what: str
    mend: str


def moot(key: str, what: str, mend: str) -> Problem:
    """Return a problem that makes the decisions pointless."""
    return Problem(key, Severity.MOOT, what, mend)


def weaker(key: str, what: str, mend: str) -> Problem:
    """Return a problem that protects less than the policy says."""
    return Problem(key, Severity.WEAKER, what, mend)


def note(key: str, what: str, mend: str) -> Problem:
    """Return a problem for information."""
    return Problem(key, Severity.NOTE, what, mend)
