"""The guard of our language: no retired name comes back, and no sentence of a comment or docstring is over 30 words.

It does not replace reading. CONTRIBUTING.md says how names and text are written.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
MOST_WORDS = 30

RETIRED = frozenset(
    """
    among asked_by_kernel askable askers become_modprobe behalf by_trace carry_out columns_wide depends_on_more drafted
    everyone everything_is_in Fit fitting give_back halves heard is_so kept_back left_out LINGERS make_run need_parser
    nobody_waits not_in_words OF_A_BLOCK often on_the_way Onlooker policy_of put_aside read_anew read_way refuse_anothers
    refuse_what_is_in_the_way refuse_what_is_no_file Seen seen_through Sheet silence_is_roots sorted_out stranger
    take_over takes_for_a_file told TO_LOOK TooMuchError unattended what_is_refused who_asks whom Whom whose Wish wishes
    worth_a_record WrongError
    """.split()
)
"""Names that a reader had to decode. Each has a field's usual term in its place now."""

SCRIPTS = ("Makefile", "tests/setup", ".ci/run", "packaging/watch", "packaging/own-kernel")


def tracked() -> list[Path]:
    """The files of the tree that have comments of ours. A test on a tree without git looks at the folder."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True)
    names = done.stdout.split("\0") if done.returncode == 0 else [str(path.relative_to(TOP)) for path in TOP.rglob("*")]
    ours = [name for name in names if name.endswith((".py", ".pyx", ".pyi", ".pxd", ".in")) or name in SCRIPTS]
    return [TOP / name for name in ours if (TOP / name).is_file() and not name.startswith((".cache/", "build/"))]


SOURCES = tracked()
PYTHON = [path for path in SOURCES if path.suffix == ".py"]


def named(path: Path) -> str:
    return str(path.relative_to(TOP))


def comments(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every block of comment lines, and of every comment behind code."""
    block: list[str] = []
    start = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        found = re.fullmatch(r"\s*#(?!!)\s?(.*)", line)
        if found:
            start = start or number
            block.append(found[1])
        elif block:
            yield start, "\n".join(block)
            block, start = [], 0


def trailing_comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
            yield token.start[0], token.string.lstrip("# ")


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every string that stands as a statement: docstrings, and those below an attribute."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def sentences(text: str) -> Iterator[str]:
    """Sentences of prose: a blank line, a list item, an indented block and a full stop each end one."""
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*] |\d+\. ))|\n(?= {4,}\S)", text.strip())
    for paragraph in paragraphs:
        prose = re.sub(r"`[^`]*`", "code", " ".join(paragraph.split())).removeprefix("- ")
        prose = re.sub(r"\b(?:e\.g|i\.e|cf|etc|vs|No)\.", "that", prose)
        yield from (each for each in re.split(r"(?<=[.?!])[)\"']?\s+", prose) if each)


def too_long(found: Iterator[tuple[int, str]]) -> list[str]:
    return [
        f"line {line}: {len(sentence.split())} words: {sentence[:60]}…"
        for line, text in found
        for sentence in sentences(text)
        if len(sentence.split()) > MOST_WORDS
    ]


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_sentence_is_too_long(path: Path) -> None:
    text = path.read_text()
    found = too_long(comments(text))
    if path.suffix == ".py":
        found += too_long(docstrings(text)) + too_long(trailing_comments(text))
    assert found == []


def names_in(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d]\w*", text))


@pytest.mark.parametrize("path", [path for path in SOURCES if path != Path(__file__).resolve()], ids=named)
def test_no_retired_name_comes_back(path: Path) -> None:
    """Identifiers and file names; a word of a sentence may be one that is retired as a name."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline) if path.suffix == ".py" else ()
    used = {token.string for token in tokens if token.type == tokenize.NAME} | names_in(path.stem)
    assert {name for name in used if name in RETIRED or name.lstrip("_") in RETIRED} == set()


LONG = " ".join(["word"] * (MOST_WORDS + 1))


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        (f"# {LONG}", 1),
        (f"# {LONG[:60]}\n# {LONG}", 1),
        (f'"""{LONG}"""', 1),
        (f"x = 1\n'''{LONG}'''", 1),
        (f"x = 1  # {LONG}", 1),
        (f"# {LONG[5:]}.\n# {LONG[5:]}.", 0),
        (f"# `{LONG}`", 0),
        (f"# {LONG[5:]}\n#\n# - {LONG[5:]}\n# - {LONG[5:]}", 0),
        ("x = 'a string is no comment " + LONG + "'", 0),
    ],
)
def test_the_guard_can_fail(text: str, bad: int) -> None:
    found = [*too_long(comments(text)), *too_long(docstrings(text)), *too_long(trailing_comments(text))]
    assert len(found) == bad, found


def test_the_guard_reads_something() -> None:
    assert len(SOURCES) > 200 and len(PYTHON) > 200
    assert all((TOP / name).resolve() in {path.resolve() for path in SOURCES} for name in SCRIPTS)
