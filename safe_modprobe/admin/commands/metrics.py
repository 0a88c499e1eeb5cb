"""`metrics`: numbers for Prometheus, by way of node_exporter's textfile collector: what was asked for, and is all well.

Counters begin with the boot. No label holds what a caller can choose (names, user ids), so that their number stays
small; those are in the log.
"""

import argparse
import os
from collections.abc import Iterator
from typing import Any

from safe_modprobe import __version__
from safe_modprobe.admin.commands.output import print_json
from safe_modprobe.admin.commands.parsers import Commands, add_command, add_json
from safe_modprobe.admin.commands.status import assess_machine
from safe_modprobe.admin.policy.atomic_write import open_draft
from safe_modprobe.admin.records.metrics import Metric, metrics
from safe_modprobe.errors import UsageError
from safe_modprobe.log.counts_file import read_counts
from safe_modprobe.policy.cache import last_change
from safe_modprobe.policy.dropins import FOLDERS

_EXAMPLES = """
  safe-modprobectl metrics
  safe-modprobectl metrics --output /var/lib/prometheus/node-exporter/safe-modprobe.prom
  safe-modprobectl metrics --json | jq '.safe_modprobe_protecting'
"""


def add_parser(commands: Commands) -> None:
    """Add `metrics`."""
    parser = add_command(commands, "metrics", "numbers for Prometheus", __doc__, _EXAMPLES)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write them there, in one step; what safe-modprobe-metrics.timer does"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0, whatever the numbers say."""
    if os.geteuid() != 0:
        raise UsageError("metrics: what is in /run/safe-modprobe is root's alone to see; run it as root")
    if arguments.json and arguments.output is not None:
        raise UsageError("--output: it is for the text format; let the shell write what --json prints")
    facts, health = assess_machine()
    every = metrics(facts, health, read_counts(), last_change(FOLDERS), __version__)
    if arguments.json:
        print_json({each.name + "_total" * each.counter: _as_json(each) for each in every})
    elif arguments.output is None:
        print(as_text(every), end="")
    else:
        _write(arguments.output, as_text(every))
    return 0


def _as_json(metric: Metric) -> list[dict[str, Any]]:
    return [{"labels": dict(labels), "value": value} for labels, value in metric.samples]


def as_text(every: tuple[Metric, ...]) -> str:
    """Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector

    class OfThem(Collector):
        """What prometheus_client asks for the numbers."""

        def collect(self) -> Iterator[Family]:
            """One after the other."""
            for each in every:
                names = sorted({name for labels, _ in each.samples for name in labels})
                made = CounterMetricFamily if each.counter else GaugeMetricFamily
                family = made(each.name, each.help, labels=names)
                for labels, value in each.samples:
                    family.add_metric([labels[name] for name in names], value)
                yield family

    registry = CollectorRegistry()
    registry.register(OfThem())
    return generate_latest(registry).decode()


def _write(path: str, text: str) -> None:
    """In the place of the old one in one step: node_exporter reads it at any time. Raises SafeModprobeError."""
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise UsageError(f"--output: {folder}: no such folder; give node_exporter's --collector.textfile.directory")
    with open_draft(path) as draft:
        draft.commit(text.encode())
