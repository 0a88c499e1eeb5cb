"""Derive the names that a call requests: resolve string macros, and turn the rest of the format into a pattern."""

import re
from collections.abc import Iterable, Iterator, Mapping

from survey.parse import Argument, Name, Piece, RawCall

MAX_DEPTH = 5
"""Limit for macros that name macros. MDIO_MODULE_PREFIX and similar ones nest one level."""

Macros = Mapping[str, Argument]

_CONVERSION = re.compile(r"%[-+ #0]*(\*|\d+)?(?:\.(\*|\d*))?(?:hh|h|ll|l|z|j|t|L)?(p[A-Za-z]*|[diouxXcs%])")
_DEFINE = r"^[ \t]*#[ \t]*define[ \t]+(%s)[ \t]+((?:[^\n\\]|\\\n|\\[^\n])*)"
_TOKEN = re.compile(
    r'"((?:[^"\\]|\\.)*)"|([A-Za-z_]\w*)|(0\b|[1-9]\d*\b)|(/\*.*?\*/|//.*|\\\n|\s+|[()])|(.)', re.DOTALL
)
_UNKNOWN = "\0"
"""Placeholder for an unknown part. C sources write NUL as an escape, so no literal contains this byte."""


def wanted(calls: Iterable[RawCall]) -> set[str]:
    """Return the macros that the arguments name. The kernel writes macros in capitals."""
    return {
        piece.text
        for call in calls
        for argument in call.arguments
        for piece in argument
        if isinstance(piece, Name) and piece.text.isupper()
    }


def definitions(data: bytes, names: Iterable[str]) -> Iterator[tuple[str, Argument]]:
    """Yield (macro, value) for each definition of these macros in a file. A part that is no text or number is None."""
    names = [name for name in names if name.encode() in data]  # The regex is slow, and most files define none of them.
    if not names:
        return
    pattern = (_DEFINE % "|".join(sorted(names))).encode()
    for found in re.finditer(pattern, data, re.MULTILINE):
        yield found[1].decode(), tuple(_value(found[2].decode(errors="backslashreplace")))


def _value(text: str) -> Iterator[Piece]:
    for string, name, number, space, other in _TOKEN.findall(text):
        if name:
            yield Name(name)
        elif number:
            yield int(number)
        elif other:
            yield None
        elif not space:
            yield string


def inside(values: Iterable[Iterable[Argument]]) -> set[str]:
    """Return the macros that these values name."""
    return {piece.text for some in values for value in some for piece in value if isinstance(piece, Name)}


def name_of(call: RawCall, macros: Macros) -> str:
    """Return a pattern of glob(7) that matches all names that the call requests."""
    if not call.arguments:
        return "*"
    text = _resolved(call.arguments[0], macros)
    values = call.arguments[1:]
    parts, at, value = [], 0, 0
    for found in _CONVERSION.finditer(text):
        parts.append(_literal(text[at : found.start()]))
        at = found.end()
        value += (found[1] == "*") + (found[2] == "*")
        if found[3] == "%":
            parts.append("%")
            continue
        parts.append(_converted(found[0], values[value], macros) if value < len(values) else "*")
        value += 1
    return re.sub(r"(?<!\[)\*{2,}", "*", "".join([*parts, _literal(text[at:])]))


def _converted(conversion: str, argument: Argument, macros: Macros) -> str:
    """Return a conversion's part of the pattern: the string or decimal number that the sources give, or else `*`."""
    if conversion == "%s":
        text = _resolved(argument, macros)
        return "*" if _UNKNOWN in text else _literal(text)
    number = _number(argument, macros) if conversion in ("%d", "%i", "%u") else None
    return "*" if number is None else str(number)


def _number(argument: Argument, macros: Macros) -> int | None:
    for _ in range(MAX_DEPTH):
        if len(argument) != 1 or not isinstance(argument[0], Name):
            break
        argument = macros.get(argument[0].text, ())
    only = argument[0] if len(argument) == 1 else None
    return only if isinstance(only, int) else None


def _resolved(argument: Argument, macros: Macros, depth: int = 0) -> str:
    """Return an argument's text, with _UNKNOWN for each part that is not a string."""
    if not argument:
        return _UNKNOWN
    parts = []
    for piece in argument:
        if isinstance(piece, Name) and depth < MAX_DEPTH:
            parts.append(_resolved(macros.get(piece.text, ()), macros, depth + 1))
        else:
            parts.append(piece if isinstance(piece, str) else _UNKNOWN)
    return "".join(parts)


def _literal(text: str) -> str:
    """Escape text for a pattern."""
    return re.sub(r"[*?[]", r"[\g<0>]", text).replace(_UNKNOWN, "*")
