"""Measure dry runs of the helper on a real module tree, as ratios to python3 and modprobe, in a Debian root.

The runs of all commands interleave, so that other load affects them equally. Medians are compared. The exit code is 1
above the bounds.
"""

import ctypes
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.vm.kernels import kernel
from tests.vm.product import installed

ROUNDS = 60
WARM = 3
MOST_TIMES_BARE = 4.5
MOST_MIB = 20.0
CLONE_NEWNS = 0x00020000


class Row(NamedTuple):
    """A command to measure, and whether the bounds apply to it."""

    name: str
    command: list[str]
    bound: bool = False


def rows(version: str) -> list[Row]:
    tree = ["-d", "/", "-S", version, "--"]
    found, unknown = "net-pf-2-proto-132", "net-pf-21-type-99"
    return [
        Row("python3 -IS -c pass", ["/usr/bin/python3", "-IS", "-c", "pass"]),
        Row("modprobe -n, four modules", ["/sbin/modprobe", "-n", "-q", *tree, found]),
        Row("modprobe -n, unknown alias", ["/sbin/modprobe", "-n", "-q", *tree, unknown]),
        Row("safe-modprobe -n, four modules", ["/usr/sbin/safe-modprobe", "-n", "-q", *tree, found], True),
        Row("safe-modprobe -n, unknown alias", ["/usr/sbin/safe-modprobe", "-n", "-q", *tree, unknown], True),
    ]


def rounds_in(where: Path, commands: list[list[str]]) -> Iterator[list[tuple[float, float]]]:
    """Run measure.py in the root, and yield its rounds."""
    shutil.copy(Path(__file__).with_name("measure.py"), where / "measure.py")
    command = ["chroot", where, "/usr/bin/python3", "-IS", "/measure.py", str(ROUNDS + WARM), json.dumps(commands)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"measure.py failed with exit code {process.returncode}")


def main() -> int:
    linux = kernel("bookworm")
    where = installed("bare", linux)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise SystemExit("run the benchmark as root; it mounts /proc in a root of its own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for name in ("proc", "dev"):
        subprocess.run(["mount", "--rbind", f"/{name}", where / name], check=True)
    every = rows(linux.version)
    times: dict[str, list[float]] = {row.name: [] for row in every}
    peak: dict[str, float] = {}
    rounds = rounds_in(where, [row.command for row in every])
    for number, round_ in enumerate(
        track(rounds, "measuring", ROUNDS + WARM, console=Console(stderr=True), transient=True)
    ):
        for row, (seconds, mib) in zip(every, round_, strict=True):
            if number >= WARM:  # The first rounds fill the page cache.
                times[row.name].append(seconds)
                peak[row.name] = max(peak.get(row.name, 0.0), mib)
    return show(every, {name: statistics.median(found) for name, found in times.items()}, peak)


def show(every: list[Row], median: dict[str, float], peak: dict[str, float]) -> int:
    bare, plain = median[every[0].name], median[every[1].name]
    table = Table(title=f"medians of {ROUNDS} interleaved runs")
    for head in ("command", "ms", "× bare python3", "× modprobe -n", "peak MiB"):
        table.add_column(head, justify="left" if head == "command" else "right")
    highest = 0.0
    for row in every:
        ratio = median[row.name] / bare
        highest = max(highest, ratio if row.bound else 0)
        style = "bold" if row.bound else ""
        numbers = (
            f"{median[row.name] * 1e3:.1f}",
            f"{ratio:.2f}",
            f"{median[row.name] / plain:.1f}",
            f"{peak[row.name]:.1f}",
        )
        table.add_row(row.name, *numbers, style=style)
    Console().print(table)
    memory = max(peak[row.name] for row in every if row.bound)
    met = highest <= MOST_TIMES_BARE and memory <= MOST_MIB
    bounds = f"at most {MOST_TIMES_BARE} × bare and {MOST_MIB:.0f} MiB"
    print(f"{bounds}: {'met' if met else 'NOT MET'} ({highest:.2f} ×, {memory:.1f} MiB)")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
