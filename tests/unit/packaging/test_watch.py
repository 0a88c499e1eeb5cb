"""The watch as it is, but for the paths of this machine: tests/vm and tests/boot have it with a kernel and systemd."""

import fcntl
import os
import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[3]
WATCH, OWN_KERNEL = TOP / "packaging/watch", TOP / "packaging/own-kernel"

WELL = "echo \"allowed 'safe-modprobe-self-test' to uid 0\"; exit 1"
LAST_RESORT = "echo 'safe-modprobe failed (why); nothing was loaded' >&2; exit 1"
GONE = "exit 127"
FAILED = "ActiveState=failed UnitFileState=enabled ExecMainStatus=1"


class Machine:
    """A folder as a machine: the kernel's switch, our /run, and systemd's answers where it runs."""

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
        """It runs, and its `show` says this of our unit."""
        (self.top / "systemd").mkdir(exist_ok=True)
        show = "\n".join(f"echo {line}" for line in unit.split())
        self.program("systemctl", f'case $* in show*) {show} ;; *) echo "$*" >>{self.top}/done ;; esac')

    def on(self) -> None:
        self.sysctl.write_text(f"{self.helper}\n")

    def remember(self, before: str) -> None:
        (self.top / "run/modprobe.before").write_text(before)

    def look(self, answer: str) -> int:
        self.helper.write_text(f"#!/bin/sh\n{answer}\n")
        self.helper.chmod(0o755)
        path = f"{self.top}/bin:{os.environ['PATH']}"
        return subprocess.run(["sh", self.top / "watch"], env={"PATH": path}, capture_output=True).returncode

    def now(self) -> str:
        return self.sysctl.read_text().removesuffix("\n").replace(str(self.helper), "HELPER")

    def done(self) -> list[str]:
        """What it asked of systemd and of boot, since the last time."""
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
    # What is not there any more, or no program, serves nobody.
    (GONE, "/sbin/other", "/sbin/modprobe", 1, True),
    (GONE, "/etc/passwd", "/sbin/modprobe", 1, True),
    # An admin had switched all requests off before. Since then root has got its modules, and keeps them.
    ("exit 126", "", "/sbin/modprobe", 1, True),
    ("kill -9 $$", None, "/sbin/modprobe", 1, True),
    (LAST_RESORT, None, "HELPER", 1, False),
    (WELL, None, "HELPER", 0, False),
]


@pytest.mark.parametrize(("helper", "before", "then", "code", "down"), ANSWERS, ids=range(len(ANSWERS)))
def test_who_is_the_helper_then(
    machine: Machine, helper: str, before: str | None, then: str, code: int, down: bool
) -> None:
    """And, with one that answers again, once more."""
    if before is not None:
        machine.remember(before)
    assert machine.look(helper) == 0 and machine.now() == "/sbin/modprobe", "it is not switched on"
    machine.on()
    assert machine.look(helper) == code
    assert (machine.now(), machine.marker.exists()) == (then, down)
    machine.done()
    assert machine.look(WELL) == 0
    assert (machine.now(), machine.marker.exists()) == ("HELPER", False)
    assert machine.done() == ["boot refresh"]


def once(code: str, machine: Machine) -> str:
    """The first run ends so, and the others well."""
    return f"[ -e {machine.top}/once ] || {{ : >{machine.top}/once; {code}; }}; {WELL}"


MAY_PASS = ["kill -9 $$", "exit 124", "exit 125", "exit 126", "exit 127", "kill -11 $$", "echo MemoryError >&2; exit 1"]


@pytest.mark.parametrize("code", MAY_PASS)
def test_what_may_pass_is_tried_again(machine: Machine, code: str) -> None:
    """Want of memory has many statuses: a library or a module that is not to be had looks like one that is gone."""
    machine.on()
    assert machine.look(once(code, machine)) == 0
    assert (machine.now(), machine.log()) == ("HELPER", "")


@pytest.mark.parametrize(("answer", "pauses"), [(WELL, ""), (LAST_RESORT, ""), (GONE, "1\n3\n0\n")])
def test_an_answer_is_asked_for_three_times_at_most(machine: Machine, answer: str, pauses: str) -> None:
    """As long as it is tried, root has lost its modules."""
    machine.on()
    machine.look(answer)
    slept = machine.top / "slept"
    assert (slept.read_text() if slept.exists() else "") == pauses


@pytest.mark.parametrize("there", [True, False], ids=["the same file", "its file is gone"])
def test_another_name_of_ours_is_ours(machine: Machine, there: bool) -> None:
    """/sbin is often a link."""
    (machine.top / "link").symlink_to(machine.top)
    machine.sysctl.write_text(f"{machine.top}/link/helper\n")
    assert machine.look(GONE if there else "rm $0; exit 127") == 1
    assert (machine.now(), machine.marker.exists()) == ("/sbin/modprobe", True)
    assert machine.look(WELL) == 0 and machine.now() == "HELPER"


@pytest.mark.parametrize("name", ["link/other", "bin/helper", "", "helper/x"])
def test_a_name_like_ours_is_not(machine: Machine, name: str) -> None:
    (machine.top / "link").symlink_to(machine.top)
    machine.sysctl.write_text(f"{machine.top / name if name else name}\n")
    assert machine.look(GONE) == 0
    assert machine.sysctl.read_text() == f"{machine.top / name if name else name}\n"


@pytest.mark.parametrize("name", ["stood-down", "watch.lock"])
def test_what_cannot_be_written_keeps_nobody_from_modules(machine: Machine, name: str) -> None:
    """As in a full /run: dash ends where a redirection of `exec` or `:` fails."""
    machine.on()
    (machine.top / "run" / name).mkdir()
    assert machine.look(GONE) == 1
    assert machine.now() == "/sbin/modprobe"


def test_a_kernel_that_cannot_be_set_is_said(machine: Machine) -> None:
    machine.on()
    text = (machine.top / "watch").read_text()
    (machine.top / "watch").write_text(text.replace('"$1" >$SYSCTL', '"$1" >/dev/full'))
    assert machine.look(GONE) == 1 and machine.now() == "HELPER"
    assert "no longer runs, and kernel.modprobe cannot be set" in machine.log()
    assert "refused nothing" not in machine.log()


def test_it_is_looked_at_again_until_it_is_back(machine: Machine) -> None:
    machine.systemd("ActiveState=active UnitFileState=enabled ExecMainStatus=0")
    machine.on()
    assert machine.look(GONE) == 1
    assert machine.done() == ["--no-block start safe-modprobe-watch.timer"]
    said = machine.log()
    assert machine.look(GONE) == 1
    assert machine.log() == said, "once is enough"
    assert machine.look(WELL) == 0
    assert machine.done()[-2:] == ["--no-block stop safe-modprobe-watch.timer", "boot refresh"]
    assert machine.now() == "HELPER"


@pytest.mark.parametrize("answer", [WELL, LAST_RESORT], ids=["well", "last resort"])
def test_who_was_set_since_stays(machine: Machine, answer: str) -> None:
    machine.on()
    machine.look(GONE)
    machine.sysctl.write_text("/opt/helper\n")
    machine.look(answer)
    assert (machine.now(), machine.marker.exists()) == ("/opt/helper", False)
    assert "kernel.modprobe was set to '/opt/helper' meanwhile" in machine.log()
    assert machine.look(WELL) == 0 and machine.now() == "/opt/helper"


BOOTS = [
    ("it has failed", FAILED, "quiet", True),
    ("enabled for this boot", FAILED.replace("=enabled", "=enabled-runtime"), "quiet", True),
    ("it was killed", FAILED.replace("Status=1", "Status=15"), "quiet", True),
    ("it was skipped", FAILED.replace("failed", "inactive").replace("Status=1", "Status=0"), "quiet", False),
    ("it was stopped", "ActiveState=inactive UnitFileState=enabled ExecMainStatus=0", "quiet", False),
    ("its stop has failed", FAILED.replace("Status=1", "Status=0"), "quiet", False),
    ("it is not enabled", FAILED.replace("=enabled", "=disabled"), "quiet", False),
    ("it is masked", FAILED.replace("=enabled", "=masked"), "quiet", False),
    ("it is under way", FAILED.replace("failed", "activating"), "quiet", False),
    ("off", FAILED, "safe_modprobe=off quiet", False),
    ("off, at the end", FAILED, "safe_modprobe=off", False),
    ("not quite off", FAILED, "xsafe_modprobe=off safe_modprobe=offx", True),
    ("another answer", "", "quiet", False),
]


@pytest.mark.parametrize(("unit", "cmdline", "again"), [row[1:] for row in BOOTS], ids=[row[0] for row in BOOTS])
def test_a_boot_that_has_failed_is_done_again(machine: Machine, unit: str, cmdline: str, again: bool) -> None:
    machine.systemd(unit)
    machine.boot("/sbin/modprobe", cmdline)
    stop = "--no-block stop safe-modprobe-watch.timer"
    assert machine.look(GONE) == again
    assert machine.done() == (["--no-block start safe-modprobe-watch.timer"] if again else [stop])
    assert machine.look(LAST_RESORT) == again
    assert machine.done() == (["--no-block start safe-modprobe.service"] if again else [stop])
    assert machine.look(WELL) == 0
    assert machine.done() == (["--no-block start safe-modprobe.service"] if again else [stop])
    assert (machine.now(), machine.marker.exists()) == ("/sbin/modprobe", False), "the unit does that, and nobody else"


def test_off_at_boot_it_does_not_come_back(machine: Machine) -> None:
    machine.boot(str(machine.helper), "safe_modprobe=off")
    assert machine.look(GONE) == 1 and machine.now() == "/sbin/modprobe"
    assert machine.look(WELL) == 0 and machine.now() == "/sbin/modprobe"


@pytest.mark.parametrize("code", [1, 2, 127])
def test_another_systems_kernel_is_left_alone(machine: Machine, code: int) -> None:
    """And where nobody can say whose it is."""
    machine.on()
    machine.program("own-kernel", f"exit {code}")
    assert machine.look(GONE) == 0
    assert (machine.now(), machine.done()) == ("HELPER", [])


@pytest.mark.parametrize("then", [GONE, WELL], ids=["broken", "well"])
def test_what_was_switched_off_meanwhile_stays_off(machine: Machine, then: str) -> None:
    machine.on()
    machine.look(f"echo /opt/helper >{machine.sysctl}; {then}")
    assert (machine.now(), machine.marker.exists(), machine.done()) == ("/opt/helper", False, [])


def test_two_at_a_time_do_not_act(machine: Machine) -> None:
    machine.on()
    text = (machine.top / "watch").read_text()
    (machine.top / "watch").write_text(text.replace("flock -w 120", "flock -w 0"))
    with (machine.top / "run/watch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert machine.look(GONE) == 1 and machine.now() == "HELPER"
    assert machine.look(GONE) == 1 and machine.now() == "/sbin/modprobe"


KERNELS = [
    ("own", {}, "", 0),
    ("a chroot", {"root": "/usr"}, "a chroot", 1),
    ("nobody may look at its root", {"root": "/nowhere"}, "", 2),
    ("nobody may, and it is a container", {"root": "/nowhere", "virt": "echo lxc"}, "a container (lxc)", 1),
    (
        "nobody may, and no such switch",
        {"root": "/nowhere", "proc/sys/kernel/modprobe": None},
        "a system that cannot write /proc/sys/kernel/modprobe",
        1,
    ),
    ("systemd-detect-virt knows", {"virt": "echo podman"}, "a container (podman)", 1),
    ("it does not", {"virt": "echo none; exit 1"}, "", 0),
    ("what systemd leaves", {"run/systemd/container": "lxc"}, "a container (/run/systemd/container is there)", 1),
    ("what podman leaves", {"run/.containerenv": ""}, "a container (/run/.containerenv is there)", 1),
    ("what docker leaves", {".dockerenv": ""}, "a container (/.dockerenv is there)", 1),
    (
        "its first process",
        {"proc/1/environ": "HOME=/\0container=oci\0"},
        "a container (its first process has container= in its environment)",
        1,
    ),
    ("a word like it", {"proc/1/environ": "xcontainer=oci\0container=\0A=b container=c\0"}, "", 0),
    ("no such switch", {"proc/sys/kernel/modprobe": None}, "a system that cannot write /proc/sys/kernel/modprobe", 1),
]


@pytest.mark.parametrize(("other", "says", "code"), [row[1:] for row in KERNELS], ids=[row[0] for row in KERNELS])
def test_whose_kernel_it_is(tmp_path: Path, other: dict[str, str | None], says: str, code: int) -> None:
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


def test_who_is_not_root_cannot_say() -> None:
    command = ["setpriv", "--reuid", "1000", "--clear-groups", "sh", "-c", OWN_KERNEL.read_text()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
