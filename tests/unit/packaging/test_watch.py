"""packaging/watch, with this machine's paths replaced. tests/vm and tests/boot run it with a kernel and systemd."""

import fcntl
import os
import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[3]
WATCH, OWN_KERNEL = TOP / "packaging/watch", TOP / "packaging/own-kernel"

HEALTHY = "echo \"allowed 'safe-modprobe-self-test' to uid 0\"; exit 1"
LAST_RESORT = "echo 'safe-modprobe failed (why); nothing was loaded' >&2; exit 1"
GONE = "exit 127"
FAILED = "ActiveState=failed UnitFileState=enabled ExecMainStatus=1"


class Machine:
    """A machine in a folder: kernel.modprobe, our folder in /run, and systemd's answers if it runs."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for name in ("run", "bin"):
            (top / name).mkdir()
        self.helper, self.sysctl, self.marker = top / "helper", top / "sysctl", top / "run/stood-down"
        self.boot("/sbin/modprobe")
        text = WATCH.read_text()
        for path, own in (
            ("/usr/libexec/safe-modprobe", top / "bin"), ("/usr/sbin/safe-modprobe", self.helper),
            ("/run/safe-modprobe", top / "run"), ("/proc/sys/kernel/modprobe", self.sysctl),
            ("/run/systemd/system", top / "systemd"), ("/proc/cmdline", top / "cmdline"),
        ):  # fmt: skip
            text = text.replace(path, str(own))
        (top / "watch").write_text(text)
        self.program("logger", f'echo "$6" >>{top}/log')
        self.program("own-kernel", "exit 0")
        self.program("sleep", f"echo $1 >>{top}/slept")
        self.program("boot", f'echo "boot $1" >>{top}/done')

    def boot(self, helper: str, cmdline: str = "quiet") -> None:
        self.sysctl.write_text(f"{helper}\n")
        (self.top / "cmdline").write_text(f"root=/dev/vda {cmdline}\n")

    def program(self, name: str, script: str) -> None:
        (self.top / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.top / "bin" / name).chmod(0o755)

    def systemd(self, unit: str) -> None:
        """Let systemd run. `unit` is what `systemctl show` prints about our unit."""
        (self.top / "systemd").mkdir(exist_ok=True)
        show = "\n".join(f"echo {line}" for line in unit.split())
        self.program("systemctl", f'case $* in show*) {show} ;; *) echo "$*" >>{self.top}/done ;; esac')

    def on(self) -> None:
        self.sysctl.write_text(f"{self.helper}\n")

    def remember(self, before: str) -> None:
        (self.top / "run/modprobe.before").write_text(before)

    def run_watch(self, answer: str) -> int:
        self.helper.write_text(f"#!/bin/sh\n{answer}\n")
        self.helper.chmod(0o755)
        path = f"{self.top}/bin:{os.environ['PATH']}"
        return subprocess.run(["sh", self.top / "watch"], env={"PATH": path}, capture_output=True).returncode

    def now(self) -> str:
        return self.sysctl.read_text().removesuffix("\n").replace(str(self.helper), "HELPER")

    def done(self) -> list[str]:
        """Return the calls of systemctl and boot since the last call of this."""
        path = self.top / "done"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def log(self) -> str:
        path = self.top / "log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


ANSWERS = [
    ("exit 1", None, "/sbin/modprobe", 1, True),
    ("exit 0", None, "/sbin/modprobe", 1, True),
    (GONE, None, "/sbin/modprobe", 1, True),
    ("echo nonsense", "/bin/sh", "/bin/sh", 1, True),
    ("echo nonsense", "/bin/sh\n", "/bin/sh", 1, True),
    # The previous helper is missing, or not a program.
    (GONE, "/sbin/other", "/sbin/modprobe", 1, True),
    (GONE, "/etc/passwd", "/sbin/modprobe", 1, True),
    # Module requests were off before. Since then root got its modules, and must keep getting them.
    ("exit 126", "", "/sbin/modprobe", 1, True),
    ("kill -9 $$", None, "/sbin/modprobe", 1, True),
    (LAST_RESORT, None, "HELPER", 1, False),
    (HEALTHY, None, "HELPER", 0, False),
]


@pytest.mark.parametrize(("helper", "before", "then", "code", "down"), ANSWERS, ids=range(len(ANSWERS)))
def test_the_answer_decides_which_helper_stays(
    machine: Machine, helper: str, before: str | None, then: str, code: int, down: bool
) -> None:
    """A second run, with a helper that answers again, restores it."""
    if before is not None:
        machine.remember(before)
    assert machine.run_watch(helper) == 0 and machine.now() == "/sbin/modprobe", "it is not switched on"
    machine.on()
    assert machine.run_watch(helper) == code
    assert (machine.now(), machine.marker.exists()) == (then, down)
    machine.done()
    assert machine.run_watch(HEALTHY) == 0
    assert (machine.now(), machine.marker.exists()) == ("HELPER", False)
    assert machine.done() == ["boot refresh"]


def once(code: str, machine: Machine) -> str:
    """Return a helper whose first run executes `code`, and whose other runs answer."""
    return f"[ -e {machine.top}/once ] || {{ : >{machine.top}/once; {code}; }}; {HEALTHY}"


TRANSIENT = [
    "kill -9 $$",
    "exit 124",
    "exit 125",
    "exit 126",
    "exit 127",
    "kill -11 $$",
    "echo MemoryError >&2; exit 1",
]


@pytest.mark.parametrize("code", TRANSIENT)
def test_a_transient_failure_is_tried_again(machine: Machine, code: str) -> None:
    """Short memory has many exit statuses. A module that cannot be read looks like one that is missing."""
    machine.on()
    assert machine.run_watch(once(code, machine)) == 0
    assert (machine.now(), machine.log()) == ("HELPER", "")


@pytest.mark.parametrize(("answer", "pauses"), [(HEALTHY, ""), (LAST_RESORT, ""), (GONE, "1\n3\n0\n")])
def test_the_helper_is_run_at_most_three_times(machine: Machine, answer: str, pauses: str) -> None:
    """While the watch tries again, root gets no modules."""
    machine.on()
    machine.run_watch(answer)
    slept = machine.top / "slept"
    assert (slept.read_text() if slept.exists() else "") == pauses


@pytest.mark.parametrize("there", [True, False], ids=["same file", "missing file"])
def test_the_helper_is_recognised_by_another_path(machine: Machine, there: bool) -> None:
    """/sbin is often a link."""
    (machine.top / "link").symlink_to(machine.top)
    machine.sysctl.write_text(f"{machine.top}/link/helper\n")
    assert machine.run_watch(GONE if there else "rm $0; exit 127") == 1
    assert (machine.now(), machine.marker.exists()) == ("/sbin/modprobe", True)
    assert machine.run_watch(HEALTHY) == 0 and machine.now() == "HELPER"


@pytest.mark.parametrize("name", ["link/other", "bin/helper", "", "helper/x"])
def test_a_similar_path_is_not_the_helper(machine: Machine, name: str) -> None:
    (machine.top / "link").symlink_to(machine.top)
    machine.sysctl.write_text(f"{machine.top / name if name else name}\n")
    assert machine.run_watch(GONE) == 0
    assert machine.sysctl.read_text() == f"{machine.top / name if name else name}\n"


@pytest.mark.parametrize("name", ["stood-down", "watch.lock"])
def test_a_full_run_folder_does_not_keep_modprobe_from_replacing_the_helper(machine: Machine, name: str) -> None:
    """dash exits if a redirection of `exec` or `:` fails, as in a full /run."""
    machine.on()
    (machine.top / "run" / name).mkdir()
    assert machine.run_watch(GONE) == 1
    assert machine.now() == "/sbin/modprobe"


def test_the_log_says_if_kernel_modprobe_cannot_be_set(machine: Machine) -> None:
    machine.on()
    text = (machine.top / "watch").read_text()
    (machine.top / "watch").write_text(text.replace('"$1" >$SYSCTL', '"$1" >/dev/full'))
    assert machine.run_watch(GONE) == 1 and machine.now() == "HELPER"
    assert "no longer runs, and kernel.modprobe cannot be set" in machine.log()
    assert "refused nothing" not in machine.log()


def test_the_timer_runs_until_the_helper_is_back(machine: Machine) -> None:
    machine.systemd("ActiveState=active UnitFileState=enabled ExecMainStatus=0")
    machine.on()
    assert machine.run_watch(GONE) == 1
    assert machine.done() == ["--no-block start safe-modprobe-watch.timer"]
    before = machine.log()
    assert machine.run_watch(GONE) == 1
    assert machine.log() == before, "it is logged once"
    assert machine.run_watch(HEALTHY) == 0
    assert machine.done()[-2:] == ["--no-block stop safe-modprobe-watch.timer", "boot refresh"]
    assert machine.now() == "HELPER"


@pytest.mark.parametrize("answer", [HEALTHY, LAST_RESORT], ids=["well", "last resort"])
def test_a_helper_that_was_set_meanwhile_stays(machine: Machine, answer: str) -> None:
    machine.on()
    machine.run_watch(GONE)
    machine.sysctl.write_text("/opt/helper\n")
    machine.run_watch(answer)
    assert (machine.now(), machine.marker.exists()) == ("/opt/helper", False)
    assert "kernel.modprobe was set to '/opt/helper' meanwhile" in machine.log()
    assert machine.run_watch(HEALTHY) == 0 and machine.now() == "/opt/helper"


BOOTS = [
    ("the start failed", FAILED, "quiet", True),
    ("enabled for this boot", FAILED.replace("=enabled", "=enabled-runtime"), "quiet", True),
    ("the start was killed", FAILED.replace("Status=1", "Status=15"), "quiet", True),
    ("skipped by a condition", FAILED.replace("failed", "inactive").replace("Status=1", "Status=0"), "quiet", False),
    ("stopped", "ActiveState=inactive UnitFileState=enabled ExecMainStatus=0", "quiet", False),
    ("the stop failed", FAILED.replace("Status=1", "Status=0"), "quiet", False),
    ("not enabled", FAILED.replace("=enabled", "=disabled"), "quiet", False),
    ("masked", FAILED.replace("=enabled", "=masked"), "quiet", False),
    ("still starting", FAILED.replace("failed", "activating"), "quiet", False),
    ("off", FAILED, "safe_modprobe=off quiet", False),
    ("off, as the last word", FAILED, "safe_modprobe=off", False),
    ("words similar to off", FAILED, "xsafe_modprobe=off safe_modprobe=offx", True),
    ("no answer from systemd", "", "quiet", False),
]


@pytest.mark.parametrize(("unit", "cmdline", "again"), [row[1:] for row in BOOTS], ids=[row[0] for row in BOOTS])
def test_a_failed_boot_is_repeated(machine: Machine, unit: str, cmdline: str, again: bool) -> None:
    machine.systemd(unit)
    machine.boot("/sbin/modprobe", cmdline)
    stop = "--no-block stop safe-modprobe-watch.timer"
    assert machine.run_watch(GONE) == again
    assert machine.done() == (["--no-block start safe-modprobe-watch.timer"] if again else [stop])
    assert machine.run_watch(LAST_RESORT) == again
    assert machine.done() == (["--no-block start safe-modprobe.service"] if again else [stop])
    assert machine.run_watch(HEALTHY) == 0
    assert machine.done() == (["--no-block start safe-modprobe.service"] if again else [stop])
    assert (machine.now(), machine.marker.exists()) == ("/sbin/modprobe", False), "only the unit sets kernel.modprobe"


def test_the_helper_does_not_come_back_after_a_boot_with_off(machine: Machine) -> None:
    machine.boot(str(machine.helper), "safe_modprobe=off")
    assert machine.run_watch(GONE) == 1 and machine.now() == "/sbin/modprobe"
    assert machine.run_watch(HEALTHY) == 0 and machine.now() == "/sbin/modprobe"


@pytest.mark.parametrize("code", [1, 2, 127])
def test_the_kernel_of_another_system_is_left_alone(machine: Machine, code: int) -> None:
    """Also if it is unknown whose kernel it is."""
    machine.on()
    machine.program("own-kernel", f"exit {code}")
    assert machine.run_watch(GONE) == 0
    assert (machine.now(), machine.done()) == ("HELPER", [])


@pytest.mark.parametrize("then", [GONE, HEALTHY], ids=["broken", "well"])
def test_switching_off_during_the_test_is_respected(machine: Machine, then: str) -> None:
    machine.on()
    machine.run_watch(f"echo /opt/helper >{machine.sysctl}; {then}")
    assert (machine.now(), machine.marker.exists(), machine.done()) == ("/opt/helper", False, [])


def test_two_watches_do_not_act_at_the_same_time(machine: Machine) -> None:
    machine.on()
    text = (machine.top / "watch").read_text()
    (machine.top / "watch").write_text(text.replace("flock -w 120", "flock -w 0"))
    with (machine.top / "run/watch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert machine.run_watch(GONE) == 1 and machine.now() == "HELPER"
    assert machine.run_watch(GONE) == 1 and machine.now() == "/sbin/modprobe"


KERNELS = [
    ("this system", {}, "", 0),
    ("a chroot", {"root": "/usr"}, "a chroot", 1),
    ("/proc/1/root is hidden", {"root": "/nowhere"}, "", 2),
    ("/proc/1/root is hidden in a container", {"root": "/nowhere", "virt": "echo lxc"}, "a container (lxc)", 1),
    (
        "/proc/1/root is hidden, and kernel.modprobe is missing",
        {"root": "/nowhere", "proc/sys/kernel/modprobe": None},
        "a system that cannot write /proc/sys/kernel/modprobe",
        1,
    ),
    ("systemd-detect-virt finds a container", {"virt": "echo podman"}, "a container (podman)", 1),
    ("systemd-detect-virt finds none", {"virt": "echo none; exit 1"}, "", 0),
    ("file of systemd", {"run/systemd/container": "lxc"}, "a container (/run/systemd/container is there)", 1),
    ("file of podman", {"run/.containerenv": ""}, "a container (/run/.containerenv is there)", 1),
    ("file of docker", {".dockerenv": ""}, "a container (/.dockerenv is there)", 1),
    (
        "environment of the first process",
        {"proc/1/environ": "HOME=/\0container=oci\0"},
        "a container (its first process has container= in its environment)",
        1,
    ),
    ("similar words in the environment", {"proc/1/environ": "xcontainer=oci\0container=\0A=b container=c\0"}, "", 0),
    (
        "kernel.modprobe is missing",
        {"proc/sys/kernel/modprobe": None},
        "a system that cannot write /proc/sys/kernel/modprobe",
        1,
    ),
]


@pytest.mark.parametrize(("other", "says", "code"), [row[1:] for row in KERNELS], ids=[row[0] for row in KERNELS])
def test_own_kernel_tells_whose_kernel_it_is(
    tmp_path: Path, other: dict[str, str | None], says: str, code: int
) -> None:
    files = {"proc/sys/kernel/modprobe": "/sbin/modprobe", "proc/1/environ": "HOME=/\0TERM=linux\0"} | other
    root, virt = files.pop("root", "/"), files.pop("virt", "exit 127")
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    (tmp_path / "proc/1/root").symlink_to(str(root))
    (tmp_path / "virt").write_text(f"#!/bin/sh\n{virt}\n")
    (tmp_path / "virt").chmod(0o755)
    script = re.sub(r"(?<![\w/])/(proc|run|\.dockerenv)", rf"{tmp_path}/\1", OWN_KERNEL.read_text())
    script = script.replace("systemd-detect-virt", str(tmp_path / "virt"))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, ""), done
    assert done.stdout.replace(str(tmp_path), "").strip() == says, done


def test_own_kernel_is_undecided_without_root() -> None:
    command = ["setpriv", "--reuid", "1000", "--clear-groups", "sh", "-c", OWN_KERNEL.read_text()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
