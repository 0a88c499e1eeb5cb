"""Every error of every file at once, each the sentence that the helper would log."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_modprobe.admin.policy.findings import Finding, ParsedPolicy, Severity, parse_and_check
from safe_modprobe.errors import PolicyError
from safe_modprobe.policy.schema import build
from tests.unit.make import NoAccounts
from tests.unit.policy.test_schema import BYTES, ERRORS


def sentences(*texts: str) -> list[str]:
    found = parse_and_check([(f"{index}.toml", text.encode()) for index, text in enumerate(texts)], NoAccounts())
    assert not isinstance(found, ParsedPolicy)
    assert {each.severity for each in found} == {Severity.ERROR}
    return [str(each) for each in found]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_the_helpers_error_is_among_them(text: str, message: str) -> None:
    found = parse_and_check([("/p/t.toml", text.encode())], NoAccounts())
    assert not isinstance(found, ParsedPolicy)
    assert str(found[0]) == f"/p/t.toml:{message}"


@pytest.mark.parametrize(("content", "message"), BYTES)
def test_bytes_that_are_no_policy(content: bytes, message: str) -> None:
    found = parse_and_check([("/p/t.toml", content)], NoAccounts())
    assert not isinstance(found, ParsedPolicy)
    assert [str(each) for each in found] == [message]


SEVERAL = [
    (
        ["[[rule]]\nmodules = 'x'\naction = 'alow'\nusers = ['bob']\n"],
        [
            "0.toml:2: modules: 'x' is not a list; write ['x']",
            "0.toml:3: action: 'alow' is not one of 'allow', 'log', 'deny'",
            "0.toml:4: users: 'bob' is not a user in /etc/passwd; name services are not queried, so give the number",
        ],
    ),
    # a row as a whole is judged where each key is right
    (
        ["[[mark]]\nmodules = ['x']\n\n[[call_site]]\naliases = ['x']\ncapability = 'CAP_X'\n\n[[rule]]\naction = 'deny'\n"],
        [
            "0.toml:1: mark: 'privileged' is missing; it is true, false, 'marker' or a capability such as 'CAP_NET_ADMIN'",
            "0.toml:6: capability: 'CAP_X' is not a capability such as 'CAP_NET_ADMIN', see capabilities(7)",
            "0.toml:8: rule: it has no condition; aliases = [\"*\"] would match every request",
        ],
    ),
    # one file's error hides no other's, and TOML that is none hides its own file's alone
    (
        ["[[rule]\n", "[settings]\nmode = 1\n", "[rules]\n"],
        [
            "0.toml:1: Expected ']]' at the end of an array declaration, so this is not TOML",
            "1.toml:2: mode: 1 is not one of 'allowed', 'marked', 'privileged', 'disabled'",
            "2.toml:1: rules: no such table; a policy has 'settings', 'mark', 'call_site', 'rule'",
        ],
    ),
    # names are the whole policy's
    (
        ["rule = [{ name = 'a', users = [1], action = 'deny' }]", "rule = [{ name = 'a', users = [1], action = 'deny' }]"],
        ["1.toml:1: name: 'a' is already the name of the rule at 0.toml:1"],
    ),
    # from top to bottom, whatever order the tables have
    (
        ["[[mark]]\nmodules = 1\n[[rule]]\naction = 1\n[[mark]]\nmodules = 2\n"],
        [
            "0.toml:2: modules: 1 is not a list; write [1]",
            "0.toml:4: action: 1 is not one of 'allow', 'log', 'deny'",
            "0.toml:6: modules: 2 is not a list; write [2]",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "expected"), SEVERAL)
def test_all_at_once(texts: list[str], expected: list[str]) -> None:
    assert sentences(*texts) == expected


LINES = st.sampled_from(
    [
        "[[rule]]", "[[mark]]", "[[call_site]]", "[settings]", "[[rules]]", "rule = 1", "modules = ['x']", "aliases = ['a*']",
        "privileged = true", "action = 'deny'", "users = [1]", "users = ['bob']", "deputy = true", "capability = 'CAP_BPF'",
        "mode = 'marked'", "name = 'n'", "modules = ['[']", "x = [", "quiet = 1", "[rule]", "[mark.x]", "'' = 1",
    ]
)  # fmt: skip


@given(st.lists(st.lists(LINES, max_size=8).map("\n".join), max_size=3))
@settings(max_examples=300, deadline=None)
def test_there_is_an_error_where_the_helper_has_one(texts: list[str]) -> None:
    files = [(f"{index}.toml", text.encode()) for index, text in enumerate(texts)]
    found = parse_and_check(files, NoAccounts())
    try:
        policy = build(files, NoAccounts())
    except PolicyError as error:
        assert not isinstance(found, ParsedPolicy)
        assert str(error) in map(str, found)
    else:
        assert isinstance(found, ParsedPolicy)
        assert found.policy == policy


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding(Severity.ERROR, "p", 3, "k", "m"), "p:3: k: m"), (Finding(Severity.ERROR, "p", 0, "", "m"), "p: m"),
        (Finding(Severity.WARNING, "p", 3, "k", "m"), "p:3: warning: k: m"), (Finding(Severity.NOTE, "p", 0, "", "m"), "p: note: m"),
    ],
)  # fmt: skip
def test_a_finding_is_a_compilers_line(finding: Finding, text: str) -> None:
    assert str(finding) == text
