"""Metrics: what they say of a machine, and that Prometheus, its own tools and Grafana take them."""

import json
import math
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from safe_modprobe.counts import KINDS, Counts
from safe_modprobe.ctl.main import main
from safe_modprobe.ctl.metrics import as_text
from safe_modprobe.health.assess import assess
from safe_modprobe.health.facts import Facts, Tracing
from safe_modprobe.metrics import metrics
from safe_modprobe.model import Action
from tests.unit.make import policy

TOP = Path(__file__).resolve().parents[2]
PROMTOOL = TOP / ".cache/promtool"
RULES = TOP / "packaging/prometheus/safe-modprobe.rules.yml"
DASHBOARD = TOP / "packaging/grafana/safe-modprobe.json"

GOOD = Facts(policy("[settings]\nmode = 'marked'\n[[mark]]\nmodules = ['m']\nprivileged = true\n"), digest="d" * 64)
COUNTED = Counts(
    {("deny", "tracefs", "50-x.toml"): 5, ("none", "none", "none"): 7, ("deny", "proc", 'a"\\x0a'): 1},
    {"deny": 470},
    99,
)


def numbers(facts: Facts = GOOD, counts: Counts = COUNTED, changed: float | None = 88.5) -> dict[str, float]:
    """`name{label="value",…}` -> value, as a server reads the text."""
    text = as_text(metrics(facts, assess(facts), counts, changed, "1.2"))
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix('safe_modprobe_')}{{{labels}}}"] = sample.value
    return found


ROWS: list[tuple[str, Facts, str, float]] = [
    ("on", GOOD, "enabled{}", 1),
    ("off", GOOD._replace(ours=False), "enabled{}", 0),
    ("on and well", GOOD, "protecting{}", 1),
    ("off does not protect", GOOD._replace(ours=False), "protecting{}", 0),
    ("a trial does not protect", GOOD._replace(policy=policy("[settings]\ntrial = true\n")), "protecting{}", 0),
    ("a trial is on", GOOD._replace(policy=policy("[settings]\ntrial = true\n")), "enabled{}", 1),
    ("a trial", GOOD._replace(policy=policy("[settings]\ntrial = true\n")), "trial{}", 1),
    ("no trial", GOOD, "trial{}", 0),
    ("no module may be loaded", GOOD._replace(modules_disabled=True), "problems{severity=moot}", 1),
    ("nothing wrong", GOOD, "problems{severity=moot}", 0),
    ("a broken policy", GOOD._replace(policy_error="x:1: y"), "policy_valid{}", 0),
    ("a right policy", GOOD, "policy_valid{}", 1),
    ("no instance", GOOD._replace(tracing=Tracing(there=False)), "source_ready{source=tracefs}", 0),
    ("no instance, so proc", GOOD._replace(tracing=Tracing(there=False)), "source_in_use{source=proc}", 1),
    ("tracefs", GOOD, "source_in_use{source=tracefs}", 1),
    ("proc stands by", GOOD, "source_in_use{source=proc}", 0),
    ("proc could", GOOD, "source_ready{source=proc}", 1),
    ("bpf is not there", GOOD, "source_ready{source=bpf}", 0),
    ("lost", GOOD._replace(tracing=Tracing(lost=12)), "trace_lost_events_total{}", 12),
    ("requests", GOOD, "requests_total{origin=50-x.toml,source=tracefs,verdict=deny}", 5),
    ("an odd origin", GOOD, 'requests_total{origin=a"\\x0a,source=proc,verdict=deny}', 1),
    ("suppressed", GOOD, "records_suppressed_total{kind=deny}", 470),
    ("none suppressed", GOOD, "records_suppressed_total{kind=left}", 0),
    ("the last refusal", GOOD, "last_refusal_timestamp_seconds{}", 99),
    ("the last change", GOOD, "policy_change_timestamp_seconds{}", 88.5),
    ("rows", GOOD, "policy_rows{kind=mark}", 1),
    ("no rows", GOOD, "policy_rows{kind=rule}", 0),
    ("digest", GOOD, f"policy_info{{digest={'d' * 64},mismatch=deny,mode=marked}}", 1),
    ("version", GOOD, "build_info{version=1.2}", 1),
]


@pytest.mark.parametrize(("facts", "name", "value"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_number(facts: Facts, name: str, value: float) -> None:
    assert numbers(facts)[name] == value


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("last_refusal_timestamp_seconds{}", numbers(counts=Counts())),
        ("policy_change_timestamp_seconds{}", numbers(changed=None)),
        ("trace_lost_events_total{}", numbers(GOOD._replace(tracing=Tracing(there=False)))),
        ("trace_lost_events_total{}", numbers(GOOD._replace(tracing=Tracing(refused="EPERM")))),
    ],
)
def test_what_nobody_knows_is_left_out(name: str, without: dict[str, float]) -> None:
    assert name in numbers() and name not in without


def test_no_label_is_a_callers_choice() -> None:
    """The labels that there are, and for each what bounds its values."""
    bounded = {
        "verdict": [*map(str, Action), "none"], "kind": [*KINDS, "rule", "mark", "call_site"],
        "severity": ["moot", "weaker", "note"], "source": ["kernel-args", "bpf", "tracefs", "proc", "none"],
    }  # fmt: skip
    for name in numbers():
        for key, _, value in (pair.partition("=") for pair in name.partition("{")[2][:-1].split(",") if pair):
            assert value in bounded.get(key, [value]) and key in {
                *bounded,
                "origin",
                "mode",
                "mismatch",
                "digest",
                "version",
            }


def promtool(*arguments: object, given: str | None = None) -> tuple[int, str]:
    done = subprocess.run([PROMTOOL, *map(str, arguments)], input=given, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


TEXT = as_text(metrics(GOOD, assess(GOOD), COUNTED, 88.5, "1.2"))


def test_prometheus_own_linter_finds_nothing() -> None:
    assert promtool("check", "metrics", given=TEXT) == (0, "")


@pytest.mark.parametrize("wrong", ["# TYPE a_b counter\na_b 1\n", "a{", "# HELP a \n# TYPE a gauge\na 1\n"])
def test_that_linter_would_find_something(wrong: str) -> None:
    assert promtool("check", "metrics", given=wrong)[0] != 0


NAMES = {sample.name for family in text_string_to_metric_families(TEXT) for sample in family.samples}
NODE_EXPORTERS = {"node_textfile_mtime_seconds"}


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:safe_modprobe|node)_\w+", expression))


def expressions() -> dict[str, str]:
    """Of every panel, with the dashboard's variables as Grafana would fill them in."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            filled = target["expr"].replace("$__rate_interval", "5m").replace("$instance", "a|b")
            found[f"{panel['title']} {target['refId']}"] = filled
    return found


@pytest.mark.parametrize("title", expressions())
def test_a_panel_asks_for_numbers_that_there_are(title: str) -> None:
    names = names_in(expressions()[title])
    assert names and names <= NAMES


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"r{number}", "expr": expr} for number, expr in enumerate(expressions().values())]
    (tmp_path / "r.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    code, said = promtool("check", "rules", tmp_path / "r.yml")
    assert (code, f"{len(rules)} rules found" in said) == (0, True), said
    rules[0]["expr"] += " by ("
    (tmp_path / "r.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    assert promtool("check", "rules", tmp_path / "r.yml")[0] != 0


def test_the_dashboard_is_one() -> None:
    found = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    variables = {each["name"] for each in found["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()))
    assert used == variables
    for one in found["panels"]:
        for other in found["panels"]:
            a, b = one["gridPos"], other["gridPos"]
            apart = (
                a["x"] + a["w"] <= b["x"]
                or b["x"] + b["w"] <= a["x"]
                or a["y"] + a["h"] <= b["y"]
                or b["y"] + b["h"] <= a["y"]
            )
            assert one is other or apart, (one["title"], other["title"])


def test_the_rules_ask_for_numbers_that_there_are() -> None:
    code, said = promtool("check", "rules", RULES)
    assert code == 0, said
    asked = names_in("\n".join(re.findall(r"expr: (.*)", RULES.read_text())))
    assert asked <= NAMES | NODE_EXPORTERS and len(asked) > 5


AlertRow = tuple[str, int, dict[str, str], list[str]]
"""(what, after how many minutes, or hours, {series: values a minute, or an hour}, the alerts)"""

ALERTS: list[AlertRow] = [
    ("all is well", 60, {"enabled": "1x90", "protecting": "1x90", "trial": "0x90", "policy_valid": "1x90"}, []),
    ("off", 11, {"enabled": "0x90", "protecting": "0x90", "trial": "0x90"}, ["SafeModprobeOff"]),
    ("off for a moment", 9, {"enabled": "0x90", "protecting": "0x90", "trial": "0x90"}, []),
    ("moot", 11, {"enabled": "1x90", "protecting": "0x90", "trial": "0x90"}, ["SafeModprobeDoesNotProtect"]),
    ("a trial", 60, {"enabled": "1x90", "protecting": "0x90", "trial": "1x90"}, []),
    ("broken", 6, {"policy_valid": "0x90"}, ["SafeModprobePolicyBroken"]),
    ("mended", 20, {"policy_valid": "0x9 1x90"}, []),
    ("many refusals", 20, {'requests_total{verdict="deny"}': "0+5x90"}, ["SafeModprobeManyRefusals"]),
    ("over two origins", 20, {'requests_total{verdict="deny",origin="a"}': "0+2x90", 'requests_total{verdict="deny",origin="b"}': "0+2x90"}, ["SafeModprobeManyRefusals"]),
    ("few", 20, {'requests_total{verdict="deny"}': "0+1x90"}, []),
    ("many of another kind", 20, {'requests_total{verdict="allow"}': "0+5x90"}, []),
    ("a reboot is no burst", 20, {'requests_total{verdict="deny"}': "900x15 0x90"}, []),
    ("a flood", 20, {'records_suppressed_total{kind="deny"}': "0x15 9x90"}, ["SafeModprobeFlood"]),
    ("long ago", 60, {'records_suppressed_total{kind="deny"}': "0x15 9x90"}, []),
    ("nobody knows", 20, {'requests_total{source="none",verdict="deny"}': "0x15 9x90"}, ["SafeModprobeNobodyKnowsWhoAsks"]),
    ("nobody has to", 20, {'requests_total{source="none",verdict="none"}': "0x15 9x90"}, []),
    ("proc", 61, {"enabled": "1x90", "protecting": "1x90", 'source_in_use{source="proc"}': "1x90"}, ["SafeModprobeWeakSource"]),
    ("proc, and off", 9, {"enabled": "0x90", 'source_in_use{source="proc"}': "1x90"}, []),
    ("old", 20, {'node_textfile_mtime_seconds{file="/x/safe-modprobe.prom"}': "1x90"}, ["SafeModprobeNumbersAreOld"]),
    ("another's", 20, {'node_textfile_mtime_seconds{file="/x/apt.prom"}': "1x90"}, []),
]  # fmt: skip

ALERTS_BY_THE_HOUR: list[AlertRow] = [
    ("two weeks of a trial", 14 * 24 + 1, {"trial": "1x345"}, ["SafeModprobeTrialGoesOn"]),
    ("nearly", 14 * 24 - 1, {"trial": "1x345"}, []),
]


def series(name: str) -> str:
    bare, brace, labels = name.partition("{")
    whole = bare if bare.startswith("node_") else f"safe_modprobe_{bare}"
    return f'{whole}{{instance="a"{"," if brace else ""}{labels if brace else "}"}'


def test_alerts(tmp_path: Path) -> None:
    """Each row by promtool's own unit test: the alerts that fire then, and no others."""
    every = re.findall(r"alert: (\w+)", RULES.read_text())
    assert {alert for *_, expected in [*ALERTS, *ALERTS_BY_THE_HOUR] for alert in expected} == set(
        every
    ), "a row for each"
    for unit, rows in (("m", ALERTS), ("h", ALERTS_BY_THE_HOUR)):
        code, said = promtool("test", "rules", alert_tests(tmp_path, unit, rows, every))
        assert code == 0, said
    wrong = [("it would notice", 11, {"enabled": "0x90"}, [])]
    assert promtool("test", "rules", alert_tests(tmp_path, "m", wrong, every))[0] != 0


def alert_tests(folder: Path, unit: str, rows: list[AlertRow], alerts: list[str]) -> Path:
    """A file for promtool, whose numbers are taken and looked at once in each unit of time."""
    tests = []
    for what, when, given, expected in rows:
        checks = []
        for alert in alerts:
            # promtool compares labels and annotations in full; that is not what these rows are about.
            expr = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
            samples = [{"labels": "{}", "value": 1}] if alert in expected else []
            checks.append({"expr": expr, "eval_time": f"{when}{unit}", "exp_samples": samples})
        values = [{"series": series(name), "values": value} for name, value in given.items()]
        tests.append({"name": what, "interval": f"1{unit}", "input_series": values, "promql_expr_test": checks})
    document: dict[str, Any] = {"rule_files": [str(RULES)], "evaluation_interval": f"1{unit}", "tests": tests}
    (folder / "t.yml").write_text(json.dumps(document))
    return folder / "t.yml"


# The command itself, on whatever machine this is.


def test_output_is_written_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "safe-modprobe.prom"
    path.write_text("old")
    before = os.stat(path).st_ino
    assert main(["metrics", "--output", str(path)]) == 0
    assert os.stat(path).st_ino != before and stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert promtool("check", "metrics", given=path.read_text()) == (0, "")
    assert [each.name for each in tmp_path.iterdir()] == [
        "safe-modprobe.prom"
    ], "node_exporter would read the draft, too"


def test_json_and_text_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["metrics"]) == 0
    families = text_string_to_metric_families(capsys.readouterr().out)
    text = {sample.name: sample.value for family in families for sample in family.samples}
    assert text.keys() == found.keys()
    assert all(math.isfinite(each["value"]) for values in found.values() for each in values)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--output", "{}/none/x.prom"], "--output: {}/none: no such folder; give node_exporter's --collector.textfile.directory"),
        (["--output", "{}/link"], "{}/link: it is a link to /etc/passwd, which is not followed; nothing was changed, remove the link or edit what it leads to"),
        (["--output", "{}"], "{}: it is not a file; nothing was changed, remove it"),
        (["--output", "{}/x.prom", "--json"], "--output: it is for the text format; let the shell write what --json prints"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert main(["metrics", *(word.format(tmp_path) for word in argv)]) == 1
    assert capsys.readouterr() == ("", f"safe-modprobectl: {text.format(tmp_path)}\n")


@pytest.mark.parametrize("command", ["metrics", "repeats"])
def test_they_are_roots(command: str) -> None:
    code = f"import os, sys; os.setuid(65534); from safe_modprobe.ctl.main import main; sys.exit(main(['{command}']))"
    done = subprocess.run([str(TOP / ".cache/venv/bin/python3"), "-c", code], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"safe-modprobectl: {command}: what is ")
