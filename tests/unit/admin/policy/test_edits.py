"""A requested edit -> the drop-in edit after which decide() fulfills it, or the error why there is none."""

import pytest

from safe_modprobe.admin.policy.edits import Candidate, PlannedEdit, RequestedEdit, Verb, plan_edit, verdicts
from safe_modprobe.errors import PolicyError, UsageError
from safe_modprobe.model import BY_MARKER, UNMARKED, Action, Policy, Step, Target, TargetState
from safe_modprobe.policy.schema import build
from tests.unit.make import NET, N, NoAccounts, Y, cap, step

NAME = "10-site.toml"
DEFAULT = """
[[mark]]
aliases = ["net-pf-*"]
privileged = "CAP_NET_ADMIN"
reason = "a class"
[[mark]]
modules = ["bad*"]
privileged = true
reason = "a list"
"""


def candidate(*steps: Step, aliases: tuple[str, ...] = ()) -> Candidate:
    name = steps[-1].module
    return Candidate(Target(name, TargetState.NEW, steps), (name, *aliases))


PLAIN = candidate(step("plain"))
BAD = candidate(step("bad"))
BY_CLASS = candidate(step("proto"), aliases=("net-pf-9",))
NEEDS = candidate(step("low"), step("mid", UNMARKED, "low"), step("top", UNMARKED, "mid", "low"), aliases=("net-pf-9",))
SOFT = candidate(step("bad_soft"), step("top"))
MARKER = candidate(step("marker", Y))
OPENED = candidate(step("opened", N))
NET_MARKER = candidate(step("net", NET))

MARK = RequestedEdit(Verb.MARK, {"privileged": True, "reason": "r"})
MARK_NET = RequestedEdit(Verb.MARK, {"privileged": "CAP_NET_ADMIN", "reason": "r"}, cap("CAP_NET_ADMIN"))
UNMARK = RequestedEdit(Verb.UNMARK, {"privileged": BY_MARKER, "reason": "r"})
OVER = RequestedEdit(Verb.UNMARK, {"privileged": False, "reason": "r"})
ALLOW = RequestedEdit(Verb.ALLOW, {"users": [1001], "action": "allow", "reason": "r"}, None, (1001,))
ALLOW_UNIT = RequestedEdit(
    Verb.ALLOW, {"units": ["a.service"], "action": "allow", "reason": "r"}, None, (), ("a.service",)
)


def in_force(text: str, before: str = "", after: str = DEFAULT) -> Policy:
    files = [("e/05-a.toml", before.encode()), (f"e/{NAME}", text.encode()), ("u/50-d.toml", after.encode())]
    return build(files, NoAccounts())


def edit(text: str, requested: RequestedEdit, *candidates: Candidate, **more: str) -> PlannedEdit:
    return plan_edit(text, NAME, requested, candidates, lambda draft: in_force(draft, **more))


def mark(*modules: str, privileged: str = "true") -> str:
    names = ", ".join(f'"{name}"' for name in modules)
    return f'[[mark]]\nmodules = [{names}]\nprivileged = {privileged}\nreason = "r"\n'


def rule(*modules: str, who: str = "users = [1001]", action: str = "allow") -> str:
    names = ", ".join(f'"{name}"' for name in modules)
    return f'[[rule]]\nmodules = [{names}]\n{who}\naction = "{action}"\nreason = "r"\n'


BY = '"marker"'


@pytest.mark.parametrize(
    ("requested", "candidates", "text", "after"),
    [
        # Nothing to do.
        (MARK, [BAD], "", ""),
        (MARK, [MARKER], "", ""),
        (MARK, [NET_MARKER], "", ""),
        (MARK_NET, [NET_MARKER], "", ""),
        (MARK, [PLAIN], mark("plain"), mark("plain")),
        (MARK, [PLAIN], mark("pl*", privileged='"CAP_SYS_ADMIN"'), mark("pl*", privileged='"CAP_SYS_ADMIN"')),
        (UNMARK, [PLAIN, OPENED], "", ""),
        (OVER, [PLAIN], "", ""),
        (UNMARK, [BAD], mark("bad", privileged=BY), mark("bad", privileged=BY)),
        (ALLOW, [PLAIN], "", ""),
        (ALLOW, [BAD], rule("bad"), rule("bad")),
        (ALLOW, [BAD], mark("bad", privileged="false"), mark("bad", privileged="false")),
        # A row at the end.
        (MARK, [PLAIN], "# x\n", "# x\n\n" + mark("plain")),
        (MARK, [PLAIN, BAD, OPENED], "", mark("plain", "opened")),
        (MARK_NET, [BAD], "", mark("bad", privileged='"CAP_NET_ADMIN"')),
        (MARK, [BY_CLASS], "", mark("proto")),
        (UNMARK, [BAD], "", mark("bad", privileged=BY)),
        (UNMARK, [BY_CLASS], "", mark("proto", privileged=BY)),
        (OVER, [MARKER], "", mark("marker", privileged="false")),
        (ALLOW, [BAD], "", rule("bad")),
        (ALLOW, [BAD, PLAIN, MARKER], "", rule("bad", "marker")),
        (ALLOW_UNIT, [BAD], "", rule("bad", who='units = ["a.service"]')),
        # Required dependencies are added, soft dependencies are not.
        (ALLOW, [NEEDS], "", rule("top", "low", "mid")),
        (UNMARK, [NEEDS], "", mark("top", "low", "mid", privileged=BY)),
        (ALLOW, [SOFT], "", ""),
        (MARK, [NEEDS], "", mark("top")),
        # The row goes before the row of this file that would decide first.
        (ALLOW, [BAD], rule("bad", action="deny"), rule("bad") + "\n" + rule("bad", action="deny")),
        (ALLOW, [BAD], rule("x") + "\n" + rule("b*", who="", action="log"), rule("x") + "\n" + rule("bad") + "\n" + rule("b*", who="", action="log")),
        (ALLOW, [BAD], rule("bad", action="deny") + "\n" + rule("b*", action="deny"), rule("bad") + "\n" + rule("bad", action="deny") + "\n" + rule("b*", action="deny")),
        (MARK, [PLAIN], mark("pl*", privileged="false"), mark("plain") + "\n" + mark("pl*", privileged="false")),
        (UNMARK, [BAD], mark("b*"), mark("bad", privileged=BY) + "\n" + mark("b*")),
        # A contradicting row of this file is removed, if nothing else decides otherwise.
        (UNMARK, [PLAIN], mark("plain"), ""),
        (UNMARK, [PLAIN], mark("other", "plain"), mark("other")),
        (UNMARK, [PLAIN], mark("plain") + "\n" + rule("x"), rule("x")),
        (MARK, [BAD], mark("bad", privileged=BY), ""),
        (MARK, [BAD], mark("bad", privileged="false"), ""),
        (MARK, [PLAIN], mark("plain", privileged="false"), mark("plain")),
        (MARK_NET, [PLAIN], mark("plain"), mark("plain", privileged='"CAP_NET_ADMIN"')),
        (UNMARK, [BAD], mark("bad"), mark("bad", privileged=BY)),
        (OVER, [MARKER], mark("marker", privileged=BY), mark("marker", privileged="false")),
    ],
)  # fmt: skip
def test_edit(requested: RequestedEdit, candidates: list[Candidate], text: str, after: str) -> None:
    done = edit(text, requested, *candidates)
    assert done.text == after
    assert edit(done.text, requested, *candidates) == PlannedEdit(after), "the same request again changes the text"
    # The reported line is the line of the row.
    assert (done.line == 0) == (not done.modules)
    if done.line:
        assert done.text.splitlines()[done.line - 1] == f"[[{requested.table}]]"


@pytest.mark.parametrize("setting", ['mode = "disabled"', 'mismatch = "log"', "trial = true", 'mismatch = "allow"'])
def test_a_mark_is_written_regardless_of_settings_that_may_change(setting: str) -> None:
    assert edit("", MARK, PLAIN, before=f"[settings]\n{setting}\n").text == mark("plain")


def test_removed_and_added_modules_are_reported() -> None:
    assert edit(mark("plain"), UNMARK, PLAIN) == PlannedEdit("", taken_out=("plain",))
    done = edit("", ALLOW, NEEDS)
    assert (done.line, done.modules, done.added) == (1, ("top",), ("low", "mid"))


CHANGED = "that decides first, so change it there"


@pytest.mark.parametrize(
    ("requested", "candidates", "text", "before", "sentence"),
    [
        (ALLOW, BAD, "", rule("bad", action="deny"), f"05-a.toml:1: bad: r; {CHANGED}"),
        (ALLOW, BAD, "", rule("b*", who="", action="log"), f"05-a.toml:1: bad: r; {CHANGED}"),
        (ALLOW, BAD, "", '[settings]\nmode = "disabled"\n', f"05-a.toml:2: bad: mode is disabled, so no caller may load a module; {CHANGED}"),
        (UNMARK, PLAIN, "", mark("plain"), f"05-a.toml:1: plain: r; the caller lacks the required capability (CAP_SYS_MODULE); {CHANGED}"),
        (UNMARK, BAD, "", rule("bad", who="", action="deny"), f"05-a.toml:1: bad: r; {CHANGED}"),
        (UNMARK, BAD, rule("bad", who="", action="deny"), "", f"10-site.toml:1: bad: r; {CHANGED}"),
        (UNMARK, BAD, "", '[settings]\nmode = "disabled"\n', f"05-a.toml:2: bad: mode is disabled, so no caller may load a module; {CHANGED}"),
        (
            UNMARK,
            MARKER,
            "",
            "",
            "/m/marker.ko: marker: its marker is privileged=Y; the caller lacks the required capability (CAP_SYS_MODULE);"
            " no mark is the cause; add --over-marker to open the module to everyone",
        ),
        (
            UNMARK,
            BAD,
            "",
            '[settings]\nmode = "privileged"\n',
            "05-a.toml:2: bad: mode is privileged, so every module needs privilege; the caller lacks the required capability"
            " (CAP_SYS_MODULE); no mark is the cause; add --over-marker to open the module to everyone",
        ),
        (OVER, PLAIN, "", mark("plain"), f"05-a.toml:1: plain: r; the caller lacks the required capability (CAP_SYS_MODULE); {CHANGED}"),
        (MARK, PLAIN, "", mark("plain", privileged="false"), f"05-a.toml:1: plain: r; {CHANGED}"),
        (MARK, PLAIN, "", rule("plain", who=""), f"05-a.toml:1: plain: r; {CHANGED}"),
        (MARK, PLAIN, rule("plain", who=""), "", f"10-site.toml:1: plain: r; {CHANGED}"),
        (MARK_NET, PLAIN, "", mark("plain"), f"05-a.toml:1: plain: r; the caller lacks the required capability (CAP_SYS_MODULE); {CHANGED}"),
        (MARK, PLAIN, mark("plain"), rule("plain", who=""), f"05-a.toml:1: plain: r; {CHANGED}"),
        (MARK, PLAIN, "", '[settings]\nmode = "allowed"\n', "05-a.toml:2: plain: mode is allowed, so marks have no effect"),
    ],
)  # fmt: skip
def test_an_edit_that_no_row_of_this_file_can_achieve(
    requested: RequestedEdit, candidates: Candidate, text: str, before: str, sentence: str
) -> None:
    with pytest.raises(UsageError) as caught:
        edit(text, requested, candidates, before=before)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "after", "sentence"),
    [
        ("nonsense", DEFAULT, "e/10-site.toml:1: Expected '=' after a key in a key/value pair, so this is not TOML"),
        ("", "rule = 1\n", "u/50-d.toml:1: rule: 1 is not an array of tables; write [[rule]]"),
    ],
)
def test_a_broken_policy_is_not_edited(text: str, after: str, sentence: str) -> None:
    with pytest.raises(PolicyError) as caught:
        edit(text, MARK, PLAIN, after=after)
    assert str(caught.value) == sentence


def test_a_mark_is_judged_for_a_uid_that_no_rule_names() -> None:
    named = list(range(60_000, 60_011))
    policy = in_force(f'[[rule]]\nmodules = ["*"]\nusers = {named}\naction = "allow"\n')
    (verdict,) = verdicts(policy, MARK, BAD)
    assert verdict.action is Action.DENY and verdict.caller.uid == 60_011
