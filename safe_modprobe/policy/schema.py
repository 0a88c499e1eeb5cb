"""Parse and check TOML files, and build the policy from all of them. One invalid file invalidates the policy. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import tomli

from safe_modprobe.capability import NAMES, SYS_MODULE, Capability, parse_capability
from safe_modprobe.errors import PolicyError
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import (
    BY_MARKER,
    UID_MAX,
    Action,
    CallSite,
    Mark,
    Mode,
    Origin,
    Policy,
    Rule,
    Settings,
    Source,
)
from safe_modprobe.policy.dropins import MAX_BYTES
from safe_modprobe.policy.lines import Path, lines_of


class Accounts(Protocol):
    """The numbers of users and groups."""

    def uid(self, name: str) -> int | None:
        """Return the user's uid, None for an unknown name."""

    def gid(self, name: str) -> int | None:
        """Return the group's gid, None for an unknown name."""


class PlacedError(PolicyError):
    """A PolicyError with its parts. For a whole file `line` is 0 and `key` is empty."""

    def __init__(self, path: str, line: int, key: str, message: str) -> None:
        super().__init__(": ".join(filter(None, (f"{path}:{line}" if line else path, key, message))))
        self.path, self.line, self.key, self.message = path, line, key, message


class InvalidValueError(Exception):
    """A value is invalid; the text is `what it was, what it may be`. The caller adds path, line and key."""


def build(files: Sequence[tuple[str, bytes]], accounts: Accounts) -> Policy:
    """Return the policy of some files, given as (path, content) in the order of precedence.

    Raises PolicyError with one sentence, `path:line: key: what it was, what it may be`.
    """
    documents = [Document(path, content) for path, content in files]
    builders = [Builder(document, accounts) for document in documents]
    names: dict[str, Origin] = {}
    for builder in builders:
        builder.check_tables()
    rules = tuple(rule for builder in builders for rule in builder.rules(names))
    return Policy(
        settings=_merged([builder.settings() for builder in builders]),
        marks=tuple(mark for builder in builders for mark in builder.marks()),
        call_sites=tuple(site for builder in builders for site in builder.call_sites()),
        rules=rules,
        files=tuple(path for path, _ in files),
    )


def _merged(settings_of_files: Sequence[Mapping[str, tuple[Any, Origin]]]) -> Settings:
    """Merge the files' settings. The first file that sets a key wins."""
    chosen: dict[str, tuple[Any, Origin]] = {}
    for settings in settings_of_files:
        for key, value in settings.items():
            chosen.setdefault(key, value)
    values = {key: value for key, (value, _) in chosen.items()}
    origins = {_SETTINGS_KEYS.get(key, key): origin for key, (_, origin) in chosen.items()}
    return Settings(**values, origins=origins)


class Document:
    """A parsed file: its tables, and the lines of its keys. The constructor raises PlacedError."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.name = path.rpartition("/")[2]
        if len(content) > MAX_BYTES:
            raise PlacedError(path, 0, "", f"the file has {len(content)} bytes; it may have {MAX_BYTES}")
        try:
            self.text = content.decode()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            message = f"byte 0x{content[error.start]:02x} is not UTF-8; TOML is UTF-8 throughout"
            raise PlacedError(path, line, "", message) from None
        self.text = self.text.replace("\r\n", "\n")
        try:
            self.tables: dict[str, Any] = tomli.loads(self.text)
        except tomli.TOMLDecodeError as error:
            raise _toml_error(path, self.text, str(error)) from None
        except (RecursionError, ValueError, OverflowError) as error:
            what = "is nested too deep" if isinstance(error, RecursionError) else "holds an impossible value"
            message = f"the file {what}; a policy needs two levels, as the manual shows"
            raise PlacedError(path, 0, "", message) from None
        self._lines: Mapping[Path, int] | None = None

    def line(self, path: Path) -> int:
        """Return the line of a key or table, or of the innermost table around it that has a line."""
        if self._lines is None:
            self._lines = lines_of(self.text)
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def fail(self, path: Path, message: str) -> NoReturn:
        """Raise PlacedError for this key or table."""
        keys = [str(key) for key in path if isinstance(key, str)]
        raise PlacedError(self.path, self.line(path), keys[-1], message)

    def checked(
        self, path: Path, row: Mapping[str, Any], checks: Mapping[str, "Check"], accounts: Accounts
    ) -> dict[str, Any]:
        """Check each value of a row on its own, and return the model's values. Raises PlacedError."""
        values = {}
        for key, untrusted_value in row.items():
            if key not in checks:
                table = [str(each) for each in path if isinstance(each, str)][-1]
                self.fail((*path, key), f"no such key; {table} has {', '.join(map(repr, checks))}")
            try:
                values[key] = checks[key](untrusted_value, accounts)
            except InvalidValueError as wrong:
                self.fail((*path, key), str(wrong))
        return values


def _toml_error(path: str, text: str, message: str) -> PlacedError:
    """Convert tomli's message, `what (at line 3, column 5)` or `what (at end of document)`."""
    what, _, place = message.rpartition(" (at ")
    line = place.removeprefix("line ").partition(",")[0]
    number = int(line) if line.isdigit() else text.count("\n") + 1
    return PlacedError(path, number, "", f"{what or message}, so this is not TOML")


Check = Callable[[Any, Accounts], Any]
"""A function from a file's value to the model's value. Raises InvalidValueError."""

CHECK_PARTS: dict[Check, Sequence[str] | Check] = {}
"""Check -> the words that it accepts, or the check of each list member; admin/policy/json_schema.py uses it."""


def flag(value: Any, accounts: Accounts) -> bool:
    """Check a boolean."""
    if not isinstance(value, bool):
        raise InvalidValueError(f"{quote_value(value)} is not true or false")
    return value


def string(value: Any, accounts: Accounts) -> str:
    """Check a text of one line."""
    if not isinstance(value, str):
        raise InvalidValueError(f"{quote_value(value)} is not a string")
    if any(char < " " or char == "\x7f" for char in value):
        raise InvalidValueError(f"{quote_value(value)} contains a control character; remove it")
    return value


def one_of(*words: str) -> Check:
    """Return a check for any of these words."""

    def check(value: Any, accounts: Accounts) -> str:
        if not isinstance(value, str) or value not in words:
            raise InvalidValueError(
                f"{quote_value(value)} is not one of {', '.join(repr(str(word)) for word in words)}"
            )
        return value

    CHECK_PARTS[check] = words
    return check


def list_of(of: Check) -> Check:
    """Return a check for a list of one or more values, which become a tuple."""

    def check(value: Any, accounts: Accounts) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise InvalidValueError(f"{quote_value(value)} is not a list; write [{quote_value(value)}]")
        if not value:
            raise InvalidValueError("[] matches nothing; name at least one, or leave the key out to match any")
        return tuple(of(each, accounts) for each in value)

    CHECK_PARTS[check] = of
    return check


def set_of(of: Check) -> Check:
    """Return a check for a list of one or more values, whose order does not matter."""
    members = list_of(of)

    def check(value: Any, accounts: Accounts) -> frozenset[Any]:
        return frozenset(members(value, accounts))

    CHECK_PARTS[check] = of
    return check


def pattern(value: Any, accounts: Accounts) -> str:
    """Check a pattern of glob(7)."""
    text = string(value, accounts)
    if not text:
        raise InvalidValueError("'' is not a pattern; '*' matches everything")
    rest = text
    while "[" in rest:
        body = rest.partition("[")[2]
        # In glob(7), a closing bracket right after [ or [! is a member.
        start = 2 if body.startswith("!") else 1
        end = body.find("]", start)
        if end < 0:
            raise InvalidValueError(
                f"{quote_value(value)} is not a pattern: a [ has no ]; write [[] for the character itself"
            )
        rest = body[end + 1 :]
    return text


def capability(value: Any, accounts: Accounts) -> Capability:
    """Check a name of capabilities(7)."""
    found = parse_capability(value) if isinstance(value, str) else None
    if found is None:
        guess = value.upper() if isinstance(value, str) else ""
        guess = guess if guess.startswith("CAP_") else f"CAP_{guess}"
        hint = f"; did you mean '{guess}'?" if guess in NAMES else " such as 'CAP_NET_ADMIN', see capabilities(7)"
        raise InvalidValueError(f"{quote_value(value)} is not a capability{hint}")
    return found


_PRIVILEGES = f"true, false, '{BY_MARKER}' or a capability such as 'CAP_NET_ADMIN'"


def privilege(value: Any, accounts: Accounts) -> Capability | str | None:
    """Check a mark's `privileged`; return its capability, None for false, or BY_MARKER."""
    if isinstance(value, bool):
        return SYS_MODULE if value else None
    if not isinstance(value, str):
        raise InvalidValueError(f"{quote_value(value)} is not {_PRIVILEGES}")
    return BY_MARKER if value == BY_MARKER else capability(value, accounts)


def _account(kind: str, file: str) -> Check:
    def check(value: Any, accounts: Accounts) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InvalidValueError(f"{quote_value(value)} is not a {kind}'s name or number")
        if isinstance(value, int):
            if not 0 <= value <= UID_MAX:
                raise InvalidValueError(f"{value} is not a {kind}'s number, which is from 0 to {UID_MAX}")
            return value
        number = accounts.uid(value) if kind == "user" else accounts.gid(value)
        if number is None:
            raise InvalidValueError(
                f"{quote_value(value)} is not a {kind} in {file}; name services are not queried, so give the number"
            )
        return number

    return check


_PATTERNS = list_of(pattern)
user = _account("user", "/etc/passwd")
group = _account("group", "/etc/group")

_RULE: Mapping[str, Check] = {
    "name": string,
    "modules": _PATTERNS,
    "aliases": _PATTERNS,
    "users": set_of(user),
    "groups": set_of(group),
    "capabilities": set_of(capability),
    "units": _PATTERNS,
    "executables": _PATTERNS,
    "call_sites": _PATTERNS,
    "user_namespace": one_of("initial", "other"),
    "no_new_privs": flag,
    "callers": one_of("known", "unknown"),
    "action": one_of(*Action),
    "quiet": flag,
    "reason": string,
}
NOT_CONDITIONS = {"name", "action", "quiet", "reason"}
_MARK: Mapping[str, Check] = {
    "modules": _PATTERNS,
    "aliases": _PATTERNS,
    "privileged": privilege,
    "quiet": flag,
    "reason": string,
}
_CALL_SITE: Mapping[str, Check] = {
    "aliases": _PATTERNS,
    "capability": capability,
    "deputy": flag,
    "reason": string,
}
_SOURCES = list_of(one_of(*(source for source in Source if source is not Source.NONE)))
_SETTINGS: Mapping[str, Check] = {
    "mode": one_of(*Mode),
    "mismatch": one_of(*Action),
    "unknown_caller": one_of("unprivileged", "privileged"),
    "sources": _SOURCES,
    "kernel_args": one_of("optional", "always"),
    "forward_kernel_args": flag,
    "trial": flag,
}


class _Setting(NamedTuple):
    """A setting's field in model.Settings, and its value there."""

    field: str
    convert: Callable[[Any], Any]


_FIELDS = {
    "mode": _Setting("mode", Mode),
    "mismatch": _Setting("mismatch", Action),
    "unknown_caller": _Setting("unknown_caller_privileged", lambda word: word == "privileged"),
    "sources": _Setting("sources", lambda words: tuple(map(Source, dict.fromkeys(words)))),
    "kernel_args": _Setting("kernel_args_always", lambda word: word == "always"),
    "forward_kernel_args": _Setting("forward_kernel_args", bool),
    "trial": _Setting("trial", bool),
}
_SETTINGS_KEYS = {setting.field: key for key, setting in _FIELDS.items()}
KEYS = {"settings": _SETTINGS, "mark": _MARK, "call_site": _CALL_SITE, "rule": _RULE}
"""Table -> key -> the check of its values."""


class Builder:
    """Build the model's rows from one document. The methods raise PlacedError."""

    def __init__(self, document: Document, accounts: Accounts) -> None:
        self.document = document
        self.accounts = accounts

    def check_tables(self) -> None:
        """Check that the document has only known tables, each of the right type."""
        for key, value in self.document.tables.items():
            self.check_table(key, value)

    def check_table(self, key: str, value: Any) -> None:
        """Check that a table is `settings`, or a known array of tables."""
        if key not in KEYS:
            self._fail((key,), f"no such table; a policy has {', '.join(map(repr, KEYS))}")
        if key == "settings" and not isinstance(value, dict):
            self._fail((key,), f"{quote_value(value)} is not a table; write [settings]")
        rows = value if isinstance(value, list) else [None]
        if key != "settings" and not all(isinstance(row, dict) for row in rows):
            self._fail((key,), f"{quote_value(value)} is not an array of tables; write [[{key}]]")

    def settings(self) -> dict[str, tuple[Any, Origin]]:
        """Return {field of model.Settings: (value, origin)}."""
        table = self.document.tables.get("settings", {})
        values = self.checked(("settings",), table)
        return {
            _FIELDS[key].field: (_FIELDS[key].convert(value), self._origin(("settings", key)))
            for key, value in values.items()
        }

    def marks(self) -> list[Mark]:
        """Return every [[mark]], in the order of the file."""
        return [self.mark(path, values) for path, values in self._rows("mark")]

    def mark(self, path: Path, values: dict[str, Any]) -> Mark:
        """Return the mark with these checked values."""
        if "modules" not in values and "aliases" not in values:
            self._fail(path, "it names nothing; give 'modules' or 'aliases'")
        if "privileged" not in values:
            self._fail(path, f"'privileged' is missing; it is {_PRIVILEGES}")
        privileged = values.pop("privileged")
        by_marker = privileged == BY_MARKER
        need = None if by_marker else privileged
        return Mark(self._origin(path), capability=need, by_marker=by_marker, **values)

    def call_sites(self) -> list[CallSite]:
        """Return every [[call_site]], in the order of the file."""
        return [self.call_site(path, values) for path, values in self._rows("call_site")]

    def call_site(self, path: Path, values: dict[str, Any]) -> CallSite:
        """Return the call site with these checked values."""
        if "aliases" not in values:
            self._fail(path, "'aliases' is missing; it names the requests")
        if ("capability" in values) == bool(values.get("deputy")):
            self._fail(path, "it has both or neither of 'capability' and 'deputy = true'; give one")
        return CallSite(self._origin(path), **values)

    def rules(self, names: dict[str, Origin]) -> list[Rule]:
        """Return every [[rule]], in the order of the file, and add their names to `names`."""
        return [self.rule(path, values, names) for path, values in self._rows("rule")]

    def rule(self, path: Path, values: dict[str, Any], names: dict[str, Origin]) -> Rule:
        """Return the rule with these checked values, and add its name to `names`."""
        if "action" not in values:
            self._fail(path, f"'action' is missing; it is one of {', '.join(map(repr, map(str, Action)))}")
        if not values.keys() - NOT_CONDITIONS:
            self._fail(path, 'it has no condition; aliases = ["*"] would match every request')
        rule = Rule(self._origin(path), **{**values, "action": Action(values["action"])})
        if rule.name:
            if rule.name in names:
                self._fail(
                    (*path, "name"), f"{quote_value(rule.name)} is already the name of the rule at {names[rule.name]}"
                )
            names[rule.name] = rule.origin
        return rule

    def _rows(self, table: str) -> list[tuple[Path, dict[str, Any]]]:
        rows = self.document.tables.get(table, [])
        return [((table, i), self.checked((table, i), row)) for i, row in enumerate(rows)]

    def checked(self, path: Path, row: Mapping[str, Any]) -> dict[str, Any]:
        """Check each value of a row on its own, and return the model's values."""
        return self.document.checked(path, row, KEYS[str(path[0])], self.accounts)

    def _origin(self, path: Path) -> Origin:
        return Origin(self.document.name, self.document.line(path))

    def _fail(self, path: Path, message: str) -> NoReturn:
        self.document.fail(path, message)


def quote_value(value: Any) -> str:
    """Return a value as it might stand in the file, cut to 60 characters."""
    text = str(value).lower() if isinstance(value, bool) else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
