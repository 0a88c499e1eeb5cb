"""Boot a machine once in QEMU: one disk with its root, one with the product and the job. Collect the job's output."""

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
"""Folders that have `machines` and `scenarios`."""


class Machine(NamedTuple):
    """The content of machines/NAME/machine.toml: a kernel, a root and the scenarios to run there.

    `memory` is in MiB; `seconds` is the time limit of a boot. A second processor adds a second trace ring, and makes
    emulation a tenth slower.
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
    """The JSON objects that the job wrote to its serial port, one a line, and the console's text."""

    lines: list[dict[str, Any]]
    console: str


def machine(name: str) -> Machine:
    """Read the machine.toml of this machine."""
    (file,) = (file for folder in _FOLDERS if (file := folder / "machines" / name / "machine.toml").exists())
    values = tomllib.loads(file.read_text())
    return Machine(name=name, **{**values, "scenarios": tuple(values["scenarios"])})


def scenario_file(name: str) -> Path:
    """Return the path of a scenario's file."""
    (file,) = (file for folder in _FOLDERS if (file := folder / "scenarios" / f"{name}.py").exists())
    return file


def boot(spec: Machine, job: list[str], progress: Progress = say) -> Result:
    """Boot the machine, run the scenarios named in `job`, power off, and return the result.

    A boot that exceeds its time limit is noted in the console's text. Raises SystemExit when QEMU is missing or fails.
    """
    folder = CACHE / "run" / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tree = folder / "job"
    _write_job(tree, spec, job)
    installed = product(suite_of(spec.root), progress) / "tree"
    archive_job([installed, tree], folder)
    image = disk(spec.root, kernel(spec.kernel, progress), progress)
    return power_on(spec, folder, drive(0, image, "raw", "snapshot=on,cache=unsafe"), progress)


def power_on(spec: Machine, folder: Path, root_disk: list[str], progress: Progress = say) -> Result:
    """Boot once from `root_disk` (QEMU arguments) with the job archive in `folder`, and wait for power off.

    Raises SystemExit as boot() does.
    """
    linux = kernel(spec.kernel, progress)
    drivers = initrd(spec.root, linux, progress)
    lines, console = folder / "lines", folder / "console"
    # One thread emulates both processors. With a thread each, one processor can miss code that the kernel patches on
    # the other. Guests then panic at times, as seen in hrtimer_start_range_ns() of Linux 6.12, 1.5 s after power on.
    command: list[str | Path] = [
        "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", _PROCESSOR,
        "-smp", str(spec.cpus), "-m", str(spec.memory), "-nodefaults", "-display", "none", "-no-reboot",
        "-kernel", linux.image, *(["-initrd", drivers] if drivers else []),
        *root_disk, *drive(1, folder / _JOB, "raw", "readonly=on"),
        "-serial", f"file:{console}", "-serial", f"file:{lines}",
        "-append", f"{_CMDLINE} {spec.cmdline}",
    ]  # fmt: skip
    try:
        subprocess.run(
            command, timeout=spec.seconds, check=True, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT
        )
        timed_out = False
    except FileNotFoundError:
        raise SystemExit("qemu-system-x86_64 is not installed; tests/setup installs it") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"QEMU ended with {error.returncode}: {error.stderr.decode()[-300:]}") from None
    except subprocess.TimeoutExpired:
        timed_out = True
    text = console.read_text(errors="replace")
    found = [json.loads(line) for line in lines.read_text(errors="replace").splitlines() if line.startswith("{")]
    if timed_out:
        text += f"\n[stopped after {spec.seconds} s]"
    return Result(found, text)


_PROCESSOR = "Nehalem,+rdrand,+rdseed"
"""With RDRAND and RDSEED the kernel need not gather entropy, which takes 1 s a boot on Linux 6.1 and 2 s on 6.12."""

_CMDLINE = (
    f"console=ttyS0 quiet panic=-1 root={ROOT} rw init=/unpack"
    " mitigations=off init_on_alloc=0 norandmaps cgroup_disable=memory no_timer_check"
)
"""The second line is for speed, except its last word. With address randomisation, QEMU must translate each program anew
at every start. `no_timer_check` prevents a panic on a busy host, where QEMU may get no time while the kernel counts
timer ticks."""

_TEST_POLICY = """\
[[mark]]  # Test modules have net-pf-* aliases, which the default policy marks as a class.
modules = ["smp_*"]
privileged = "marker"
"""

_MASKED = """e2scrub_reap.service getty.target kmod-static-nodes.service systemd-ask-password-console.path
    systemd-ask-password-wall.path systemd-firstboot.service systemd-logind.service systemd-machine-id-commit.service
    systemd-pcrphase-sysinit.service systemd-pcrphase.service systemd-random-seed.service systemd-repart.service
    systemd-sysusers.service systemd-tmpfiles-setup-dev.service systemd-udev-trigger.service systemd-udevd.service
    systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-update-utmp-runlevel.service
    systemd-update-utmp.service systemd-user-sessions.service timers.target""".split()
"""Units that no scenario needs. They take a third of a boot's time."""


def drive(number: int, file: Path, form: str, how: str) -> list[str]:
    """Return QEMU's arguments for disk `number`. `form` is raw or qcow2; `how` holds further options of -drive."""
    name = f"disk{number}"
    return [
        "-drive", f"if=none,id={name},format={form},file={file},{how}", "-device", f"nvme,drive={name},serial={name}",
    ]  # fmt: skip


_JOB = "job.tar"


def archive_job(trees: list[Path], folder: Path) -> None:
    """Archive the trees' files, all owned by root, in `folder`. The guest unpacks the archive when it boots."""
    folders = [argument for tree in trees for argument in ("-C", tree, ".")]
    run(["tar", "-c", "-f", folder / _JOB, "--owner=0", "--group=0", *folders])


def _write_job(tree: Path, spec: Machine, job: list[str]) -> None:
    """Write the job's files: the agent, all scenarios, the names of those to run, and what starts the agent."""
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
    if spec.root == "systemd":
        _copy_script("start-systemd", tree / "agent/start")
        _write_units(tree / "etc/systemd/system")
        (tree / "init").symlink_to("/sbin/init")
    else:
        _copy_script("start-bare", tree / "init")


def _copy_script(name: str, to: Path) -> None:
    shutil.copy(HERE / "guest" / name, to)
    to.chmod(0o755)


def _write_units(into: Path) -> None:
    """Write the unit that starts the agent, and mask units that no scenario needs."""
    wants = into / "multi-user.target.wants"
    wants.mkdir(parents=True)
    shutil.copy(HERE / "guest/job.service", into)
    (wants / "job.service").symlink_to("../job.service")
    for unit in _MASKED:
        (into / unit).symlink_to("/dev/null")
