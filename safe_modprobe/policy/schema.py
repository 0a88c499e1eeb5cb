"""TOML files -> Policy. All are read before anything is built; one that is wrong spoils them all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import tomli

from safe_modprobe.capability import NAMES, SYS_MODULE, Capability, named
from safe_modprobe.errors import PolicyError
from safe_modprobe.frozen import NamedTuple
from safe_modprobe.model import (
    BY_MARKER,
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
from safe_modprobe.policy.lines import Path, lines_of

MAX_BYTES = 1 << 20
UID_MAX = 2**32 - 2  # -1 is nobody, chown(2)


class Accounts(Protocol):
    """Names of users and groups -> numbers, None for a name that is not there."""

    def uid(self, name: str) -> int | None:
        """The user's number."""

    def gid(self, name: str) -> int | None:
        """The group's number."""


class _WrongError(Exception):
    """What a value was and what it may be; where it stands is known further out."""


def build(files: Sequence[tuple[str, bytes]], accounts: Accounts) -> Policy:
    """The policy of (path, content) in the order of precedence.

    Raises PolicyError, one sentence `path:line: key: what it was, what it may be`.
    """
    documents = [_Document(path, content) for path, content in files]
    builders = [_Builder(document, accounts) for document in documents]
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


def _merged(every: Sequence[Mapping[str, tuple[Any, Origin]]]) -> Settings:
    """The first file that sets a key wins, as everywhere."""
    chosen: dict[str, tuple[Any, Origin]] = {}
    for settings in every:
        for key, value in settings.items():
            chosen.setdefault(key, value)
    values = {key: value for key, (value, _) in chosen.items()}
    origins = {_SETTINGS_KEYS.get(key, key): origin for key, (_, origin) in chosen.items()}
    return Settings(**values, origins=origins)


class _Document:
    """One file's tables, and the lines that they stand on."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.name = path.rpartition("/")[2]
        if len(content) > MAX_BYTES:
            raise PolicyError(f"{path}: the file has {len(content)} bytes; it may have {MAX_BYTES}")
        try:
            self.text = content.decode()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise PolicyError(
                f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; TOML is UTF-8 throughout"
            ) from None
        self.text = self.text.replace("\r\n", "\n")
        try:
            self.tables: dict[str, Any] = tomli.loads(self.text)
        except tomli.TOMLDecodeError as error:
            raise PolicyError(_toml_error(path, self.text, str(error))) from None
        except (RecursionError, ValueError, OverflowError) as error:
            what = "is nested too deep" if isinstance(error, RecursionError) else "holds an impossible value"
            raise PolicyError(f"{path}: the file {what}; a policy needs two levels, as the manual shows") from None
        self._lines: Mapping[Path, int] | None = None

    def line(self, path: Path) -> int:
        """The line of a key or table; of what it stands in, where it has none of its own."""
        if self._lines is None:
            self._lines = lines_of(self.text)
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def fail(self, path: Path, message: str) -> NoReturn:
        keys = [str(key) for key in path if isinstance(key, str)]
        raise PolicyError(f"{self.path}:{self.line(path)}: {keys[-1]}: {message}")


def _toml_error(path: str, text: str, message: str) -> str:
    """tomli says `what (at line 3, column 5)` or `what (at end of document)`."""
    what, _, place = message.rpartition(" (at ")
    line = place.removeprefix("line ").partition(",")[0]
    number = line if line.isdigit() else str(text.count("\n") + 1)
    return f"{path}:{number}: {what or message}, so this is not TOML"


_Check = Callable[[Any, Accounts], Any]


def _flag(value: Any, accounts: Accounts) -> bool:
    if not isinstance(value, bool):
        raise _WrongError(f"{_shown(value)} is not true or false")
    return value


def _string(value: Any, accounts: Accounts) -> str:
    if not isinstance(value, str):
        raise _WrongError(f"{_shown(value)} is not a string")
    if any(char < " " or char == "\x7f" for char in value):
        raise _WrongError(f"{_shown(value)} holds a control character, which no name or reason needs")
    return value


def _one_of(*words: str) -> _Check:
    def check(value: Any, accounts: Accounts) -> str:
        if not isinstance(value, str) or value not in words:
            raise _WrongError(f"{_shown(value)} is not one of {', '.join(repr(str(word)) for word in words)}")
        return value

    return check


def _list(of: _Check) -> _Check:
    def check(value: Any, accounts: Accounts) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _WrongError(f"{_shown(value)} is not a list; write [{_shown(value)}]")
        if not value:
            raise _WrongError("[] matches nothing; name at least one, or leave the key out to match any")
        return tuple(of(each, accounts) for each in value)

    return check


def _set(of: _Check) -> _Check:
    check = _list(of)
    return lambda value, accounts: frozenset(check(value, accounts))


def _glob(value: Any, accounts: Accounts) -> str:
    text = _string(value, accounts)
    if not text:
        raise _WrongError("'' is not a pattern; '*' matches everything")
    rest = text
    while "[" in rest:
        body = rest.partition("[")[2]
        # As in glob(7), a bracket right after the opening one (or after its !) is a member.
        start = 2 if body.startswith("!") else 1
        end = body.find("]", start)
        if end < 0:
            raise _WrongError(f"{_shown(value)} is not a pattern: a [ has no ]; write [[] for the character itself")
        rest = body[end + 1 :]
    return text


def _cap(value: Any, accounts: Accounts) -> Capability:
    found = named(value) if isinstance(value, str) else None
    if found is None:
        near = value.upper() if isinstance(value, str) else ""
        near = near if near.startswith("CAP_") else f"CAP_{near}"
        hint = f"; did you mean '{near}'?" if near in NAMES else " such as 'CAP_NET_ADMIN', see capabilities(7)"
        raise _WrongError(f"{_shown(value)} is not a capability{hint}")
    return found


_PRIVILEGES = f"true, false, '{BY_MARKER}' or a capability such as 'CAP_NET_ADMIN'"


def _privilege(value: Any, accounts: Accounts) -> Capability | str | None:
    if isinstance(value, bool):
        return SYS_MODULE if value else None
    if not isinstance(value, str):
        raise _WrongError(f"{_shown(value)} is not {_PRIVILEGES}")
    return BY_MARKER if value == BY_MARKER else _cap(value, accounts)


def _account(kind: str, file: str) -> _Check:
    def check(value: Any, accounts: Accounts) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise _WrongError(f"{_shown(value)} is not a {kind}'s name or number")
        if isinstance(value, int):
            if not 0 <= value <= UID_MAX:
                raise _WrongError(f"{value} is not a {kind}'s number, which is from 0 to {UID_MAX}")
            return value
        number = accounts.uid(value) if kind == "user" else accounts.gid(value)
        if number is None:
            raise _WrongError(
                f"{_shown(value)} is not a {kind} in {file}; name services are not asked, so give the number"
            )
        return number

    return check


_PATTERNS = _list(_glob)

_RULE: Mapping[str, _Check] = {
    "name": _string,
    "modules": _PATTERNS,
    "aliases": _PATTERNS,
    "users": _set(_account("user", "/etc/passwd")),
    "groups": _set(_account("group", "/etc/group")),
    "capabilities": _set(_cap),
    "units": _PATTERNS,
    "executables": _PATTERNS,
    "call_sites": _PATTERNS,
    "user_namespace": _one_of("initial", "other"),
    "no_new_privs": _flag,
    "callers": _one_of("known", "unknown"),
    "action": _one_of(*Action),
    "quiet": _flag,
    "reason": _string,
}
_NOT_CONDITIONS = {"name", "action", "quiet", "reason"}
_MARK: Mapping[str, _Check] = {
    "modules": _PATTERNS,
    "aliases": _PATTERNS,
    "privileged": _privilege,
    "quiet": _flag,
    "reason": _string,
}
_CALL_SITE: Mapping[str, _Check] = {
    "aliases": _PATTERNS,
    "capability": _cap,
    "deputy": _flag,
    "reason": _string,
}
_SOURCES = _list(_one_of(*(source for source in Source if source is not Source.NONE)))
_SETTINGS: Mapping[str, _Check] = {
    "mode": _one_of(*Mode),
    "mismatch": _one_of(*Action),
    "unknown_caller": _one_of("unprivileged", "privileged"),
    "sources": _SOURCES,
    "kernel_args": _one_of("optional", "always"),
    "forward_kernel_args": _flag,
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
}
_SETTINGS_KEYS = {setting.field: key for key, setting in _FIELDS.items()}
_TABLES = ("settings", "mark", "call_site", "rule")


class _Builder:
    """One document's rows."""

    def __init__(self, document: _Document, accounts: Accounts) -> None:
        self.document = document
        self.accounts = accounts

    def check_tables(self) -> None:
        for key, value in self.document.tables.items():
            if key not in _TABLES:
                self._fail((key,), f"no such table; a policy has {', '.join(map(repr, _TABLES))}")
            if key == "settings" and not isinstance(value, dict):
                self._fail((key,), f"{_shown(value)} is not a table; write [settings]")
            rows = value if isinstance(value, list) else [None]
            if key != "settings" and not all(isinstance(row, dict) for row in rows):
                self._fail((key,), f"{_shown(value)} is not an array of tables; write [[{key}]]")

    def settings(self) -> dict[str, tuple[Any, Origin]]:
        table = self.document.tables.get("settings", {})
        values = self._checked(("settings",), table, _SETTINGS)
        return {
            _FIELDS[key].field: (_FIELDS[key].convert(value), self._origin(("settings", key)))
            for key, value in values.items()
        }

    def marks(self) -> list[Mark]:
        marks = []
        for path, values in self._rows("mark", _MARK):
            if "modules" not in values and "aliases" not in values:
                self._fail(path, "it names nothing; give 'modules' or 'aliases'")
            if "privileged" not in values:
                self._fail(path, f"'privileged' is missing; it is {_PRIVILEGES}")
            privileged = values.pop("privileged")
            by_marker = privileged == BY_MARKER
            capability = None if by_marker else privileged
            marks.append(Mark(self._origin(path), capability=capability, by_marker=by_marker, **values))
        return marks

    def call_sites(self) -> list[CallSite]:
        sites = []
        for path, values in self._rows("call_site", _CALL_SITE):
            if "aliases" not in values:
                self._fail(path, "'aliases' is missing; it says which requests are meant")
            if ("capability" in values) == bool(values.get("deputy")):
                self._fail(path, "it has both or neither of 'capability' and 'deputy = true'; give one")
            sites.append(CallSite(self._origin(path), **values))
        return sites

    def rules(self, names: dict[str, Origin]) -> list[Rule]:
        rules = []
        for path, values in self._rows("rule", _RULE):
            if "action" not in values:
                self._fail(path, f"'action' is missing; it is one of {', '.join(map(repr, map(str, Action)))}")
            if not values.keys() - _NOT_CONDITIONS:
                self._fail(path, 'it has no condition; aliases = ["*"] would match every request')
            rule = Rule(self._origin(path), **{**values, "action": Action(values["action"])})
            if rule.name:
                if rule.name in names:
                    self._fail((*path, "name"), f"{_shown(rule.name)} is the name of {names[rule.name]} already")
                names[rule.name] = rule.origin
            rules.append(rule)
        return rules

    def _rows(self, table: str, checks: Mapping[str, _Check]) -> list[tuple[Path, dict[str, Any]]]:
        rows = self.document.tables.get(table, [])
        return [((table, i), self._checked((table, i), row, checks)) for i, row in enumerate(rows)]

    def _checked(self, path: Path, row: Mapping[str, Any], checks: Mapping[str, _Check]) -> dict[str, Any]:
        values = {}
        for key, untrusted_value in row.items():
            if key not in checks:
                self._fail((*path, key), f"no such key; {path[0]} has {', '.join(map(repr, checks))}")
            try:
                values[key] = checks[key](untrusted_value, self.accounts)
            except _WrongError as wrong:
                self._fail((*path, key), str(wrong))
        return values

    def _origin(self, path: Path) -> Origin:
        return Origin(self.document.name, self.document.line(path))

    def _fail(self, path: Path, message: str) -> NoReturn:
        self.document.fail(path, message)


def _shown(value: Any) -> str:
    """A value as the file might have it, cut to what a line can hold."""
    text = str(value).lower() if isinstance(value, bool) else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
