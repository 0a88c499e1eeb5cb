"""The survey's words, as types."""

from dataclasses import dataclass
from enum import StrEnum


class SurveyError(Exception):
    """One sentence: place, thing, what it was, what it may be."""


class Use(StrEnum):
    """What a mention of request_module in the sources is."""

    CALL = "call"
    DECLARATION = "declaration"
    DEFINITION = "definition"
    MACRO = "macro"
    """A macro's name, or its body where that passes on what it was given."""
    FUNCTION = "function of a similar name"
    """A call of another function, whose body has the call itself: blk_request_module()."""
    VARIABLE = "variable or member of a similar name"
    REFERENCE = "reference"
    """The function as a value: EXPORT_SYMBOL(), INIT_WORK()."""
    COMMENT = "comment"
    STRING = "string"
    TEXT = "not C"
    UNKNOWN = "not understood"


class Kind(StrEnum):
    """How much of the name the sources fix."""

    CONSTANT = "constant"
    PREFIXED = "prefixed"
    """It begins with what the sources say, and goes on with what the caller says."""
    CONSTRUCTED = "constructed"
    """Made elsewhere; here nothing is known of its beginning."""


@dataclass(frozen=True)
class Mention:
    """One word that has request_module in it. `file` is relative to the tree, `line` counts from 1."""

    file: str
    line: int
    word: str
    use: Use


@dataclass(frozen=True)
class Call:
    """One call, and what it asks for.

    `format` is as the sources write it, on one line. `name` is a pattern of glob(7) that matches every name that is
    asked for: string macros are resolved, conversions are `*`. `capability` is the one that request_module_cap() names
    there, in this tree or after the series: "CAP_NET_ADMIN", or "0" for a call that anybody may make; None where
    request_module() stays as it is.
    """

    file: str
    line: int
    function: str
    api: str
    format: str
    name: str
    capability: str | None = None

    @property
    def prefix(self) -> str:
        """What every name begins with, as it is written in a pattern."""
        return self.name.partition("*")[0]

    @property
    def kind(self) -> Kind:
        """By what is known of the name."""
        if "*" not in self.name.replace("[*]", ""):
            return Kind.CONSTANT
        return Kind.PREFIXED if self.prefix else Kind.CONSTRUCTED


@dataclass(frozen=True)
class Grep:
    """Lines, counted as the thread counted them in 2017 (Kees Cook, LKML, 29 November 2017).

    lines: git grep request_module'\\b' | wc -l
    constant: … | grep -v % | grep '"' | wc -l
    formatted: … | grep % | wc -l
    """

    lines: int
    constant: int
    formatted: int


@dataclass(frozen=True)
class Survey:
    """A whole tree. `version` is its Makefile's: "7.2.13". `series` says whether request_module_cap() is there."""

    version: str
    grep: Grep
    mentions: tuple[Mention, ...]
    calls: tuple[Call, ...]
    series: bool = False

    @property
    def uncovered(self) -> tuple[Call, ...]:
        """The calls that the series leaves as they are."""
        return tuple(call for call in self.calls if call.capability is None)
