"""What `explain` prints: the request, the caller, each step, the line that decides and the rule that would allow it."""

import json
from pathlib import Path

import pytest

from safe_modprobe.admin.commands.machine import Machine
from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.commands.verdicts import as_json, as_text
from safe_modprobe.callers import find
from safe_modprobe.callers.kernel_args import parse
from safe_modprobe.decide import decide
from safe_modprobe.model import Caller, Plan
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from tests.unit.make import ROOT, UNKNOWN, USER, N, Y, plan, policy, step

HARD = plan(step("d", Y), step("m", N, "d"))
SITE = '[[call_site]]\naliases = ["x"]\ncapability = "CAP_NET_ADMIN"\n'
RULE = ["         [[rule]]", '         action = "allow"']
TEXTS = [
    (
        SITE + '[[mark]]\nmodules = ["m"]\nprivileged = "marker"\n',
        USER._replace(tid=7, comm="a\n", unit="u.service"),
        HARD,
        [
            "request  x",
            "caller   uid 1000 tid 7 'a\\x0a' of u.service",
            "         holds no capability",
            "site     CAP_NET_ADMIN suffices [50-test.toml:1]",
            "target   m (new)",
            "  step   d                    marker Y      mark -",
            "         deny: its marker is privileged=Y; the caller lacks the required capability (CAP_SYS_MODULE or CAP_NET_ADMIN) [/m/d.ko]",
            "  step   m                    marker N      mark left to its marker [50-test.toml:4]",
            "         deny: needs d, which is refused (its marker is privileged=Y; the caller lacks the required capability (CAP_SYS_MODULE or CAP_NET_ADMIN)) [/m/d.ko]",
            "verdict  denied 'x' (d, m) to uid 1000 tid 7 'a\\x0a' of u.service: d: its marker is privileged=Y; the caller lacks the required capability (CAP_SYS_MODULE or CAP_NET_ADMIN) [/m/d.ko]",
            "remedy   in /etc/safe-modprobe/policy.d/10-site.toml:",
            *RULE,
            '         modules = ["d", "m"]',
            "         users = [1000]",
            '         units = ["u.service"]',
            '         user_namespace = "initial"',
        ],
    ),
    (
        '[[mark]]\nmodules = ["m"]\nprivileged = false\n',
        ROOT,
        plan(step("m")),
        [
            "request  x",
            "caller   uid 0",
            "         holds every capability",
            "target   m (new)",
            "  step   m                    marker -      mark unprivileged [50-test.toml:1]",
            "         allow: marked [50-test.toml:1]",
            "verdict  allowed 'x' (m) to uid 0: m: marked [50-test.toml:1]",
        ],
    ),
    (
        '[settings]\nmode = "disabled"\n[[call_site]]\naliases = ["x"]\ndeputy = true\n',
        ROOT,
        plan(step("m")),
        [
            "request  x",
            "caller   uid 0",
            "         holds every capability",
            "site     asked for by a deputy [50-test.toml:3]",
            "target   m (new)",
            "  step   m                    marker -      mark -",
            "         deny: mode is disabled, so no caller may load a module [50-test.toml:2]",
            "verdict  denied 'x' (m) to uid 0: m: mode is disabled, so no caller may load a module [50-test.toml:2]",
            "remedy   change the mode, which takes precedence over any new rule",
        ],
    ),
    (
        "",
        USER,
        plan(step("s", Y), step("m")),
        [
            "request  x",
            "caller   uid 1000",
            "         holds no capability",
            "target   m (new)",
            "  step   s                    marker Y      mark -",
            "         deny: its marker is privileged=Y; the caller lacks the required capability (CAP_SYS_MODULE) [/m/s.ko]",
            "  step   m                    marker -      mark -",
            "         allow: not marked [built-in]",
            "verdict  allowed 'x' (s, m) to uid 1000: m: not marked [built-in]; without its soft dependencies s",
            "remedy   in /etc/safe-modprobe/policy.d/10-site.toml:",
            *RULE,
            '         modules = ["s"]',
            "         users = [1000]",
            '         user_namespace = "initial"',
        ],
    ),
    (
        "",
        UNKNOWN,
        Plan("x"),
        [
            "request  x",
            "caller   an unknown caller (none)",
            "         holds no capability",
            "plan     no module answers",
            "verdict  allowed 'x' to an unknown caller (none): no module matches this alias [built-in]",
        ],
    ),
]


@pytest.mark.parametrize(("text", "caller", "steps", "lines"), TEXTS)
def test_text_of_a_verdict(text: str, caller: Caller, steps: Plan, lines: list[str]) -> None:
    found = policy(text)
    assert as_text(found, decide(found, parse(["x"]).request, caller, steps)) == lines


def test_the_remedy_names_the_inspected_systems_file() -> None:
    lines = as_text(policy(""), decide(policy(""), parse(["x"]).request, USER, HARD), "/mnt/etc/10-site.toml")
    assert "remedy   in /mnt/etc/10-site.toml:" in lines


def test_no_rule_is_proposed_that_would_replace_the_built_in_policy() -> None:
    """The rule would be the whole policy, in mode `marked`. Every unmarked module would be allowed to everyone."""
    lines = as_text(BUILTIN_POLICY, decide(BUILTIN_POLICY, parse(["x"]).request, USER, HARD))
    assert lines[-1] == (
        "remedy   install the default policy first; a single rule would replace the built-in policy,"
        " and every unmarked module would be allowed"
    )


def test_json_of_a_verdict() -> None:
    text = SITE + '[[mark]]\nmodules = ["m"]\nprivileged = "marker"\n'
    found = as_json(policy(text), decide(policy(text), parse(["x"]).request, USER, HARD))
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [
        "alias", "verdict", "reason", "origin", "caller", "targets", "steps", "call_site", "remedy", "barred",
    ]  # fmt: skip
    assert (found["verdict"], found["origin"], found["barred"]) == ("deny", "/m/d.ko", None)
    assert found["call_site"] == {"grants": "CAP_NET_ADMIN suffices", "origin": "50-test.toml:1"}
    assert [(each["module"], each["needs"], each["mark"]) for each in found["steps"]] == [
        ("d", "CAP_SYS_MODULE", None),
        ("m", "CAP_SYS_MODULE", "left to its marker"),
    ]
    assert decide(policy(found["remedy"] + text), parse(["x"]).request, USER, HARD).action == "allow"


def test_json_has_no_remedy_if_the_mode_decides() -> None:
    text = '[settings]\nmode = "disabled"'
    found = as_json(policy(text), decide(policy(text), parse(["x"]).request, USER, HARD))
    assert (found["remedy"], found["barred"]) == (None, "the mode")


@pytest.mark.parametrize(
    ("running", "promise", "code"),
    [(True, b"1\n", 0), (True, b"0\n", 1), (True, None, 1), (False, b"1\n", 1)],
)
def test_a_bare_interface_name_is_judged_by_the_running_kernels_promise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, running: bool, promise: bytes | None, code: int
) -> None:
    """The promise of the running kernel says nothing about an image's kernel."""
    if promise is not None:
        (tmp_path / "promise").write_bytes(promise)
    monkeypatch.setattr(find, "CALLER_ARGS_SYSCTL", str(tmp_path / "promise"))
    monkeypatch.setattr(Machine, "running", lambda self: running)
    monkeypatch.setattr(Machine, "policy", lambda self: policy(""))
    monkeypatch.setattr(Machine, "plan", lambda self, request: plan(step("m", N)))
    assert main(["explain", "m", "--uid", "0", "--kernel-arg", "grsec_modharden_netdev"]) == code
