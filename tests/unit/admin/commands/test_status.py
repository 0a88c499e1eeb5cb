"""`status`: the printed text and the JSON, for given facts and recorded verdicts."""

import json
from datetime import UTC, datetime

import pytest

from safe_modprobe.admin.commands import status
from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.health.assess import assess
from safe_modprobe.admin.health.facts import Facts, Tracing
from safe_modprobe.admin.records.history import Event
from safe_modprobe.model import Action, Source
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from tests.unit.make import policy

GOOD = Facts(policy("[settings]\nmode = 'marked'\n"), kernel="6.1", digest="0123456789abcdef" * 4)
HOSTILE = "a\n\x1b[31mb' \udcff"
EVENT = Event(
    "c=1", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), Action.DENY, HOSTILE, ("af_alg",), source=Source.TRACEFS, uid=1000,
    euid=1000, tid=7, comm="\x1b]0;x\x07", initial_user_namespace=True, origin="50-a.toml:3",
)  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str], facts: Facts, events: list[Event], missing: str = "") -> list[str]:
    health = assess(facts)
    status._show([*status._summary(facts, health, events, missing), *status._problems(health)])
    return capsys.readouterr().out.splitlines()


def test_a_good_machine_fits_on_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, GOOD, []) == [
        "safe-modprobe is on and protects",
        "kernel    6.1",
        "at boot   switched on",
        "mode      marked [50-test.toml:2]; on a mismatch: deny [built-in]",
        "sources   tracefs in use, proc stands by",
        "          kernel-args unused: this kernel passes none",
        "          bpf unused: this version has no BPF program that records callers",
        "policy    no rules, no marks, no call sites; sha256 0123456789abcdef…",
        "          p/: 50-test.toml",
        "verdicts  none yet",
    ]


def test_each_problem_is_shown_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(
        capsys, GOOD._replace(modules_disabled=True, tracing=Tracing(there=False)), [], "there is no journal"
    )
    assert lines[0] == "safe-modprobe is on and does not protect: 1 problem makes it moot"
    assert lines[-5:] == [
        "verdicts  there is no journal",
        "moot      kernel.modules_disabled is 1, so no module can be loaded until the next boot",
        "          → nothing if this is intended; otherwise find the line in sysctl.d that sets it, remove it and reboot",
        "weaker    the tracing instance does not exist, so only /proc identifies callers, and root may be refused while"
        " users make requests",
        "          → run 'safe-modprobectl enable --runtime' to create it again",
    ]


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        ({}, "safe-modprobe is on and protects"),
        ({"ours": False, "current": "/sbin/modprobe"}, "safe-modprobe is off: kernel.modprobe is /sbin/modprobe"),
        ({"ours": False, "current": ""}, "safe-modprobe is off: kernel.modprobe is empty"),
        ({"ours": False, "current": None}, "safe-modprobe is off: kernel.modprobe is missing"),
        ({"ours": False, "current": "/a\x1b[2Jb"}, "safe-modprobe is off: kernel.modprobe is /a\\x1b[2Jb"),
        (
            {"policy": policy("[settings]\ntrial = true\n")},
            "safe-modprobe is on trial: nothing is refused, so it does not protect",
        ),
        (
            {"modules_disabled": True, "bset": 0},
            "safe-modprobe is on and does not protect: 2 problems make it moot",
        ),
        ({"policy": BUILTIN_POLICY, "policy_error": "x"}, "safe-modprobe is on and protects"),
    ],
)
def test_the_first_line_is_the_answer(
    capsys: pytest.CaptureFixture[str], changed: dict[str, object], first: str
) -> None:
    assert printed(capsys, GOOD._replace(**changed), [])[0] == first  # type: ignore[arg-type]


def test_untrusted_names_cannot_control_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, GOOD._replace(policy_error="a\x1b[2Jb\nmoot  forged"), [EVENT, EVENT])
    shown = [line for line in lines if "af_alg" in line]
    assert [line[:9].strip() for line in shown] == ["verdicts", ""]
    assert shown[0].endswith(" deny 'a\\x0a\\x1b[31mb\\x27 \\xff' (af_alg) to uid 1000 tid 7 '\\x1b]0;x\\x07'"), shown[
        0
    ]
    assert all(line.isprintable() for line in lines), lines
    assert "policy    broken, so the built-in policy is in force: no rules, no marks, no call sites" in lines


def test_json_always_has_the_same_keys() -> None:
    facts = GOOD._replace(tracing=Tracing(there=False))
    found = json.loads(json.dumps(status.as_json(facts, assess(facts), [EVENT], "")))
    assert found == {
        "state": "on",
        "protects": True,
        "kernel": "6.1",
        "helper": "/usr/sbin/safe-modprobe",
        "at_boot": True,
        "mode": "marked",
        "mismatch": "deny",
        "sources": [
            {"source": "kernel-args", "use": "unused", "why": "this kernel passes none"},
            {
                "source": "bpf",
                "use": "unused",
                "why": "this version has no BPF program that records callers",
            },
            {"source": "tracefs", "use": "unused", "why": "the tracing instance does not exist"},
            {"source": "proc", "use": "in use", "why": ""},
        ],
        "policy": {
            "files": ["p/50-test.toml"],
            "digest": "0123456789abcdef" * 4,
            "error": None,
            "rules": 0,
            "marks": 0,
            "call_sites": 0,
        },
        "verdicts": [
            {
                "time": "2026-01-02T03:04:05+00:00",
                "verdict": "deny",
                "alias": HOSTILE,
                "modules": ["af_alg"],
                "uid": 1000,
                "comm": "\x1b]0;x\x07",
                "unit": None,
                "origin": "50-a.toml:3",
                "cursor": "c=1",
            }
        ],
        "verdicts_missing": None,
        "problems": [
            {
                "key": "tracefs",
                "severity": "weaker",
                "what": "the tracing instance does not exist, so only /proc identifies callers, and root may be refused"
                " while users make requests",
                "mend": "run 'safe-modprobectl enable --runtime' to create it again",
            }
        ],
    }
    less = GOOD._replace(policy=BUILTIN_POLICY, policy_error="why", digest="", current=None, ours=False)
    other = status.as_json(less, assess(less), [], "no journal")
    assert other.keys() == found.keys()
    assert other["policy"] | {"files": []} == {
        "files": [], "digest": None, "error": "why", "rules": 0, "marks": 0, "call_sites": 3,
    }  # fmt: skip
    assert (other["verdicts"], other["verdicts_missing"]) == ([], "no journal")


def test_status_runs_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """This machine's kernel runs another helper, or none."""
    assert main(["status", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["protects"]) == ("off", False)
    assert {"no-modules", "no-helper", "other-helper"} & {each["key"] for each in found["problems"]}
    assert main(["status"]) == 3
    assert capsys.readouterr().out.startswith("safe-modprobe is off: kernel.modprobe is ")


@pytest.mark.parametrize("arguments", [["status", "--root", "/"], ["status", "--kernel", "6.1"], ["status", "x"]])
def test_status_takes_no_image_and_no_argument(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err
