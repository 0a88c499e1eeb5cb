"""The types of a survey."""

from dataclasses import dataclass
from enum import StrEnum


class SurveyError(Exception):
    """A message of one sentence: place, problem, remedy."""


class Use(StrEnum):
    """The kind of a mention of request_module in the sources."""

    CALL = "call"
    DECLARATION = "declaration"
    DEFINITION = "definition"
    MACRO = "macro"
    """A macro's name, or a macro's body that passes its argument on."""
    FUNCTION = "function of a similar name"
    """A call of another function whose body has the real call, such as blk_request_module()."""
    VARIABLE = "variable or member of a similar name"
    REFERENCE = "reference"
    """The function used as a value, as in EXPORT_SYMBOL() and INIT_WORK()."""
    COMMENT = "comment"
    STRING = "string"
    TEXT = "not C"
    UNKNOWN = "not understood"


class Kind(StrEnum):
    """How much of the requested name the sources fix."""

    CONSTANT = "constant"
    PREFIXED = "prefixed"
    """The sources fix the beginning, and the caller chooses the rest."""
    CONSTRUCTED = "constructed"
    """The name is built elsewhere, so even its beginning is unknown."""


@dataclass(frozen=True)
class Mention:
    """A word that contains request_module. `file` is relative to the tree, `line` counts from 1."""

    file: str
    line: int
    word: str
    use: Use


@dataclass(frozen=True)
class Call:
    """A call, and the names that it requests.

    - `format` is the format as the sources write it, on one line.
    - `name` is a pattern of glob(7) that matches every requested name. String macros are resolved, conversions are `*`.
    - `capability` is what request_module_cap() declares, in this tree or after the series: "CAP_NET_ADMIN" for example.
      It is "0" for a call on behalf of any caller, and None for a call that the series does not change.
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
        """The fixed beginning of the name, escaped as in the pattern."""
        return self.name.partition("*")[0]

    @property
    def kind(self) -> Kind:
        """How much of `name` is fixed."""
        if "*" not in self.name.replace("[*]", ""):
            return Kind.CONSTANT
        return Kind.PREFIXED if self.prefix else Kind.CONSTRUCTED


@dataclass(frozen=True)
class Grep:
    """Line counts by the commands that Kees Cook used (LKML, 29 November 2017).

    lines: git grep request_module'\\b' | wc -l
    constant: … | grep -v % | grep '"' | wc -l
    formatted: … | grep % | wc -l
    """

    lines: int
    constant: int
    formatted: int


@dataclass(frozen=True)
class Survey:
    """The survey of a tree. `version` is the Makefile's: "7.2.13". `series` is true if capabilities are known."""

    version: str
    grep: Grep
    mentions: tuple[Mention, ...]
    calls: tuple[Call, ...]
    series: bool = False

    @property
    def uncovered(self) -> tuple[Call, ...]:
        """The calls that the series does not change."""
        return tuple(call for call in self.calls if call.capability is None)
