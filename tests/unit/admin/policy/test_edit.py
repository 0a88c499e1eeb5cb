"""A drop-in's text before and after an edit: one row more or one name less, and no other change."""

from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from safe_modprobe.admin.policy.edit import line_of, row_at, with_row, without_module
from safe_modprobe.errors import PolicyError

ROW = {"modules": ("n",), "action": "allow", "reason": 'a "quote", \\ and é'}
NEW = '[[rule]]\nmodules = ["n"]\naction = "allow"\nreason = "a \\"quote\\", \\\\ and é"\n'
INLINE = '{modules = ["n"], action = "allow", reason = "a \\"quote\\", \\\\ and é"}'
A = '[[rule]]\nmodules = ["a"]\naction = "deny"\n'
B = '[[rule]]  # b\nmodules = ["b", "c-d"]\naction = "deny"\n'
MARK = '[[mark]]\nmodules = ["m"]\nprivileged = true\n'


@pytest.mark.parametrize(
    ("before", "at", "after"),
    [
        ("", 0, NEW),
        ("# only a comment", 0, f"# only a comment\n\n{NEW}"),
        ("# one\n\n", 0, f"# one\n\n{NEW}"),
        (A, 1, f"{A}\n{NEW}"),
        (A, 0, f"{NEW}\n{A}"),
        (A.removesuffix("\n"), 1, f"{A}\n{NEW}"),
        (f"# top\n\n# of a\n# and more\n{A}# end\n", 0, f"# top\n\n{NEW}\n# of a\n# and more\n{A}# end\n"),
        (f"{A}\n# of the mark\n{MARK}\n# of b\n{B}", 1, f"{A}\n# of the mark\n{MARK}\n{NEW}\n# of b\n{B}"),
        (f"{A}\n{MARK}{B}# end", 2, f"{A}\n{MARK}{B}# end\n\n{NEW}"),
        (f"[settings]\nmode = 'marked' # x\n{MARK}", 0, f"[settings]\nmode = 'marked' # x\n{MARK}\n{NEW}"),
        (A.replace("\n", "\r\n"), 0, f"{NEW}\n{A}".replace("\n", "\r\n")),
        (
            "rule = [{ modules = ['a'], action = 'deny' }] # x\n",
            0,
            f"rule = [{INLINE},{{ modules = ['a'], action = 'deny' }}] # x\n",
        ),
        (
            "rule = [{ modules = ['a'], action = 'deny' }] # x\n",
            1,
            f"rule = [{{ modules = ['a'], action = 'deny' }}, {INLINE}] # x\n",
        ),
        (
            "# top\nrule = [\n  { modules = ['a'], action = 'deny' }, # a\n]\n# x\n[settings]\n",
            1,
            f"# top\nrule = [\n  {{ modules = ['a'], action = 'deny' }}, # a\n  {INLINE},\n]\n# x\n[settings]\n",
        ),
        ("rule = []\n", 0, f"rule = [{INLINE}]\n"),
    ],
)
def test_with_row(before: str, at: int, after: str) -> None:
    assert with_row(before, "rule", ROW, at) == after


@pytest.mark.parametrize(
    ("before", "table", "index", "module", "after"),
    [
        (A, "rule", 0, "a", ""),
        (f"{A}\n{B}", "rule", 0, "a", B),
        (f"{A}\n{B}", "rule", 1, "b", f'{A}\n[[rule]]  # b\nmodules = ["c-d"]\naction = "deny"\n'),
        (f"{A}\n{B}", "rule", 1, "c_d", f'{A}\n[[rule]]  # b\nmodules = ["b"]\naction = "deny"\n'),
        (f"# top\n{A}# in between\n\n# of b\n{B}# end\n", "rule", 0, "a", f"# top\n# in between\n\n# of b\n{B}# end\n"),
        (f"{A}\n# of the mark\n{MARK}\n# of b\n{B}", "mark", 0, "m", f"{A}\n# of the mark\n# of b\n{B}"),
        (f"{MARK}\n{A}\n{MARK}\n\n", "mark", 1, "m", f"{MARK}\n{A}"),
        (
            'mark = [{ modules = ["m", "o"], privileged = true }]',
            "mark",
            0,
            "m",
            'mark = [{ modules = ["o"], privileged = true }]\n',
        ),
        ('mark = [{ modules = ["m"], privileged = true }]', "mark", 0, "m", ""),
        (
            'mark = [\n  { modules = ["m"], privileged = true }, # m\n  { modules = ["o"], privileged = true }, # o\n]\n',
            "mark",
            0,
            "m",
            'mark = [\n  { modules = ["o"], privileged = true }, # o\n]\n',
        ),
        (
            '[[mark]]\nmodules = [\n    "m", # m\n    "o", # o\n]\nprivileged = true\n',
            "mark",
            0,
            "m",
            '[[mark]]\nmodules = [\n    "o", # o\n]\nprivileged = true\n',
        ),
    ],
)
def test_without_module(before: str, table: str, index: int, module: str, after: str) -> None:
    assert without_module(before, table, index, module) == after


def test_a_text_that_cannot_be_edited_safely_is_an_error() -> None:
    # tomlkit 0.11.7 loses the comma after "n".
    text = '[[mark]]\nmodules = [\n # x\n "m", "n",\n # y\n "o",\n]\nprivileged = true\n'
    with pytest.raises(
        PolicyError, match=r"^the file is written in a way that cannot be edited safely; edit it by hand$"
    ):
        without_module(text, "mark", 0, "m")


@pytest.mark.parametrize(
    ("text", "table", "line", "row"),
    [
        (f"{A}\n{MARK}\n{B}", "rule", 9, 1),
        (f"{A}\n{MARK}\n{B}", "rule", 5, None),
        (f"{A}\n{MARK}\n{B}", "mark", 5, 0),
        ("rule = [{ modules = ['a'], action = 'deny' }, { modules = ['b'], action = 'deny' }]", "rule", 1, 0),
        ("", "rule", 1, None),
    ],
)
def test_row_at(text: str, table: str, line: int, row: int | None) -> None:
    assert row_at(text, table, line) == row
    assert row is None or line_of(text, table, row) == line


_LINES = st.sampled_from(
    [
        A,
        B,
        MARK,
        "[settings]\nmode = 'marked'\n",
        "# a comment\n",
        "\n",
        "  # indented\n",
        MARK.replace("\n", "  # x\n"),
    ]
)
_TEXTS = st.lists(_LINES, max_size=9).map("".join).filter(lambda text: text.count("[settings]") < 2)


@given(_TEXTS, st.data())
def test_no_line_is_lost_or_moved(text: str, data: st.DataObject) -> None:
    rows: list[dict[str, Any]] = tomli.loads(text).get("rule", [])
    at = data.draw(st.integers(0, len(rows)))
    after = with_row(text, "rule", ROW, at)
    left = iter(after.splitlines())
    assert all(line in left for line in text.splitlines())
    assert [row["modules"] for row in tomli.loads(after)["rule"]] == [
        *(row["modules"] for row in rows[:at]), ["n"], *(row["modules"] for row in rows[at:]),
    ]  # fmt: skip
    assert without_module(after, "rule", at, "n").split() == text.split()
