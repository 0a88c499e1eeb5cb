"""Find the line of every table and key of a TOML text, which tomli does not report. Pure.

The text must have been parsed by tomli, so this scanner raises no errors.
"""

import re
from collections.abc import Mapping

Path = tuple[str | int, ...]

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|'
    r"'''.*?'{3,5}|"
    r'"(?:\\.|[^"\\])*"|'
    r"'[^']*'|#[^\n]*|[\[\]{}=,.\n]|[^\s\[\]{}=,.\"'#]+",
    re.DOTALL,
)
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


def lines_of(text: str) -> Mapping[Path, int]:
    """Return the line of each path, from 1: {("rule", 0): 3, ("rule", 0, "action"): 5, …}."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.found: dict[Path, int] = {}
        self.tables: dict[Path, int] = {}
        self.tokens: list[tuple[str, int]] = []

    def scan(self) -> Mapping[Path, int]:
        line, end = 1, 0
        for match in _TOKEN.finditer(self.text):
            line += self.text.count("\n", end, match.start())
            end = match.start()
            if not match[0].startswith("#"):
                self.tokens.append((match[0], line))
        self.tokens.reverse()  # pop() then returns the first one
        prefix: Path = ()
        while self.tokens:
            token, line = self.tokens.pop()
            if token == "[":
                prefix = self._header(line)
            elif token != "\n":
                self._pair(prefix, token, line)
        return self.found

    def _header(self, line: int) -> Path:
        """Read the rest of `[a.b]` or `[[a.b]]`; return the path that prefixes the keys below it."""
        array = self.tokens[-1][0] == "["
        keys = self._keys(self.tokens.pop()[0] if not array else self._after_bracket(), "]")
        if array:
            self.tokens.pop()
        path: Path = ()
        for key in keys[:-1]:
            path = (*path, key)
            if path in self.tables:
                path = (*path, self.tables[path] - 1)
        path = (*path, keys[-1])
        self.found.setdefault(path, line)
        if array:
            self.tables[path] = self.tables.get(path, 0) + 1
            path = (*path, self.tables[path] - 1)
            self.found[path] = line
        return path

    def _after_bracket(self) -> str:
        self.tokens.pop()
        return self.tokens.pop()[0]

    def _keys(self, first: str, end: str) -> list[str]:
        """Return the parts of a dotted key. Consume the `end` token."""
        keys = [_unquoted(first)]
        while (token := self.tokens.pop()[0]) != end:
            if token != ".":
                keys.append(_unquoted(token))
        return keys

    def _pair(self, prefix: Path, first: str, line: int) -> None:
        path = prefix
        for key in self._keys(first, "="):
            path = (*path, key)
            self.found.setdefault(path, line)
        self._value(path)

    def _value(self, path: Path) -> None:
        """Read one value: a scalar, an array or an inline table with its contents."""
        token, line = self.tokens.pop()
        self.found.setdefault(path, line)
        if token == "[":
            self._array(path)
        elif token == "{":
            while (inner := self.tokens.pop())[0] != "}":
                if inner[0] not in (",", "\n"):
                    self._pair(path, *inner)
        else:
            # 1.5 and 1979-05-27 07:32:00 are several tokens. One of these four tokens ends a value.
            while self.tokens and self.tokens[-1][0] not in (",", "]", "}", "\n"):
                self.tokens.pop()

    def _array(self, path: Path) -> None:
        index = 0
        while True:
            token, _ = self.tokens[-1]
            if token == "]":
                self.tokens.pop()
                return
            if token in (",", "\n"):
                self.tokens.pop()
                continue
            self._value((*path, index))
            index += 1


def _unquoted(key: str) -> str:
    """Return a key without its quotes and single-letter escapes. No key of a policy needs other escapes."""
    if key[0] == "'":
        return key[1:-1]
    if key[0] != '"':
        return key
    return re.sub(r'\\(["\\btnfr])', lambda match: _ESCAPES[match[1]], key[1:-1])
