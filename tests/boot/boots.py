"""Boots of one machine after the other, on one disk: what was installed stays, and what switches on at boot does."""

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
    """tests/boot/machines/NAME/machine.toml: a kernel, a root, and what is asked at each boot."""

    name: str
    boots: tuple[qemu.Machine, ...]


def machine(name: str) -> Machine:
    """Read a machine's folder."""
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


def boot_all(what: Machine, progress: Progress = say) -> Result:
    """All boots' lines, and the last one's console. A boot that does not end is the last one.

    Raises SystemExit with one sentence.
    """
    folder = CACHE / "run" / f"{what.name}-boots"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    first = what.boots[0]
    image = disk(first.root, kernel(first.kernel, progress), progress)
    own = folder / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, own])
    package = deb(suite_of(first.root), progress)
    result = Result([], "")
    for each in what.boots:
        shutil.rmtree(folder / "job", ignore_errors=True)
        _job(folder / "job", each, package)
        archive_job([folder / "job"], folder)
        now = power_on(each, folder, drive(0, own, "qcow2", "cache=unsafe"), progress)
        (folder / "console").rename(folder / f"{each.name}.console")
        result = Result([*result.lines, *now.lines], now.console)
        if {"done": True} not in now.lines:
            break
    own.unlink()
    return result


def _job(tree: Path, what: qemu.Machine, package: Path) -> None:
    """The agent and its scenarios, the package, and the unit that starts them."""
    shutil.copytree(qemu.HERE / "guest", tree / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    for scenario in (HERE / "scenarios").glob("*.py"):
        shutil.copy(scenario, tree / "agent")
    for name in ("read-only", "start"):
        shutil.copy(HERE / "guest" / name, tree / "agent")
    (tree / "job").write_text("\n".join(what.scenarios) + "\n")
    (tree / "deb").mkdir()
    shutil.copy(package, tree / "deb")
    (tree / "init").symlink_to("/sbin/init")
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    shutil.copy(HERE / "guest/job.service", tree / "etc/systemd/system")
    (wants / "job.service").symlink_to("../job.service")
