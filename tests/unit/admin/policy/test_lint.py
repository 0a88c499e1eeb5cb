"""What is said of a policy that holds: whole sentences, and silence where nobody could look."""

import pytest

from safe_modprobe.admin.policy.findings import ParsedPolicy, Severity, parse_and_check
from safe_modprobe.admin.policy.lint import NOTHING_KNOWN, lint
from safe_modprobe.admin.policy.names import Facts, NamesInPolicy, names_in
from tests.unit.make import NoAccounts, policy

FACTS = Facts(
    kernel="6.1",
    modules=frozenset({"sctp", "dccp", "vsock", "vsock_loopback", "xfs"}),
    built_in=frozenset({"unix", "vsock_core"}),
    aliases=("net_pf_2_proto_132", "fs_xfs", "pci:v*d*"),
    built_in_aliases=("net_pf_1", "fs_ext4"),
    users=frozenset({0, 1001}),
    groups=frozenset({29}),
    units=("asterisk.service", "user@*.service", "*.scope"),
    programs={"/sbin/x": "/usr/sbin/x", "/usr/sbin/x": "/usr/sbin/x", "/gone": ""},
)


def said(*texts: str, facts: Facts = FACTS) -> list[str]:
    sheet = parse_and_check([(f"/p/{index}.toml", text.encode()) for index, text in enumerate(texts)], NoAccounts())
    assert isinstance(sheet, ParsedPolicy), sheet
    found = lint(sheet, facts)
    assert all(each.severity is not Severity.ERROR for each in found)
    return [str(each).removeprefix("/p/") for each in found]


def rule(keys: str) -> str:
    return f"[[rule]]\naction = 'deny'\n{keys}\n"


def mark(keys: str, privileged: str = "true") -> str:
    return f"[[mark]]\nprivileged = {privileged}\n{keys}\n"


SILENT = [
    rule("modules = ['sctp', 'xfs']"), rule("modules = ['*']"), rule("modules = ['vsock*']"), rule("modules = ['vsock-loopback']"),
    rule("aliases = ['net-pf-2-proto-132', 'fs-*']"), rule("aliases = ['sctp', 'vsock-loopback']"), rule("aliases = ['pci:v1d2']"),
    rule("users = ['root', 1001]\ngroups = ['audio']"), rule("units = ['user@1000.service', 'session-4.scope', 'ast*']"),
    rule("executables = ['/usr/sbin/x']"), rule("executables = ['/sbin/x', '/usr/sbin/x']"), rule("executables = ['/sbin/*']"),
    mark("modules = ['sctp']"), mark("aliases = ['fs-*']"), mark("modules = ['unix']", "false"), mark("aliases = ['net-pf-1']", "'marker'"),
    "[[rule]]\naction = 'allow'\nmodules = ['unix']\n", "[[call_site]]\naliases = ['net-pf-1']\ncapability = 'CAP_NET_ADMIN'\n",
    "[settings]\nmode = 'marked'\nmismatch = 'deny'\ntrial = false\nkernel_args = 'always'\n",
]  # fmt: skip


@pytest.mark.parametrize("text", SILENT)
def test_nothing_is_said_of_what_is_right(text: str) -> None:
    assert said(text) == []


WORDS_ALONE = "[settings]\nsources = ['kernel-args']\n"
WITH_BPF = "[settings]\nsources = ['bpf', 'kernel-args']\n"
DOUBT = "no kernel's words say that, and sources ask nobody else, so that it refuses in doubt, root as well [0.toml:2]"
NOBODY = "no kernel's words say that, and sources ask nobody else, so that it lets nobody through [0.toml:2]"
NOT_SAID = [
    (WORDS_ALONE, rule("units = ['a@1.service']"), [f"1.toml:3: warning: units: {DOUBT}"]),
    (WITH_BPF, rule("users = [0]"), [f"1.toml:3: warning: users: {DOUBT}"]),
    (WORDS_ALONE, rule("capabilities = ['CAP_BPF']"), [f"1.toml:3: warning: capabilities: {DOUBT}"]),
    (WORDS_ALONE, rule("groups = [29]").replace("deny", "allow"), [f"1.toml:3: warning: groups: {NOBODY}"]),
    (WORDS_ALONE, rule("no_new_privs = true").replace("deny", "log"), [f"1.toml:3: warning: no_new_privs: {NOBODY}"]),
    (WORDS_ALONE, rule("users = [0]").replace("deny", "allow"), []),
    (WORDS_ALONE, rule("modules = ['sctp']"), []),
    (WORDS_ALONE, mark("modules = ['sctp']"), []),
    ("[settings]\nsources = ['kernel-args', 'proc']\n", rule("groups = [29]"), []),
    ("[settings]\nsources = ['tracefs']\n", rule("groups = [29]"), []),
    ("[settings]\nsources = ['bpf']\n", rule("groups = [29]"), []),
    ("", rule("groups = [29]"), []),
]


@pytest.mark.parametrize(("sources", "row", "expected"), NOT_SAID)
def test_what_no_source_of_the_policys_can_say(sources: str, row: str, expected: list[str]) -> None:
    assert [each for each in said(sources, row) if "words" in each] == expected


ABSENT = [
    # modules
    (rule("modules = ['nosuch']"), "0.toml:3: warning: modules: no module of kernel 6.1 is called 'nosuch'"),
    (rule("modules = ['sctp', 'dcpp']"), "0.toml:3: warning: modules: no module of kernel 6.1 is called 'dcpp'; did you mean 'dccp'?"),
    (rule("modules = ['nosuch*', 'b?']"), "0.toml:3: warning: modules: no module of kernel 6.1 is called 'nosuch*', 'b?'"),
    (rule(f"modules = {[f'no{index}' for index in range(8)]}"), "0.toml:3: warning: modules: no module of kernel 6.1 is called 'no0', 'no1', 'no2', 'no3', 'no4', 'no5' and 2 more"),
    (mark("modules = ['nosuch']"), "0.toml:3: warning: modules: no module of kernel 6.1 is called 'nosuch'"),
    (mark("modules = ['sctp', 'tipc']"), "0.toml:3: note: modules: no module of kernel 6.1 is called 'tipc'"),
    (mark("modules = ['sctp', 'sctp.ko']"), "0.toml:3: warning: modules: 'sctp.ko' can never match: a module's name has no folder and no .ko"),
    # what is built in
    (rule("modules = ['unix']"), "0.toml:3: warning: modules: 'unix': built into kernel 6.1, so it is there for everybody already"),
    (mark("modules = ['sctp', 'unix', 'vsock-core']"), "0.toml:3: warning: modules: 'unix', 'vsock-core': built into kernel 6.1, so they are there for everybody already"),
    (mark("aliases = ['net-pf-1']"), "0.toml:3: warning: aliases: 'net-pf-1': built into kernel 6.1, so it is there for everybody already"),
    (mark("aliases = ['fs-ext?', 'fs-xfs']"), "0.toml:3: warning: aliases: 'fs-ext?': built into kernel 6.1, so it is there for everybody already"),
    # aliases
    (rule("aliases = ['net-pf-99']"), "0.toml:3: warning: aliases: no module of kernel 6.1 answers 'net-pf-99'"),
    (mark("aliases = ['fs-*', 'netpf-*']"), "0.toml:3: note: aliases: no module of kernel 6.1 answers 'netpf-*'"),
    ("[[call_site]]\naliases = ['9p-*']\ndeputy = true\n", "0.toml:2: warning: aliases: no module of kernel 6.1 answers '9p-*'"),
    # people, units, programs
    (rule("users = [1001, 4242, 77]"), "0.toml:3: warning: users: no user here has the number 77, 4242"),
    (rule("groups = [30]"), "0.toml:3: warning: groups: no group here has the number 30"),
    (rule("units = ['asterix.service']"), "0.toml:3: warning: units: no unit here is called 'asterix.service'; did you mean 'asterisk.service'?"),
    (rule("units = ['x*.service', 'asterisk.service']"), "0.toml:3: warning: units: no unit here is called 'x*.service'"),
    (rule("units = ['asterisk', 'asterisk.service']"), "0.toml:3: warning: units: 'asterisk' can never match: a unit's name ends in .service or .scope"),
    (rule("executables = ['/gone']"), "0.toml:3: warning: executables: there is no file '/gone' here"),
    (rule("executables = ['/sbin/x']"), "0.toml:3: warning: executables: '/sbin/x' leads to '/usr/sbin/x', and that is what the kernel calls who runs it"),
    # rows in which nothing is left to be named
    (rule("units = ['asterisk']\nmodules = ['nosuch']"), "0.toml:1: warning: rule: it can never match: 'asterisk' in 'units': a unit's name ends in .service or .scope"),
    ("[[rule]]\naction = 'allow'\ncapabilities = ['CAP_SYS_MODULE']\n", "0.toml:1: warning: rule: it allows nothing new: who holds CAP_SYS_MODULE may have any module, and no later rule says otherwise"),
    # settings
    ("[settings]\nmode = 'disabled'\n", "0.toml:2: note: mode: with 'disabled' nothing is loaded for anybody: no rule, mark or call site counts"),
    ("[settings]\nmode = 'allowed'\n", "0.toml:2: note: mode: with 'allowed' nothing is refused: no mark counts"),
    ("[settings]\nmismatch = 'allow'\n" + rule("users = [0]"), "0.toml:2: note: mismatch: with 'allow' only rules refuse: no mark counts"),
    ("[settings]\nmismatch = 'log'\n", "0.toml:2: note: mismatch: with 'log' nothing is refused: what a mark would refuse is recorded and let through"),
    ("[settings]\ntrial = true\n", "0.toml:2: note: trial: with true nothing is refused: what would be is recorded and let through"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), ABSENT)
def test_what_is_not_here(text: str, sentence: str) -> None:
    assert said(text) == [sentence]


ABOUT_THE_MACHINE = (
    ": no module of", ": built into", "here has the number", "no unit here", "there is no file", " leads to ",
)  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), ABSENT)
def test_where_nobody_could_look_nothing_is_said_of_names(text: str, sentence: str) -> None:
    about_the_machine = any(words in sentence for words in ABOUT_THE_MACHINE)
    assert said(text, facts=NOTHING_KNOWN) == ([] if about_the_machine else [sentence])


SHADOWED = [
    ([rule("modules = ['sctp']"), rule("modules = ['sctp']\nusers = [99]")], ["1.toml:1: warning: rule: it never decides: whatever it matches, 0.toml:1 matches first"]),
    ([rule("modules = ['sctp']") + rule("modules = ['xfs']"), rule("modules = ['xfs', 'sctp']")], ["1.toml:1: warning: rule: it never decides: whatever it matches, 0.toml:1, 0.toml:4 match first"]),
    ([mark("aliases = ['fs-*']"), "\n" + mark("aliases = ['fs-xfs']")], ["1.toml:2: warning: mark: it never decides: whatever it matches, 0.toml:1 matches first"]),
    (["[settings]\nmode = 'marked'\n", "[settings]\nmismatch = 'deny'\nmode = 'marked'\n"], ["1.toml:3: warning: mode: it is never used: 0.toml:2 sets it first"]),
    ([mark("modules = ['sctp']"), mark("modules = ['sctp', 'xfs']", "false")], ["1.toml:3: warning: modules: 'sctp' never decides: whatever it matches, 0.toml:1 matches first"]),
    # rows of other tables do not count, and equal rows are told apart by their places
    ([mark("modules = ['sctp']"), rule("modules = ['sctp']")], []),
    ([rule("modules = ['sctp']") * 3], ["0.toml:4: warning: rule: it never decides: whatever it matches, 0.toml:1 matches first", "0.toml:7: warning: rule: it never decides: whatever it matches, 0.toml:1 matches first"]),
    # file by file, from top to bottom
    ([rule("users = [5]") + mark("modules = ['z']"), rule("users = [4]")], ["0.toml:3: warning: users: no user here has the number 5", "0.toml:6: warning: modules: no module of kernel 6.1 is called 'z'", "1.toml:3: warning: users: no user here has the number 4"]),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "sentences"), SHADOWED)
def test_what_never_decides_and_the_order(texts: list[str], sentences: list[str]) -> None:
    assert said(*texts) == sentences


def test_what_has_to_be_looked_for() -> None:
    found = names_in(
        [policy(rule("users = [5, 'root']\nexecutables = ['/a', '/b*']") + rule("groups = ['audio', 7]")), policy("")]
    )
    assert found == NamesInPolicy(frozenset({0, 5}), frozenset({7, 29}), frozenset({"/a"}))
