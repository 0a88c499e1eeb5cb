"""The helper's speed, as ratios of one run: in dry run, on a real module tree, in a root of Debian's own.

Runs interleave, so that a noisy neighbour is everyone's; medians are compared. Exit 1 above the bounds.
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
    """A command, and whether the bounds are for it."""

    name: str
    command: list[str]
    bound: bool = False


def rows(version: str) -> list[Row]:
    tree = ["-d", "/", "-S", version, "--"]
    found, nothing = "net-pf-2-proto-132", "net-pf-21-type-99"
    return [
        Row("python3 -IS -c pass", ["/usr/bin/python3", "-IS", "-c", "pass"]),
        Row("modprobe -n, four modules", ["/sbin/modprobe", "-n", "-q", *tree, found]),
        Row("modprobe -n, nothing answers", ["/sbin/modprobe", "-n", "-q", *tree, nothing]),
        Row("safe-modprobe -n, four modules", ["/usr/sbin/safe-modprobe", "-n", "-q", *tree, found], True),
        Row("safe-modprobe -n, nothing answers", ["/usr/sbin/safe-modprobe", "-n", "-q", *tree, nothing], True),
    ]


def rounds_in(where: Path, commands: list[list[str]]) -> Iterator[list[tuple[float, float]]]:
    """measure.py's rounds, in the root."""
    shutil.copy(Path(__file__).with_name("measure.py"), where / "measure.py")
    command = ["chroot", where, "/usr/bin/python3", "-IS", "/measure.py", str(ROUNDS + WARM), json.dumps(commands)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"measure.py ended with {process.returncode}")


def main() -> int:
    linux = kernel("bookworm")
    where = installed("bare", linux)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise SystemExit("the benchmark mounts /proc in a root of its own, and needs root for that")
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
            if number >= WARM:  # the first rounds fill the page cache
                times[row.name].append(seconds)
                peak[row.name] = max(peak.get(row.name, 0.0), mib)
    return show(every, {name: statistics.median(found) for name, found in times.items()}, peak)


def show(every: list[Row], median: dict[str, float], peak: dict[str, float]) -> int:
    bare, plain = median[every[0].name], median[every[1].name]
    table = Table(title=f"medians of {ROUNDS} interleaved runs")
    for head in ("command", "ms", "× bare python3", "× modprobe -n", "peak MiB"):
        table.add_column(head, justify="left" if head == "command" else "right")
    worst = 0.0
    for row in every:
        ratio = median[row.name] / bare
        worst = max(worst, ratio if row.bound else 0)
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
    fine = worst <= MOST_TIMES_BARE and memory <= MOST_MIB
    bounds = f"at most {MOST_TIMES_BARE} × bare and {MOST_MIB:.0f} MiB"
    print(f"{bounds}: {'met' if fine else 'NOT MET'} ({worst:.2f} ×, {memory:.1f} MiB)")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
