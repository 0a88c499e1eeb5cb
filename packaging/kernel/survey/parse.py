"""Find every mention of request_module in a C file with tree-sitter, and the arguments of the calls among them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tree_sitter_c
from tree_sitter import Language, Node, Parser

from survey.model import Mention, Use

# Without \b the regex would try each letter of a long word.
WORD = re.compile(rb"\b\w*request_module\w*")

FORMATS = {
    "request_module": 0,
    "request_module_nowait": 0,
    "__request_module": 1,
    "try_then_request_module": 1,
    "nft_request_module": 1,
    "request_module_cap": 2,
    "request_module_nowait_cap": 2,
    "request_module_for": 3,
    "try_then_request_module_cap": 3,
}
"""Function -> index of its format argument, from 0. nft_request_module() queues a name that
nf_tables_module_autoload() requests later (net/netfilter/nf_tables_api.c), so its calls have the names."""
DECLARING = frozenset(name for name in FORMATS if name.endswith(("_cap", "_for")))
"""The functions of the series. Their capability and prefix precede the format."""

_ATTRIBUTE = re.compile(rb"\b__(?:printf|scanf|cold|noreturn)\b(?:\(\d+, ?\d+\))?")
_PARSER = Parser(Language(tree_sitter_c.language()))


@dataclass(frozen=True)
class Name:
    """The name of a macro in the place of a string or a number."""

    text: str


Piece = str | int | Name | None
"""A part of an argument: a string's text, a decimal number, a macro that may be either, or anything else."""
Argument = tuple[Piece, ...]


@dataclass(frozen=True)
class RawCall:
    """A call as the sources write it. `arguments` begin with the format; `before` has the text of those before it."""

    file: str
    line: int
    function: str
    api: str
    format: str
    arguments: tuple[Argument, ...]
    before: tuple[str, ...]


def parse(file: str, data: bytes) -> tuple[list[Mention], list[RawCall]]:
    """Return all mentions in a file in their order, and the calls among them. In other languages all are text."""
    if not file.endswith((".c", ".h")):
        return [Mention(file, _line(data, at), word, Use.TEXT) for at, word in _words(data)], []
    # The parser does not expand macros, and would take a function's attribute for its return type.
    tree = _PARSER.parse(_ATTRIBUTE.sub(lambda found: b" " * len(found[0]), data))
    mentions, calls = [], []
    for at, word in _words(data):
        node = tree.root_node.descendant_for_byte_range(at, at + len(word))
        use, call = _use(file, word, node, at)
        mentions.append(Mention(file, _line(data, at), word, use))
        if call is not None:
            calls.append(call)
    return mentions, calls


def _words(data: bytes) -> Iterator[tuple[int, str]]:
    for found in WORD.finditer(data):
        yield found.start(), found[0].decode()


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


_BY_PARENT = {
    "function_declarator": Use.DECLARATION,
    "preproc_function_def": Use.MACRO,
    "preproc_def": Use.MACRO,
    "argument_list": Use.REFERENCE,
    "initializer_pair": Use.REFERENCE,
    "initializer_list": Use.REFERENCE,
    "assignment_expression": Use.REFERENCE,
    "pointer_expression": Use.REFERENCE,
    "init_declarator": Use.VARIABLE,
    "declaration": Use.VARIABLE,
    "parameter_declaration": Use.VARIABLE,
    "field_expression": Use.VARIABLE,
    "array_declarator": Use.VARIABLE,
    "pointer_declarator": Use.VARIABLE,
}
_BY_TYPE = {
    "comment": Use.COMMENT,
    "string_content": Use.STRING,
    "string_literal": Use.STRING,
    "field_identifier": Use.VARIABLE,
}
_NO_CALLS = (Use.DECLARATION, Use.VARIABLE, Use.REFERENCE)


def _use(file: str, word: str, node: Node | None, at: int) -> tuple[Use, RawCall | None]:
    if node is None or node.parent is None:
        return Use.UNKNOWN, None
    if node.type in _BY_TYPE:
        return _BY_TYPE[node.type], None
    if node.type == "preproc_arg":
        return _in_macro(file, word, node, at)
    if node.type != "identifier":
        return Use.UNKNOWN, None
    if node.parent.type == "call_expression" and node.parent.child_by_field_name("function") == node:
        if word not in FORMATS:
            return Use.FUNCTION, None
        return Use.CALL, _call(file, node.start_point.row + 1, _function(node), word, node.parent)
    if node.parent.type == "function_declarator" and _defines(node.parent):
        return Use.DEFINITION, None
    use = _BY_PARENT.get(node.parent.type, Use.UNKNOWN)
    return Use.UNKNOWN if word in FORMATS and use in _NO_CALLS and _may_be_call(node) else use, None


def _may_be_call(node: Node) -> bool:
    """Return whether it is in a function's body with ( behind it. Then it may be a call that the parser misread."""
    body: Node | None = node
    while body is not None and body.type not in ("compound_statement", "ERROR"):
        body = body.parent
    if body is None:
        return False
    rest = (body.text or b"")[node.end_byte - body.start_byte :]
    return rest.lstrip().startswith(b"(")


def _in_macro(file: str, word: str, node: Node, at: int) -> tuple[Use, RawCall | None]:
    """Classify a mention in a macro's body, parsed as a statement. A call with a literal format counts as a call.

    A macro that passes its argument on hides calls, unless the macro is one of FORMATS. So it is not understood.
    """
    text = (node.text or b"").replace(b"\\\n", b" \n")
    before = b"void f(void) { "
    inside = _PARSER.parse(before + text + b"; }").root_node
    start = at - node.start_byte + len(before)
    found = inside.descendant_for_byte_range(start, start + len(word))
    if found is None or node.parent is None:
        return Use.UNKNOWN, None
    if found.type in _BY_TYPE:
        return _BY_TYPE[found.type], None
    name = node.parent.child_by_field_name("name")
    macro = "" if name is None else _text(name)
    if word in FORMATS and found.parent is not None and found.parent.type == "call_expression":
        line = node.start_point.row + found.start_point.row + 1
        call = _call(file, line, macro, word, found.parent)
        if call.arguments and any(isinstance(piece, str) for piece in call.arguments[0]):
            return Use.CALL, call
    return Use.UNKNOWN if word in FORMATS and macro not in FORMATS else Use.MACRO, None


def _defines(declarator: Node) -> bool:
    node: Node | None = declarator
    while node is not None and node.type.endswith("declarator"):
        node = node.parent
    return node is not None and node.type == "function_definition"


def _function(node: Node) -> str:
    """Return the name of the enclosing function, or "" if the parser finds none."""
    inner, around = node, node.parent
    while around is not None:
        if around.type == "function_definition":
            found = _named(around)
        elif around.type == "ERROR":  # An #ifdef opened a brace twice: the head precedes it as a sibling.
            before = [each for each in around.named_children if each.end_byte <= inner.start_byte]
            found = next(filter(None, map(_named, reversed(before))), "")
        else:
            found = ""
        if found:
            return found
        inner, around = around, around.parent
    return ""


def _named(head: Node) -> str:
    """Return the name that a function's head declares, or "": scoped_guard(…) { } looks like a head, and is none."""
    node: Node | None = head
    while node is not None and node.type != "function_declarator":
        node = node.child_by_field_name("declarator")
    name = node and node.child_by_field_name("declarator")
    return _text(name) if name is not None and name.type == "identifier" else ""


def _call(file: str, line: int, function: str, api: str, node: Node) -> RawCall:
    given = node.child_by_field_name("arguments")
    arguments = [] if given is None else list(_split(given.children[1:-1]))
    index = FORMATS[api]
    written = " ".join(_text(each) for each in arguments[index]) if len(arguments) > index else ""
    pieces = tuple(tuple(_pieces(each)) for each in arguments[index:])
    if given is not None and b"\n#" in (given.text or b""):  # Only the preprocessor knows which arguments are used.
        pieces = ((*pieces[0][:1], None),)
    return RawCall(
        file, line, function, api, written, pieces,
        tuple(" ".join(map(_text, each)) for each in arguments[:index]),
    )  # fmt: skip


def _split(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Yield the nodes of each argument. Most have one node, but a macro beside a string makes two."""
    argument: list[Node] = []
    for node in nodes:
        if node.type == ",":
            yield argument
            argument = []
        elif node.type != "comment":
            argument.append(node)
    yield argument


def _pieces(nodes: Sequence[Node]) -> Iterator[Piece]:
    for node in nodes:
        if node.type == "string_literal":
            yield _text(node)[1:-1]
        elif node.type == "number_literal" and re.fullmatch("0|[1-9][0-9]*", _text(node)):
            yield int(_text(node))
        elif node.type == "identifier":
            yield Name(_text(node))
        elif node.type in ("concatenated_string", "ERROR", "parenthesized_expression"):
            yield from _pieces([each for each in node.named_children if each.type != "comment"])
        elif node.type == "call_expression" and (head := node.child_by_field_name("function")):
            # The parser takes "a-" __stringify(X) for a call of a function whose name begins with "a-".
            yield from _pieces(head.named_children[:-1] if head.type == "concatenated_string" else [])
            yield None
        else:
            yield None


def _text(node: Node) -> str:
    """Return the node's source on one line."""
    return " ".join((node.text or b"").decode(errors="backslashreplace").split())
