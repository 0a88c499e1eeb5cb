"""One boot of a machine: its disk, the product and a job on a second one, and the lines that the job writes."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from tests.vm.cache import CACHE, ENVIRONMENT, TOP, Progress, run, say
from tests.vm.disks import ROOT, disk, initrd
from tests.vm.kernels import kernel
from tests.vm.product import product
from tests.vm.roots import suite_of

HERE = Path(__file__).parent
_FOLDERS = (HERE, HERE.parent / "kernel")
"""Machines and scenarios are in `machines` and `scenarios` of these."""


class Machine(NamedTuple):
    """tests/vm/machines/NAME/machine.toml: which kernel boots which root, and what is asked there.

    `memory` in MiB. A second processor is another trace ring, and emulation is a tenth slower with it.
    """

    name: str
    kernel: str
    root: str
    scenarios: tuple[str, ...]
    cmdline: str = ""
    memory: int = 1536
    cpus: int = 1
    seconds: int = 420


class Result(NamedTuple):
    """What the job wrote to its port, a JSON object a line, and the console's text."""

    lines: list[dict[str, Any]]
    console: str


def machine(name: str) -> Machine:
    """Read a machine's folder."""
    (file,) = (file for folder in _FOLDERS if (file := folder / "machines" / name / "machine.toml").exists())
    values = tomllib.loads(file.read_text())
    return Machine(name=name, **{**values, "scenarios": tuple(values["scenarios"])})


def scenario_file(name: str) -> Path:
    """Where a scenario stands."""
    (file,) = (file for folder in _FOLDERS if (file := folder / "scenarios" / f"{name}.py").exists())
    return file


def boot(what: Machine, job: list[str], progress: Progress = say) -> Result:
    """Boot and run `python3 /agent/agent.py JOB…` in the guest, then power off.

    Raises SystemExit with one sentence when QEMU is not there or the guest does not end in time.
    """
    folder = CACHE / "run" / what.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tree = folder / "job"
    _job(tree, what, job)
    installed = product(suite_of(what.root), progress) / "tree"
    archive_job([installed, tree], folder)
    image = disk(what.root, kernel(what.kernel, progress), progress)
    return power_on(what, folder, drive(0, image, "raw", "snapshot=on,cache=unsafe"), progress)


def power_on(what: Machine, folder: Path, root_disk: list[str], progress: Progress = say) -> Result:
    """Boot once, with that disk and the folder's archive of the job, until the guest has powered off.

    Raises SystemExit as boot() does.
    """
    linux = kernel(what.kernel, progress)
    drivers = initrd(what.root, linux, progress)
    lines, console = folder / "lines", folder / "console"
    # One thread for both processors: with one each, emulation misses code that a kernel patches under the other's
    # feet, and a guest panics now and then (seen in hrtimer_start_range_ns(), Linux 6.12, 1.5 s after power on).
    command: list[str | Path] = [
        "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", _PROCESSOR,
        "-smp", str(what.cpus), "-m", str(what.memory), "-nodefaults", "-display", "none", "-no-reboot",
        "-kernel", linux.image, *(["-initrd", drivers] if drivers else []),
        *root_disk, *drive(1, folder / _JOB, "raw", "readonly=on"),
        "-serial", f"file:{console}", "-serial", f"file:{lines}",
        "-append", f"{_CMDLINE} {what.cmdline}",
    ]  # fmt: skip
    try:
        subprocess.run(
            command, timeout=what.seconds, check=True, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT
        )
        late = False
    except FileNotFoundError:
        raise SystemExit("qemu-system-x86_64 is not installed; tests/setup installs it") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"QEMU ended with {error.returncode}: {error.stderr.decode()[-300:]}") from None
    except subprocess.TimeoutExpired:
        late = True
    text = console.read_text(errors="replace")
    found = [json.loads(line) for line in lines.read_text(errors="replace").splitlines() if line.startswith("{")]
    if late:
        text += f"\n[stopped after {what.seconds} s]"
    return Result(found, text)


_PROCESSOR = "Nehalem,+rdrand,+rdseed"
"""A kernel that is given no randomness makes its own, by emulated waiting: one second a boot on 6.1, two on 6.12."""

_CMDLINE = (
    f"console=ttyS0 quiet panic=-1 root={ROOT} rw init=/unpack"
    " mitigations=off init_on_alloc=0 norandmaps cgroup_disable=memory no_timer_check"
)
"""The second line is for speed alone. A program that lies elsewhere at each start is translated anew at each start.
The last word is for a busy machine: a kernel whose processor is taken away while it counts ticks panics."""

_TEST_POLICY = """\
[[mark]]  # our test modules answer protocol families, which the default policy calls privileged as a class
modules = ["smp_*"]
privileged = "marker"
"""

_MASKED = """e2scrub_reap.service getty.target kmod-static-nodes.service systemd-ask-password-console.path
    systemd-ask-password-wall.path systemd-firstboot.service systemd-logind.service systemd-machine-id-commit.service
    systemd-pcrphase-sysinit.service systemd-pcrphase.service systemd-random-seed.service systemd-repart.service
    systemd-sysusers.service systemd-tmpfiles-setup-dev.service systemd-udev-trigger.service systemd-udevd.service
    systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-update-utmp-runlevel.service
    systemd-update-utmp.service systemd-user-sessions.service timers.target""".split()
"""Units that no scenario looks at: a third of a boot's time."""


def drive(number: int, file: Path, form: str, how: str) -> list[str]:
    """QEMU's arguments for one disk of several; `form` is raw or qcow2."""
    name = f"disk{number}"
    return [
        "-drive", f"if=none,id={name},format={form},file={file},{how}", "-device", f"nvme,drive={name},serial={name}",
    ]  # fmt: skip


_JOB = "job.tar"


def archive_job(trees: list[Path], folder: Path) -> None:
    """The trees' files, all root's, as the archive that the guest unpacks when it boots."""
    folders = [argument for tree in trees for argument in ("-C", tree, ".")]
    run(["tar", "-c", "-f", folder / _JOB, "--owner=0", "--group=0", *folders])


def _job(tree: Path, what: Machine, job: list[str]) -> None:
    """The agent, the scenarios, and who starts them."""
    shutil.copytree(HERE / "guest", tree / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in _FOLDERS:
        for scenario in (folder / "scenarios").glob("*.py"):
            shutil.copy(scenario, tree / "agent")
    (tree / "agent/documents").mkdir()
    for document in (TOP / "README.md", *(TOP / "docs/man").glob("*.scd")):
        shutil.copy(document, tree / "agent/documents")
    (tree / "job").write_text("\n".join(job) + "\n")
    (tree / "etc/safe-modprobe/policy.d").mkdir(parents=True)
    (tree / "etc/safe-modprobe/policy.d/30-test-modules.toml").write_text(_TEST_POLICY)
    if what.root == "systemd":
        _script("start-systemd", tree / "agent/start")
        _units(tree / "etc/systemd/system")
        (tree / "init").symlink_to("/sbin/init")
    else:
        _script("start-bare", tree / "init")


def _script(name: str, to: Path) -> None:
    shutil.copy(HERE / "guest" / name, to)
    to.chmod(0o755)


def _units(into: Path) -> None:
    """The job as a unit, and masks."""
    wants = into / "multi-user.target.wants"
    wants.mkdir(parents=True)
    shutil.copy(HERE / "guest/job.service", into)
    (wants / "job.service").symlink_to("../job.service")
    for unit in _MASKED:
        (into / unit).symlink_to("/dev/null")
