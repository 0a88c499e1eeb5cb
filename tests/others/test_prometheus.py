"""Metrics: Prometheus' own tools accept them, the dashboard uses existing metrics, and alerts fire when they must."""

import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.commands.metrics import as_text
from safe_modprobe.admin.health.assess import assess
from safe_modprobe.admin.records.metrics import metrics
from tests.unit.admin.records.test_metrics import COUNTED, GOOD

TOP = Path(__file__).resolve().parents[2]
PROMTOOL = TOP / ".cache/promtool"
RULES = TOP / "packaging/prometheus/safe-modprobe.rules.yml"
DASHBOARD = TOP / "packaging/grafana/safe-modprobe.json"


def promtool(*arguments: object, given: str | None = None) -> tuple[int, str]:
    done = subprocess.run([PROMTOOL, *map(str, arguments)], input=given, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


TEXT = as_text(metrics(GOOD, assess(GOOD), COUNTED, 88.5, "1.2"))


def test_promtool_accepts_the_metrics() -> None:
    assert promtool("check", "metrics", given=TEXT) == (0, "")


@pytest.mark.parametrize("wrong", ["# TYPE a_b counter\na_b 1\n", "a{", "# HELP a \n# TYPE a gauge\na 1\n"])
def test_promtool_rejects_wrong_metrics(wrong: str) -> None:
    assert promtool("check", "metrics", given=wrong)[0] != 0


NAMES = {sample.name for family in text_string_to_metric_families(TEXT) for sample in family.samples}
NODE_EXPORTERS = {"node_textfile_mtime_seconds"}


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:safe_modprobe|node)_\w+", expression))


def expressions() -> dict[str, str]:
    """Return the expression of every panel by its title, with the dashboard's variables filled in."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            filled = target["expr"].replace("$__rate_interval", "5m").replace("$instance", "a|b")
            found[f"{panel['title']} {target['refId']}"] = filled
    return found


@pytest.mark.parametrize("title", expressions())
def test_a_panel_uses_existing_metrics(title: str) -> None:
    names = names_in(expressions()[title])
    assert names and names <= NAMES


def test_every_expression_of_the_dashboard_is_valid_promql(tmp_path: Path) -> None:
    rules = [{"record": f"r{number}", "expr": expr} for number, expr in enumerate(expressions().values())]
    (tmp_path / "r.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    code, message = promtool("check", "rules", tmp_path / "r.yml")
    assert (code, f"{len(rules)} rules found" in message) == (0, True), message
    rules[0]["expr"] += " by ("
    (tmp_path / "r.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    assert promtool("check", "rules", tmp_path / "r.yml")[0] != 0


def test_the_dashboard_has_unique_ids_used_variables_and_no_overlaps() -> None:
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


def test_the_alert_rules_use_existing_metrics() -> None:
    code, message = promtool("check", "rules", RULES)
    assert code == 0, message
    used = names_in("\n".join(re.findall(r"expr: (.*)", RULES.read_text())))
    assert used <= NAMES | NODE_EXPORTERS and len(used) > 5


AlertRow = tuple[str, int, dict[str, str], list[str]]
"""(situation, time of the check in minutes or hours, {series: values per minute or hour}, the alerts that fire)"""

ALERTS: list[AlertRow] = [
    ("all is well", 60, {"enabled": "1x90", "protecting": "1x90", "trial": "0x90", "policy_valid": "1x90"}, []),
    ("off", 11, {"enabled": "0x90", "protecting": "0x90", "trial": "0x90"}, ["SafeModprobeOff"]),
    ("off for nine minutes", 9, {"enabled": "0x90", "protecting": "0x90", "trial": "0x90"}, []),
    ("enabled, but not protecting", 11, {"enabled": "1x90", "protecting": "0x90", "trial": "0x90"}, ["SafeModprobeDoesNotProtect"]),
    ("a trial", 60, {"enabled": "1x90", "protecting": "0x90", "trial": "1x90"}, []),
    ("the policy is broken", 6, {"policy_valid": "0x90"}, ["SafeModprobePolicyBroken"]),
    ("the policy is repaired", 20, {"policy_valid": "0x9 1x90"}, []),
    ("many refusals", 20, {'requests_total{verdict="deny"}': "0+5x90"}, ["SafeModprobeManyRefusals"]),
    ("many refusals over two origins", 20, {'requests_total{verdict="deny",origin="a"}': "0+2x90", 'requests_total{verdict="deny",origin="b"}': "0+2x90"}, ["SafeModprobeManyRefusals"]),
    ("few refusals", 20, {'requests_total{verdict="deny"}': "0+1x90"}, []),
    ("many verdicts that are not refusals", 20, {'requests_total{verdict="allow"}': "0+5x90"}, []),
    ("a reboot is not a burst of refusals", 20, {'requests_total{verdict="deny"}': "900x15 0x90"}, []),
    ("rate-limited refusals", 20, {'records_suppressed_total{kind="deny"}': "0x15 9x90"}, ["SafeModprobeFlood"]),
    ("rate-limited refusals long ago", 60, {'records_suppressed_total{kind="deny"}': "0x15 9x90"}, []),
    ("refusals of unknown callers", 20, {'requests_total{source="none",verdict="deny"}': "0x15 9x90"}, ["SafeModprobeNobodyKnowsWhoAsks"]),
    ("unknown callers, but nothing to decide", 20, {'requests_total{source="none",verdict="none"}': "0x15 9x90"}, []),
    ("the weak source proc", 61, {"enabled": "1x90", "protecting": "1x90", 'source_in_use{source="proc"}': "1x90"}, ["SafeModprobeWeakSource"]),
    ("the weak source proc while off", 9, {"enabled": "0x90", 'source_in_use{source="proc"}': "1x90"}, []),
    ("old metrics", 20, {'node_textfile_mtime_seconds{file="/x/safe-modprobe.prom"}': "1x90"}, ["SafeModprobeNumbersAreOld"]),
    ("an old file of another program", 20, {'node_textfile_mtime_seconds{file="/x/apt.prom"}': "1x90"}, []),
]  # fmt: skip

ALERTS_BY_THE_HOUR: list[AlertRow] = [
    ("a trial for over two weeks", 14 * 24 + 1, {"trial": "1x345"}, ["SafeModprobeTrialGoesOn"]),
    ("a trial for almost two weeks", 14 * 24 - 1, {"trial": "1x345"}, []),
]


def series(name: str) -> str:
    bare, brace, labels = name.partition("{")
    whole = bare if bare.startswith("node_") else f"safe_modprobe_{bare}"
    return f'{whole}{{instance="a"{"," if brace else ""}{labels if brace else "}"}'


def test_alerts(tmp_path: Path) -> None:
    """promtool's own unit tests check each row: exactly these alerts fire."""
    every = re.findall(r"alert: (\w+)", RULES.read_text())
    assert {alert for *_, expected in [*ALERTS, *ALERTS_BY_THE_HOUR] for alert in expected} == set(
        every
    ), "a row for each"
    for unit, rows in (("m", ALERTS), ("h", ALERTS_BY_THE_HOUR)):
        code, message = promtool("test", "rules", alert_tests(tmp_path, unit, rows, every))
        assert code == 0, message
    wrong = [("a wrong row, which promtool must notice", 11, {"enabled": "0x90"}, [])]
    assert promtool("test", "rules", alert_tests(tmp_path, "m", wrong, every))[0] != 0


def alert_tests(folder: Path, unit: str, rows: list[AlertRow], alerts: list[str]) -> Path:
    """Write promtool's file of tests, with one sample and one evaluation in each unit of time."""
    tests = []
    for what, when, given, expected in rows:
        checks = []
        for alert in alerts:
            # An alert_rule_test would compare all labels and annotations. These rows only check which alerts fire.
            expr = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
            samples = [{"labels": "{}", "value": 1}] if alert in expected else []
            checks.append({"expr": expr, "eval_time": f"{when}{unit}", "exp_samples": samples})
        values = [{"series": series(name), "values": value} for name, value in given.items()]
        tests.append({"name": what, "interval": f"1{unit}", "input_series": values, "promql_expr_test": checks})
    document: dict[str, Any] = {"rule_files": [str(RULES)], "evaluation_interval": f"1{unit}", "tests": tests}
    (folder / "t.yml").write_text(json.dumps(document))
    return folder / "t.yml"


def test_output_replaces_the_file_atomically(tmp_path: Path) -> None:
    path = tmp_path / "safe-modprobe.prom"
    path.write_text("old")
    before = os.stat(path).st_ino
    assert main(["metrics", "--output", str(path)]) == 0
    assert os.stat(path).st_ino != before and stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert promtool("check", "metrics", given=path.read_text()) == (0, "")
    assert [each.name for each in tmp_path.iterdir()] == [
        "safe-modprobe.prom"
    ], "node_exporter would also read a draft that stayed behind"
