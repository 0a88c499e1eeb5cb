"""`metrics`: print metrics for Prometheus: how many requests were decided, and whether safe-modprobe is healthy.

node_exporter's textfile collector reads them from a file. Counters start at boot. Names and user ids are in the log
only; as labels, they would let a caller create any number of time series.
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
    parser = add_command(commands, "metrics", "print metrics for Prometheus", __doc__, _EXAMPLES)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="replace FILE atomically; safe-modprobe-metrics.timer does this every minute",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 0, whatever the values are."""
    if os.geteuid() != 0:
        raise UsageError("metrics: only root can read /run/safe-modprobe; run it as root")
    if arguments.json and arguments.output is not None:
        raise UsageError("--output: it writes the text format only; to save JSON, redirect the output of --json")
    facts, health = assess_machine()
    values = metrics(facts, health, read_counts(), last_change(FOLDERS), __version__)
    if arguments.json:
        print_json({each.name + "_total" * each.counter: _as_json(each) for each in values})
    elif arguments.output is None:
        print(as_text(values), end="")
    else:
        _write(arguments.output, as_text(values))
    return 0


def _as_json(metric: Metric) -> list[dict[str, Any]]:
    return [{"labels": dict(labels), "value": value} for labels, value in metric.samples]


def as_text(values: tuple[Metric, ...]) -> str:
    """Return the metrics in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector

    class MetricsCollector(Collector):
        """The collector from which prometheus_client gets the values."""

        def collect(self) -> Iterator[Family]:
            """Yield each metric with its samples."""
            for each in values:
                names = sorted({name for labels, _ in each.samples for name in labels})
                family_type = CounterMetricFamily if each.counter else GaugeMetricFamily
                family = family_type(each.name, each.help, labels=names)
                for labels, value in each.samples:
                    family.add_metric([labels[name] for name in names], value)
                yield family

    registry = CollectorRegistry()
    registry.register(MetricsCollector())
    return generate_latest(registry).decode()


def _write(path: str, text: str) -> None:
    """Replace the file atomically, because node_exporter may read it at any time. Raises SafeModprobeError."""
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise UsageError(f"--output: {folder}: no such folder; give node_exporter's --collector.textfile.directory")
    with open_draft(path) as draft:
        draft.commit(text.encode())
