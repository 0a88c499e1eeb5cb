"""Boot a machine several times on one disk, so that an installation and its effect on the next boot can be tested."""

import shutil
import tomllib
from pathlib import Path
from typing import NamedTuple

from tests.vm import qemu
from tests.vm.cache import CACHE, Progress, run, say
from tests.vm.disks import disk
from tests.vm.kernels import kernel
from tests.vm.product import deb
from tests.vm.qemu import Result, archive_job, drive, power_on
from tests.vm.roots import suite_of

HERE = Path(__file__).parent
_MEMORY, _SECONDS = 1536, 600


class Machine(NamedTuple):
    """The content of tests/boot/machines/NAME/machine.toml: a kernel, a root, and the scenarios of each boot."""

    name: str
    boots: tuple[qemu.Machine, ...]


def machine(name: str) -> Machine:
    """Read tests/boot/machines/NAME/machine.toml."""
    values = tomllib.loads((HERE / "machines" / name / "machine.toml").read_text())
    boots = values.pop("boot")
    return Machine(
        name,
        tuple(
            qemu.Machine(
                name=f"{name}-boot-{number}",
                scenarios=tuple(boot["scenarios"]),
                cmdline=boot.get("cmdline", ""),
                memory=_MEMORY,
                seconds=_SECONDS,
                **values,
            )
            for number, boot in enumerate(boots, 1)
        ),
    )


def boot_all(machine: Machine, progress: Progress = say) -> Result:
    """Return the lines of all boots, and the console of the last. Stop after a boot that does not finish.

    Raises SystemExit with one sentence when the disk, the kernel or the package cannot be made.
    """
    folder = CACHE / "run" / f"{machine.name}-boots"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    first = machine.boots[0]
    image = disk(first.root, kernel(first.kernel, progress), progress)
    own = folder / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, own])
    package = deb(suite_of(first.root), progress)
    result = Result([], "")
    for boot in machine.boots:
        shutil.rmtree(folder / "job", ignore_errors=True)
        _job(folder / "job", boot, package)
        archive_job([folder / "job"], folder)
        done = power_on(boot, folder, drive(0, own, "qcow2", "cache=unsafe"), progress)
        (folder / "console").rename(folder / f"{boot.name}.console")
        result = Result([*result.lines, *done.lines], done.console)
        if {"done": True} not in done.lines:
            break
    own.unlink()
    return result


def _job(tree: Path, boot: qemu.Machine, package: Path) -> None:
    """Make the files that a boot adds to the guest: the agent, the scenarios, the package, and a unit for them."""
    shutil.copytree(qemu.HERE / "guest", tree / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    for scenario in (HERE / "scenarios").glob("*.py"):
        shutil.copy(scenario, tree / "agent")
    for name in ("read-only", "start"):
        shutil.copy(HERE / "guest" / name, tree / "agent")
    (tree / "job").write_text("\n".join(boot.scenarios) + "\n")
    (tree / "deb").mkdir()
    shutil.copy(package, tree / "deb")
    (tree / "init").symlink_to("/sbin/init")
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    shutil.copy(HERE / "guest/job.service", tree / "etc/systemd/system")
    (wants / "job.service").symlink_to("../job.service")
