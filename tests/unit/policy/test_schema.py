"""Policy files become rows, and each kind of error gives one whole sentence."""

import pytest

from safe_modprobe.errors import PolicyError
from safe_modprobe.model import Action, CallSite, Mark, Mode, Origin, Rule, Source
from safe_modprobe.policy.schema import build
from tests.unit.make import NoAccounts, cap, policy

RULE_KEYS = (
    "'name', 'modules', 'aliases', 'users', 'groups', 'capabilities', 'units', 'executables', 'call_sites', "
    "'user_namespace', 'no_new_privs', 'callers', 'action', 'quiet', 'reason'"
)
ERRORS = [
    # unknown keys and tables
    ("[[rule]]\nmodule = ['x']\n", f"2: module: no such key; rule has {RULE_KEYS}"),
    ("[[mark]]\nmodules = ['x']\nusers = [1]\n", "3: users: no such key; mark has 'modules', 'aliases', 'privileged', 'quiet', 'reason'"),
    ("\n[rules]\n", "2: rules: no such table; a policy has 'settings', 'mark', 'call_site', 'rule'"),
    ("mode = 'x'\n", "1: mode: no such table; a policy has 'settings', 'mark', 'call_site', 'rule'"),
    ("[settings]\nx = 1\n", "2: x: no such key; settings has 'mode', 'mismatch', 'unknown_caller', 'sources', 'kernel_args', 'forward_kernel_args', 'trial'"),
    # shapes
    ("settings = 1\n", "1: settings: 1 is not a table; write [settings]"),
    ("[rule]\naction = 'deny'\n", "1: rule: {'action': 'deny'} is not an array of tables; write [[rule]]"),
    ("rule = [1]\n", "1: rule: [1] is not an array of tables; write [[rule]]"),
    # types
    ("[[rule]]\nmodules = 'x'\n", "2: modules: 'x' is not a list; write ['x']"),
    ("[[rule]]\nmodules = [1]\n", "2: modules: 1 is not a string"),
    ("[[rule]]\nmodules = []\n", "2: modules: [] matches nothing; name at least one, or leave the key out to match any"),
    ("[[rule]]\nquiet = 1\n", "2: quiet: 1 is not true or false"),
    ("[[rule]]\nno_new_privs = 'yes'\n", "2: no_new_privs: 'yes' is not true or false"),
    ("[[rule]]\nreason = 3\n", "2: reason: 3 is not a string"),
    ("[[rule]]\nreason = \"a\\nb\"\n", "2: reason: 'a\\nb' contains a control character; remove it"),
    ("[[rule]]\naction = 'alow'\n", "2: action: 'alow' is not one of 'allow', 'log', 'deny'"),
    ("[[rule]]\naction = true\n", "2: action: true is not one of 'allow', 'log', 'deny'"),
    ("[[rule]]\ncallers = 'some'\n", "2: callers: 'some' is not one of 'known', 'unknown'"),
    ("[[rule]]\nuser_namespace = 'mine'\n", "2: user_namespace: 'mine' is not one of 'initial', 'other'"),
    # globs
    ("[[rule]]\nmodules = ['']\n", "2: modules: '' is not a pattern; '*' matches everything"),
    ("[[rule]]\nmodules = ['a[b']\n", "2: modules: 'a[b' is not a pattern: a [ has no ]; write [[] for the character itself"),
    ("[[rule]]\naliases = ['[]']\n", "2: aliases: '[]' is not a pattern: a [ has no ]; write [[] for the character itself"),
    ("[[rule]]\naliases = ['[!]']\n", "2: aliases: '[!]' is not a pattern: a [ has no ]; write [[] for the character itself"),
    ("[[rule]]\naliases = [\"\\u0000\"]\n", "2: aliases: '\\x00' contains a control character; remove it"),
    # users, groups, capabilities
    ("[[rule]]\nusers = ['bob']\n", "2: users: 'bob' is not a user in /etc/passwd; name services are not queried, so give the number"),
    ("[[rule]]\ngroups = ['bobs']\n", "2: groups: 'bobs' is not a group in /etc/group; name services are not queried, so give the number"),
    ("[[rule]]\nusers = [-1]\n", "2: users: -1 is not a user's number, which is from 0 to 4294967294"),
    ("[[rule]]\nusers = [4294967295]\n", "2: users: 4294967295 is not a user's number, which is from 0 to 4294967294"),
    ("[[rule]]\nusers = [true]\n", "2: users: true is not a user's name or number"),
    ("[[rule]]\nusers = [1.0]\n", "2: users: 1.0 is not a user's name or number"),
    ("[[rule]]\ncapabilities = ['CAP_X']\n", "2: capabilities: 'CAP_X' is not a capability such as 'CAP_NET_ADMIN', see capabilities(7)"),
    ("[[rule]]\ncapabilities = ['net_admin']\n", "2: capabilities: 'net_admin' is not a capability; did you mean 'CAP_NET_ADMIN'?"),
    # rows as a whole
    ("[[rule]]\nmodules = ['x']\n", "1: rule: 'action' is missing; it is one of 'allow', 'log', 'deny'"),
    ("\n\n[[rule]]\naction = 'deny'\n", "3: rule: it has no condition; aliases = [\"*\"] would match every request"),
    ("[[rule]]\nname = 'a'\naliases = ['*']\naction = 'deny'\n" * 2, "6: name: 'a' is already the name of the rule at t.toml:1"),
    ("[[mark]]\nprivileged = true\n", "1: mark: it names nothing; give 'modules' or 'aliases'"),
    ("[[mark]]\nmodules = ['x']\n", "1: mark: 'privileged' is missing; it is true, false, 'marker' or a capability such as 'CAP_NET_ADMIN'"),
    ("[[mark]]\nmodules = ['x']\nprivileged = 1\n", "3: privileged: 1 is not true, false, 'marker' or a capability such as 'CAP_NET_ADMIN'"),
    ("[[mark]]\nmodules = ['x']\nprivileged = 'Y'\n", "3: privileged: 'Y' is not a capability such as 'CAP_NET_ADMIN', see capabilities(7)"),
    ("[[call_site]]\ndeputy = true\n", "1: call_site: 'aliases' is missing; it names the requests"),
    ("[[call_site]]\naliases = ['x']\n", "1: call_site: it has both or neither of 'capability' and 'deputy = true'; give one"),
    ("[[call_site]]\naliases = ['x']\ndeputy = true\ncapability = 'CAP_BPF'\n", "1: call_site: it has both or neither of 'capability' and 'deputy = true'; give one"),
    # settings
    ("[settings]\nmode = 'strict'\n", "2: mode: 'strict' is not one of 'allowed', 'marked', 'privileged', 'disabled'"),
    ("[settings]\nmode = 1\n", "2: mode: 1 is not one of 'allowed', 'marked', 'privileged', 'disabled'"),
    ("[settings]\nsources = ['none']\n", "2: sources: 'none' is not one of 'kernel-args', 'bpf', 'tracefs', 'proc'"),
    ("[settings]\nsources = []\n", "2: sources: [] matches nothing; name at least one, or leave the key out to match any"),
    # not TOML at all
    ("[[rule]\n", "1: Expected ']]' at the end of an array declaration, so this is not TOML"),
    ("a = 1\na = 2\n", "2: Cannot overwrite a value, so this is not TOML"),
    ("a = \"\n", "1: Illegal character '\\n', so this is not TOML"),
    ("\n\na = '''", "3: Expected \"'''\", so this is not TOML"),
    # the line is right after multi-line strings that look like headers
    ('[[mark]]\nreason = """\\\n  [[mark]] \\\n  modules = 1"""\nmodules = ["m"]\nprivileged = 3\n', "6: privileged: 3 is not true, false, 'marker' or a capability such as 'CAP_NET_ADMIN'"),
    ("rule = [\n  { modules = ['m'], action = 'allow' },\n  { modules = ['m'], action = 'alow' },\n]\n", "3: action: 'alow' is not one of 'allow', 'log', 'deny'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_every_error_is_one_whole_sentence(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as error:
        build([("/p/t.toml", text.encode())], NoAccounts())
    assert str(error.value) == f"/p/t.toml:{message}"


BYTES = [
    (b"a = '\xff'\n", "/p/t.toml:1: byte 0xff is not UTF-8; TOML is UTF-8 throughout"),
    (b"\n\n\xfe", "/p/t.toml:3: byte 0xfe is not UTF-8; TOML is UTF-8 throughout"),
    (
        b"a = " + b"[" * 100_000,
        "/p/t.toml: the file is nested too deep; a policy needs two levels, as the manual shows",
    ),
    (b"#" * (1 << 20) + b"\n", "/p/t.toml: the file has 1048577 bytes; it may have 1048576"),
]


@pytest.mark.parametrize(("content", "message"), BYTES)
def test_files_that_cannot_be_parsed_at_all(content: bytes, message: str) -> None:
    with pytest.raises(PolicyError) as error:
        build([("/p/t.toml", content)], NoAccounts())
    assert str(error.value) == message


def test_the_example_of_the_design_is_read_as_documented() -> None:
    found = policy(
        """
[settings]
mode = "marked"
mismatch = "log"
unknown_caller = "unprivileged"
sources = ["kernel-args", "proc"]
kernel_args = "always"
forward_kernel_args = true

[[mark]]
modules = ["af_alg", "algif_*"]
privileged = true
reason = "CVE"

[[mark]]
aliases = ["fs-*"]
privileged = "CAP_SYS_ADMIN"

[[call_site]]
aliases = ["netdev-*"]
capability = "CAP_NET_ADMIN"

[[rule]]
name = "voip"
modules = ["sctp"]
users = ["asterisk", 7]
groups = ["audio"]
units = ["asterisk.service"]
action = "allow"
quiet = true
"""
    )
    assert found.settings.mode is Mode.MARKED
    assert found.settings.mismatch is Action.LOG
    assert found.settings.sources == (Source.KERNEL_ARGS, Source.PROC)
    assert (found.settings.kernel_args_always, found.settings.forward_kernel_args) == (True, True)
    assert str(found.settings.origin("mode")) == "50-test.toml:3"
    at = lambda line: Origin("50-test.toml", line)
    assert found.marks == (
        Mark(at(10), ("af_alg", "algif_*"), (), cap("CAP_SYS_MODULE"), reason="CVE"),
        Mark(at(15), (), ("fs-*",), cap("CAP_SYS_ADMIN")),
    )
    assert found.call_sites == (CallSite(at(19), ("netdev-*",), cap("CAP_NET_ADMIN")),)
    assert found.rules == (
        Rule(
            at(23), Action.ALLOW, "voip", ("sctp",), users=frozenset({1001, 7}), groups=frozenset({29}),
            units=("asterisk.service",), quiet=True,
        ),
    )  # fmt: skip


def test_the_first_file_that_sets_a_key_wins() -> None:
    files = [
        ("p/10-a.toml", b"[settings]\nmode = 'disabled'\n"),
        ("p/90-b.toml", b"[settings]\nmode = 'allowed'\nmismatch = 'log'\n"),
    ]
    settings = build(files, NoAccounts()).settings
    assert (settings.mode, settings.mismatch) == (Mode.DISABLED, Action.LOG)
    assert str(settings.origin("mode")) == "10-a.toml:2"
    assert str(settings.origin("mismatch")) == "90-b.toml:3"


def test_one_invalid_file_invalidates_the_whole_policy() -> None:
    with pytest.raises(PolicyError, match="90-b.toml:1"):
        build([("p/10-a.toml", b"[settings]\nmode = 'disabled'\n"), ("p/90-b.toml", b"x")], NoAccounts())
