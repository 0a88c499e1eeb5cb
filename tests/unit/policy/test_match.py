"""Which row of the policy matches, and which rules need more details about the caller."""

import time

import pytest

from safe_modprobe.callers.kernel_args import UNNAMED_CALLER, claimed_caller, parse
from safe_modprobe.decide import needs_details
from safe_modprobe.model import Caller, Claim
from safe_modprobe.policy.match import alias_glob, call_site, first_mark, first_rule, glob, matches_caller
from tests.unit.make import ROOT, UNKNOWN, USER, caller, policy

GLOBS = [
    ("*", "", True), ("*", "a\nb", True), ("a", "a", True), ("a", "ab", False), ("", "a", False), ("a*", "a", True),
    ("a*", "ba", False), ("a*c", "abc", True), ("a*c", "ab", False), ("?", "\n", True), ("?", "", False),
    ("[ab]c", "bc", True), ("[!ab]c", "bc", False), ("A", "a", False), ("a.b", "axb", False), ("a+", "aa", False),
    ("\\*", "x", False), ("a*", "\udcff", False), ("*\udcff", "x\udcff", True),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "text", "matches"), GLOBS)
def test_glob(pattern: str, text: str, matches: bool) -> None:
    assert glob(pattern, text) is matches


ALIASES = [
    ("af_alg", "af-alg", True), ("af-alg", "af_alg", True), ("net-pf-38", "net_pf_38", True), ("net-pf-38", "net-pf-3", False),
    ("[a-c]-x", "b_x", True), ("[a-c]-x", "-_x", False), ("fs-*", "fs_x", True), ("fs-*", "afs-x", False),
    ("x[-]y", "x-y", False),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "text", "matches"), ALIASES)
def test_alias_glob_takes_dashes_for_underscores(pattern: str, text: str, matches: bool) -> None:
    assert alias_glob(pattern, text) is matches


def test_a_pattern_of_many_stars_takes_no_exponential_time() -> None:
    started = time.process_time()
    assert not glob("*a*a*a*a*a*a*b", "a" * 100_000)
    assert time.process_time() - started < 20, "exponential time would never end"


RULES = [
    ('users = [1000]', USER, True), ('users = ["asterisk"]', USER, False), ('users = [0]', USER, False),
    ('users = [1000]', USER._replace(euid=0), False), ('users = [0]', USER._replace(euid=0), False),
    ('users = [0, 1000]', USER._replace(euid=0), True), ('groups = [1000]', USER, True), ('groups = [29]', USER, False),
    ('groups = ["audio"]', USER._replace(gids=frozenset({29})), True),
    ('capabilities = ["CAP_NET_ADMIN"]', caller(1, "CAP_NET_ADMIN"), True),
    ('capabilities = ["CAP_NET_ADMIN"]', caller(1, "CAP_NET_ADMIN", initial=False), False),
    ('capabilities = ["CAP_NET_ADMIN"]', USER, False), ('capabilities = ["CAP_NET_RAW", "CAP_BPF"]', caller(1, "CAP_BPF"), True),
    ('units = ["a.service"]', USER._replace(unit="a.service"), True), ('units = ["a.service"]', USER, False),
    ('units = ["a*"]', USER._replace(unit="b.service"), False),
    ('executables = ["/usr/bin/x"]', USER._replace(executable="/usr/bin/x"), True),
    ('executables = ["/usr/bin/*"]', USER, False),
    ('call_sites = ["inet_create"]', USER._replace(call_site="inet_create"), True),
    ('call_sites = ["f"]', USER._replace(call_site="f [mod]"), True),
    ('call_sites = ["f [[]mod]"]', USER._replace(call_site="f [mod]"), True),
    ('call_sites = ["g"]', USER._replace(call_site="f [mod]"), False), ('call_sites = ["f"]', USER, False),
    ('user_namespace = "initial"', USER, True), ('user_namespace = "other"', USER, False),
    ('user_namespace = "other"', caller(1, initial=False), True), ('no_new_privs = true', USER, False),
    ('no_new_privs = true', USER._replace(no_new_privs=True), True), ('callers = "known"', USER, True),
    ('callers = "unknown"', USER, False), ('callers = "unknown"', UNKNOWN, True), ('callers = "known"', UNKNOWN, False),
    ('users = [1000]', UNKNOWN, False), ('user_namespace = "other"', UNKNOWN, False), ('no_new_privs = false', UNKNOWN, False),
    ('modules = ["m"]', UNKNOWN, True), ('modules = ["n"]', USER, False), ('aliases = ["net-*"]', USER, True),
    ('aliases = ["fs-*"]', USER, False), ('modules = ["m"], users = [7]', USER, False),
    ('modules = ["n", "m"], users = [7, 1000]', USER, True), ('executables = ["*"]', ROOT, False),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "who", "matches"), RULES)
def test_every_key_given_must_match(keys: str, who: Caller, matches: bool) -> None:
    rules = policy(f'rule = [{{ {keys}, action = "allow" }}]')
    assert (first_rule(rules, parse(["net-pf-38"]).request, who, "m") is not None) is matches


CLAIMED = claimed_caller(Claim(True, 1000))
"""A caller whose uid is known from kernel arguments, and no other detail."""
NET_HELD = claimed_caller(Claim(True, 1000, capabilities=1 << 12))
MAY_HOLD_NET = USER._replace(capabilities=0, may_hold=1 << 12)
"""A caller of kernel arguments with details from tracefs. Its further capabilities are known and do not count."""

YES, NO, OPEN = True, False, None
INCOMPLETE = [
    # A rule's keys, a caller with unknown details, and the match for an allow and for a deny rule.
    ("users = [1000]", CLAIMED, YES, YES), ("users = [1001]", CLAIMED, NO, OPEN), ("users = [0]", UNNAMED_CALLER, OPEN, OPEN),
    ("groups = [29]", CLAIMED, OPEN, OPEN), ("groups = [29]", USER, NO, NO), ("groups = [29]", UNNAMED_CALLER, OPEN, OPEN),
    ('units = ["a.service"]', CLAIMED, OPEN, OPEN), ('units = ["a.service"]', UNNAMED_CALLER, OPEN, OPEN),
    ('units = ["a.service"]', USER, NO, NO), ('executables = ["/x"]', CLAIMED, OPEN, OPEN),
    ('executables = ["/x"]', UNNAMED_CALLER, OPEN, OPEN), ('call_sites = ["f"]', CLAIMED, OPEN, OPEN),
    ('call_sites = ["f"]', UNNAMED_CALLER, OPEN, OPEN), ("no_new_privs = true", CLAIMED, OPEN, OPEN),
    ("no_new_privs = false", UNNAMED_CALLER, OPEN, OPEN), ('user_namespace = "other"', CLAIMED, OPEN, OPEN),
    ('user_namespace = "initial"', CLAIMED, OPEN, OPEN), ('user_namespace = "other"', NET_HELD, NO, NO),
    ('user_namespace = "initial"', NET_HELD, YES, YES), ('user_namespace = "initial"', UNNAMED_CALLER, YES, YES),
    ('user_namespace = "other"', UNNAMED_CALLER, NO, NO), ('capabilities = ["CAP_NET_ADMIN"]', CLAIMED, OPEN, OPEN),
    ('capabilities = ["CAP_NET_ADMIN"]', NET_HELD, YES, YES), ('capabilities = ["CAP_BPF"]', NET_HELD, OPEN, OPEN),
    ('capabilities = ["CAP_SYS_MODULE"]', CLAIMED, NO, NO), ('capabilities = ["CAP_SYS_MODULE"]', UNNAMED_CALLER, YES, YES),
    ('capabilities = ["CAP_BPF"]', UNNAMED_CALLER, YES, YES), ('capabilities = ["CAP_NET_ADMIN"]', MAY_HOLD_NET, OPEN, OPEN),
    ('capabilities = ["CAP_BPF"]', MAY_HOLD_NET, NO, NO),
    ('capabilities = ["CAP_NET_ADMIN"]', MAY_HOLD_NET._replace(initial_user_namespace=False), NO, NO),
    ('callers = "known"', CLAIMED, YES, YES), ('callers = "unknown"', CLAIMED, NO, NO), ('callers = "unknown"', UNNAMED_CALLER, NO, NO),
    # A key that does not match decides. An undecided key leaves the match open.
    ('units = ["a.service"], users = [1001]', CLAIMED, NO, OPEN), ('units = ["a.service"], users = [1000]', CLAIMED, OPEN, OPEN),
    ('units = ["a.service"], user_namespace = "other"', UNNAMED_CALLER, NO, NO),
    ('units = ["a.service"], callers = "unknown"', CLAIMED, NO, NO),
    ('units = ["a.service"], no_new_privs = false', USER._replace(unit="a.service", no_new_privs=None), OPEN, OPEN),
    # An unreadable stack (kernel.yama.ptrace_scope=3) leaves the call site open.
    ('call_sites = ["f"]', USER._replace(call_site=""), OPEN, OPEN), ('call_sites = ["*"]', ROOT._replace(call_site=""), OPEN, OPEN),
    ('call_sites = ["f"]', USER._replace(call_site="g"), NO, NO), ('call_sites = ["f"]', USER._replace(call_site="f [m]"), YES, YES),
    ('call_sites = ["f"], users = [7]', USER._replace(call_site=""), NO, NO), ('modules = ["m"]', USER._replace(call_site=""), YES, YES),
    # For an unknown caller no key about the task matches, in a deny rule either.
    ('units = ["a.service"]', UNKNOWN, NO, NO), ("users = [0]", claimed_caller(Claim(True)), NO, NO),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "who", "for_allow", "for_deny"), INCOMPLETE)
def test_with_incomplete_information_only_a_deny_rule_matches(
    keys: str, who: Caller, for_allow: bool | None, for_deny: bool | None
) -> None:
    request = parse(["net-pf-38"]).request
    for action, answer in (("allow", for_allow), ("log", for_allow), ("deny", for_deny)):
        rules = policy(f'rule = [{{ {keys}, action = "{action}" }}]')
        matches = answer or (answer is None and action == "deny")
        assert matches_caller(rules.rules[0], who) is answer, action
        assert (first_rule(rules, request, who, "m") is not None) is matches, action


DETAILS = [
    # A rule, and whether it needs details beyond kernel arguments: for uid 1000, and for an unnamed caller.
    ('modules = ["m"], action = "deny"', False, False), ('units = ["a.service"], action = "deny"', True, True),
    ('units = ["a.service"], action = "allow"', True, False), ('aliases = ["net-*"], groups = [1], action = "deny"', True, True),
    ('aliases = ["fs-*"], groups = [1], action = "deny"', False, False), ('aliases = ["NET-*"], groups = [1], action = "deny"', False, False),
    ('aliases = ["net_pf_38"], executables = ["/x"], action = "log"', True, True),
    ('users = [1001], units = ["a.service"], action = "allow"', False, False),
    # An allow rule may match by the real uid, but the effective uid could still decide differently.
    ('users = [1000], action = "allow"', True, False), ('users = [1001], action = "allow"', False, False),
    ('users = [1000], action = "deny"', True, True), ('users = [1001], action = "deny"', True, True),
    ('user_namespace = "other", action = "deny"', True, False), ('capabilities = ["CAP_BPF"], action = "deny"', True, False),
    ('capabilities = ["CAP_SYS_MODULE"], action = "allow"', False, False), ('callers = "unknown", action = "deny"', False, False),
    # CAP_SYS_MODULE needs no allow rule, unless a later rule would refuse or record the request.
    ('units = ["a.service"], action = "log"', True, True), ('units = ["a.service"], action = "allow", quiet = true', True, True),
    ('users = [0], action = "allow" }, { action = "deny", modules = ["m"]', False, True),
    ('users = [0], action = "allow" }, { action = "log", modules = ["m"]', False, True),
    ('users = [0], action = "allow" }, { action = "allow", modules = ["m"], quiet = true', False, True),
    ('users = [0], action = "allow" }, { action = "deny", users = [7]', True, True),
    ('users = [0], action = "allow" }, { action = "allow", modules = ["m"]', False, False),
    ('users = [0], action = "allow" }, { action = "deny", aliases = ["fs-*"]', False, False),
    ('users = [0], action = "allow" }, { action = "deny", user_namespace = "other"', True, False),
    ('action = "deny", modules = ["m"] }, { users = [0], action = "allow"', False, False),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "claimed", "unnamed"), DETAILS)
def test_whether_a_rule_needs_details_of_the_caller(rule: str, claimed: bool, unnamed: bool) -> None:
    rules, request = policy(f"rule = [{{ {rule} }}]"), parse(["net-pf-38"]).request
    assert [needs_details(rules, request, who) for who in (CLAIMED, UNNAMED_CALLER)] == [claimed, unnamed]
    assert not needs_details(rules, request, UNKNOWN) and not needs_details(rules, request, USER)


@pytest.mark.parametrize(("uid", "euid"), [(1000, 0), (0, 1000), (1000, 1000)])
def test_a_deny_rule_for_a_user_matches_either_uid(uid: int, euid: int) -> None:
    rules = policy('rule = [{ users = [1000], action = "deny" }]')
    assert first_rule(rules, parse(["x"]).request, USER._replace(uid=uid, euid=euid), "m") is not None


def test_the_first_row_wins() -> None:
    rules = policy(
        'mark = [{ modules = ["n"], privileged = true }, { modules = ["m*"], privileged = false }, { modules = ["m"], privileged = true }]\n'
        'call_site = [{ aliases = ["a*"], deputy = true }, { aliases = ["ab"], capability = "CAP_BPF" }]'
    )
    mark, site = first_mark(rules, "x", "m"), call_site(rules, "ab")
    assert mark is not None and mark.capability is None
    assert site is not None and site.deputy
    assert first_mark(rules, "x", "other") is None
    assert call_site(rules, "b") is None
