"""Metrics of a machine. Tests with Prometheus itself are in tests/others."""

import json
import math
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.commands.metrics import as_text
from safe_modprobe.admin.health.assess import assess
from safe_modprobe.admin.health.facts import Facts, Tracing
from safe_modprobe.admin.records.metrics import metrics
from safe_modprobe.log.counts import KINDS, Counts
from safe_modprobe.model import Action
from tests.unit.make import policy

TOP = Path(__file__).resolve().parents[4]

GOOD = Facts(policy("[settings]\nmode = 'marked'\n[[mark]]\nmodules = ['m']\nprivileged = true\n"), digest="d" * 64)
COUNTED = Counts(
    {("deny", "tracefs", "50-x.toml"): 5, ("none", "none", "none"): 7, ("deny", "proc", 'a"\\x0a'): 1},
    {"deny": 470},
    99,
)


def numbers(facts: Facts = GOOD, counts: Counts = COUNTED, changed: float | None = 88.5) -> dict[str, float]:
    """Return {`name{label=value,…}`: value}, as a Prometheus server parses the text."""
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
def test_each_metric_has_the_expected_value(facts: Facts, name: str, value: float) -> None:
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
def test_a_metric_with_an_unknown_value_is_omitted(name: str, without: dict[str, float]) -> None:
    assert name in numbers() and name not in without


def test_a_caller_cannot_choose_a_label() -> None:
    """Every label is known here, with the set that bounds its values."""
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


# The command itself, on the machine that runs the tests.


def test_json_and_text_have_the_same_metrics(capsys: pytest.CaptureFixture[str]) -> None:
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
        (["--output", "{}/link"], "{}/link: it is a link to /etc/passwd, and links are not followed; nothing was changed; remove the link or edit its target"),
        (["--output", "{}"], "{}: it is not a file; nothing was changed, remove it"),
        (["--output", "{}/x.prom", "--json"], "--output: it writes the text format only; to save JSON, redirect the output of --json"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert main(["metrics", *(word.format(tmp_path) for word in argv)]) == 1
    assert capsys.readouterr() == ("", f"safe-modprobectl: {text.format(tmp_path)}\n")


@pytest.mark.parametrize("command", ["metrics", "repeats"])
def test_the_command_needs_root(command: str) -> None:
    code = f"import os, sys; os.setuid(65534); from safe_modprobe.admin.commands.main import main; sys.exit(main(['{command}']))"
    done = subprocess.run([str(TOP / ".cache/venv/bin/python3"), "-c", code], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"safe-modprobectl: {command}: only root can read ")
