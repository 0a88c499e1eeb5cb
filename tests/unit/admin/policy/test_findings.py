"""All errors of all files are found at once; each is the sentence that the helper would log."""

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
def test_the_helpers_error_is_the_first_finding(text: str, message: str) -> None:
    found = parse_and_check([("/p/t.toml", text.encode())], NoAccounts())
    assert not isinstance(found, ParsedPolicy)
    assert str(found[0]) == f"/p/t.toml:{message}"


@pytest.mark.parametrize(("content", "message"), BYTES)
def test_bytes_that_cannot_be_parsed(content: bytes, message: str) -> None:
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
    # The row as a whole is checked when each key is valid.
    (
        ["[[mark]]\nmodules = ['x']\n\n[[call_site]]\naliases = ['x']\ncapability = 'CAP_X'\n\n[[rule]]\naction = 'deny'\n"],
        [
            "0.toml:1: mark: 'privileged' is missing; it is true, false, 'marker' or a capability such as 'CAP_NET_ADMIN'",
            "0.toml:6: capability: 'CAP_X' is not a capability such as 'CAP_NET_ADMIN', see capabilities(7)",
            "0.toml:8: rule: it has no condition; aliases = [\"*\"] would match every request",
        ],
    ),
    # An error in one file does not hide errors in another. Broken TOML hides only the other errors of its own file.
    (
        ["[[rule]\n", "[settings]\nmode = 1\n", "[rules]\n"],
        [
            "0.toml:1: Expected ']]' at the end of an array declaration, so this is not TOML",
            "1.toml:2: mode: 1 is not one of 'allowed', 'marked', 'privileged', 'disabled'",
            "2.toml:1: rules: no such table; a policy has 'settings', 'mark', 'call_site', 'rule'",
        ],
    ),
    # Rule names are unique in the whole policy.
    (
        ["rule = [{ name = 'a', users = [1], action = 'deny' }]", "rule = [{ name = 'a', users = [1], action = 'deny' }]"],
        ["1.toml:1: name: 'a' is already the name of the rule at 0.toml:1"],
    ),
    # Findings are ordered by line, also when tables alternate.
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
def test_all_errors_are_found_at_once(texts: list[str], expected: list[str]) -> None:
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
def test_there_are_errors_exactly_when_the_helper_has_one(texts: list[str]) -> None:
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
def test_a_finding_prints_in_a_compilers_format(finding: Finding, text: str) -> None:
    assert str(finding) == text
