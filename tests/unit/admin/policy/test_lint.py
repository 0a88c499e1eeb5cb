"""Findings on a valid policy are whole sentences; unknown facts give none."""

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


def findings(*texts: str, facts: Facts = FACTS) -> list[str]:
    parsed = parse_and_check([(f"/p/{index}.toml", text.encode()) for index, text in enumerate(texts)], NoAccounts())
    assert isinstance(parsed, ParsedPolicy), parsed
    found = lint(parsed, facts)
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
def test_a_correct_row_has_no_finding(text: str) -> None:
    assert findings(text) == []


KERNEL_ARGS_ONLY = "[settings]\nsources = ['kernel-args']\n"
WITH_BPF = "[settings]\nsources = ['bpf', 'kernel-args']\n"
NO_SOURCE = "no configured source provides this detail for every caller, so the rule"
REFUSES = f"{NO_SOURCE} refuses callers without it, root included [0.toml:2]"
ALLOWS_NOBODY = f"{NO_SOURCE} allows nobody [0.toml:2]"
UNAVAILABLE = [
    (KERNEL_ARGS_ONLY, rule("units = ['a@1.service']"), [f"1.toml:3: warning: units: {REFUSES}"]),
    (WITH_BPF, rule("users = [0]"), [f"1.toml:3: warning: users: {REFUSES}"]),
    (KERNEL_ARGS_ONLY, rule("capabilities = ['CAP_BPF']"), [f"1.toml:3: warning: capabilities: {REFUSES}"]),
    (KERNEL_ARGS_ONLY, rule("groups = [29]").replace("deny", "allow"), [f"1.toml:3: warning: groups: {ALLOWS_NOBODY}"]),
    (
        KERNEL_ARGS_ONLY,
        rule("no_new_privs = true").replace("deny", "log"),
        [f"1.toml:3: warning: no_new_privs: {ALLOWS_NOBODY}"],
    ),
    (KERNEL_ARGS_ONLY, rule("users = [0]").replace("deny", "allow"), []),
    (KERNEL_ARGS_ONLY, rule("modules = ['sctp']"), []),
    (KERNEL_ARGS_ONLY, mark("modules = ['sctp']"), []),
    ("[settings]\nsources = ['kernel-args', 'proc']\n", rule("groups = [29]"), []),
    ("[settings]\nsources = ['tracefs']\n", rule("groups = [29]"), []),
    ("[settings]\nsources = ['bpf']\n", rule("groups = [29]"), []),
    ("", rule("groups = [29]"), []),
]


@pytest.mark.parametrize(("sources", "row", "expected"), UNAVAILABLE)
def test_rules_on_details_that_no_source_provides(sources: str, row: str, expected: list[str]) -> None:
    assert [each for each in findings(sources, row) if NO_SOURCE in each] == expected


ABSENT = [
    # Modules.
    (rule("modules = ['nosuch']"), "0.toml:3: warning: modules: kernel 6.1 has no module named 'nosuch'"),
    (rule("modules = ['sctp', 'dcpp']"), "0.toml:3: warning: modules: kernel 6.1 has no module named 'dcpp'; did you mean 'dccp'?"),
    (rule("modules = ['nosuch*', 'b?']"), "0.toml:3: warning: modules: kernel 6.1 has no module named 'nosuch*', 'b?'"),
    (rule(f"modules = {[f'no{index}' for index in range(8)]}"), "0.toml:3: warning: modules: kernel 6.1 has no module named 'no0', 'no1', 'no2', 'no3', 'no4', 'no5' and 2 more"),
    (mark("modules = ['nosuch']"), "0.toml:3: warning: modules: kernel 6.1 has no module named 'nosuch'"),
    (mark("modules = ['sctp', 'tipc']"), "0.toml:3: note: modules: kernel 6.1 has no module named 'tipc'"),
    (mark("modules = ['sctp', 'sctp.ko']"), "0.toml:3: warning: modules: 'sctp.ko' can never match: a module's name contains no path and no .ko"),
    # Built into the kernel.
    (rule("modules = ['unix']"), "0.toml:3: warning: modules: 'unix' is built into kernel 6.1, so every user has access already"),
    (mark("modules = ['sctp', 'unix', 'vsock-core']"), "0.toml:3: warning: modules: 'unix', 'vsock-core' are built into kernel 6.1, so every user has access already"),
    (mark("aliases = ['net-pf-1']"), "0.toml:3: warning: aliases: 'net-pf-1' is built into kernel 6.1, so every user has access already"),
    (mark("aliases = ['fs-ext?', 'fs-xfs']"), "0.toml:3: warning: aliases: 'fs-ext?' is built into kernel 6.1, so every user has access already"),
    # Aliases.
    (rule("aliases = ['net-pf-99']"), "0.toml:3: warning: aliases: kernel 6.1 has no module for alias 'net-pf-99'"),
    (mark("aliases = ['fs-*', 'netpf-*']"), "0.toml:3: note: aliases: kernel 6.1 has no module for alias 'netpf-*'"),
    ("[[call_site]]\naliases = ['9p-*']\ndeputy = true\n", "0.toml:2: warning: aliases: kernel 6.1 has no module for alias '9p-*'"),
    # Accounts, units, programs.
    (rule("users = [1001, 4242, 77]"), "0.toml:3: warning: users: this system has no user with uid 77, 4242"),
    (rule("groups = [30]"), "0.toml:3: warning: groups: this system has no group with gid 30"),
    (rule("units = ['asterix.service']"), "0.toml:3: warning: units: this system has no unit named 'asterix.service'; did you mean 'asterisk.service'?"),
    (rule("units = ['x*.service', 'asterisk.service']"), "0.toml:3: warning: units: this system has no unit named 'x*.service'"),
    (rule("units = ['asterisk', 'asterisk.service']"), "0.toml:3: warning: units: 'asterisk' can never match: a unit's name ends in .service or .scope"),
    (rule("executables = ['/gone']"), "0.toml:3: warning: executables: this system has no file '/gone'"),
    (rule("executables = ['/sbin/x']"), "0.toml:3: warning: executables: '/sbin/x' resolves to '/usr/sbin/x'; write that path, because the kernel reports it"),
    # Rows without effect: their names are not checked.
    (rule("units = ['asterisk']\nmodules = ['nosuch']"), "0.toml:1: warning: rule: it can never match: 'asterisk' in 'units': a unit's name ends in .service or .scope"),
    ("[[rule]]\naction = 'allow'\ncapabilities = ['CAP_SYS_MODULE']\n", "0.toml:1: warning: rule: it allows nothing new: CAP_SYS_MODULE suffices for any module, and no later rule changes that"),
    # Settings.
    ("[settings]\nmode = 'disabled'\n", "0.toml:2: note: mode: with 'disabled' every load is refused; rules, marks and call sites have no effect"),
    ("[settings]\nmode = 'allowed'\n", "0.toml:2: note: mode: with 'allowed' nothing is refused; marks have no effect"),
    ("[settings]\nmismatch = 'allow'\n" + rule("users = [0]"), "0.toml:2: note: mismatch: with 'allow' only rules refuse; marks have no effect"),
    ("[settings]\nmismatch = 'log'\n", "0.toml:2: note: mismatch: with 'log' nothing is refused; a load that a mark would refuse is allowed and recorded"),
    ("[settings]\ntrial = true\n", "0.toml:2: note: trial: with true nothing is refused; a load that would be refused is allowed and recorded"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), ABSENT)
def test_one_finding_for_each_row_or_setting(text: str, sentence: str) -> None:
    assert findings(text) == [sentence]


ABOUT_THE_MACHINE = (
    ": kernel 6.1 has no module", " built into kernel", ": this system has no ", " resolves to ",
)  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), ABSENT)
def test_unknown_facts_give_no_findings_on_names(text: str, sentence: str) -> None:
    about_the_machine = any(words in sentence for words in ABOUT_THE_MACHINE)
    assert findings(text, facts=NOTHING_KNOWN) == ([] if about_the_machine else [sentence])


SHADOWED = [
    ([rule("modules = ['sctp']"), rule("modules = ['sctp']\nusers = [99]")], ["1.toml:1: warning: rule: it never decides: 0.toml:1 matches the same requests first"]),
    ([rule("modules = ['sctp']") + rule("modules = ['xfs']"), rule("modules = ['xfs', 'sctp']")], ["1.toml:1: warning: rule: it never decides: 0.toml:1, 0.toml:4 match the same requests first"]),
    ([mark("aliases = ['fs-*']"), "\n" + mark("aliases = ['fs-xfs']")], ["1.toml:2: warning: mark: it never decides: 0.toml:1 matches the same requests first"]),
    (["[settings]\nmode = 'marked'\n", "[settings]\nmismatch = 'deny'\nmode = 'marked'\n"], ["1.toml:3: warning: mode: it is never used: 0.toml:2 sets it first"]),
    ([mark("modules = ['sctp']"), mark("modules = ['sctp', 'xfs']", "false")], ["1.toml:3: warning: modules: 'sctp' never decides: 0.toml:1 matches the same requests first"]),
    # Tables do not shadow each other. Equal rows are told apart by their places.
    ([mark("modules = ['sctp']"), rule("modules = ['sctp']")], []),
    ([rule("modules = ['sctp']") * 3], ["0.toml:4: warning: rule: it never decides: 0.toml:1 matches the same requests first", "0.toml:7: warning: rule: it never decides: 0.toml:1 matches the same requests first"]),
    # Findings are ordered by file, then by line.
    ([rule("users = [5]") + mark("modules = ['z']"), rule("users = [4]")], ["0.toml:3: warning: users: this system has no user with uid 5", "0.toml:6: warning: modules: kernel 6.1 has no module named 'z'", "1.toml:3: warning: users: this system has no user with uid 4"]),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "sentences"), SHADOWED)
def test_shadowed_rows_and_the_order_of_findings(texts: list[str], sentences: list[str]) -> None:
    assert findings(*texts) == sentences


def test_names_that_must_be_looked_up() -> None:
    found = names_in(
        [policy(rule("users = [5, 'root']\nexecutables = ['/a', '/b*']") + rule("groups = ['audio', 7]")), policy("")]
    )
    assert found == NamesInPolicy(frozenset({0, 5}), frozenset({7, 29}), frozenset({"/a"}))
