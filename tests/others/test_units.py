"""The systemd units: systemd takes them; those for the log and the metrics may do little, and their commands are commands."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from safe_modprobe.admin.commands.main import parser
from safe_modprobe.log.counts_file import PENDING

TOP = Path(__file__).resolve().parents[2]
FOLDER = TOP / "packaging/systemd"
UNITS = sorted(each for each in FOLDER.glob("safe-modprobe*.*") if each.suffix in (".path", ".service", ".timer"))
SERVICES = sorted(FOLDER.glob("safe-modprobe-[cm]*.service"))
EXPOSURE = {"safe-modprobe-counts.service": 10, "safe-modprobe-metrics.service": 17}
"""Tenths of `systemd-analyze security`, where 100 is the worst."""


def analyze(*words: object) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a program and a path in the place of ours, which are not installed here."""
    folder = tmp_path_factory.mktemp("units")
    for path in UNITS:
        text = re.sub(r"(?<==)/usr/(sbin/safe-modprobectl|libexec/safe-modprobe/\w+)", "/bin/true", path.read_text())
        (folder / path.name).write_text(re.sub("@[A-Z]+@", "/usr", text))
    return folder


@pytest.mark.parametrize("name", [each.name for each in UNITS])
def test_systemd_takes_it(units: Path, name: str) -> None:
    assert analyze("verify", "--man=no", units / name) == (0, "")


def test_systemd_would_notice(units: Path, tmp_path: Path) -> None:
    text = (units / "safe-modprobe-counts.service").read_text()
    (tmp_path / "bad.service").write_text(text.replace("ProtectHome=yes", "ProtectHome=perhaps"))
    assert "protect home value" in analyze("verify", "--man=no", tmp_path / "bad.service")[1]


@pytest.mark.parametrize("name", [each.name for each in SERVICES])
def test_it_may_do_little(name: str) -> None:
    path = TOP / "packaging/systemd" / name
    code, said = analyze("security", "--offline=true", f"--threshold={EXPOSURE[name]}", path)
    assert code == 0, said[-200:]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_its_command_is_one(path: Path) -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(command)
    assert program == "/usr/sbin/safe-modprobectl"
    parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("ours", "made"), [(True, []), (False, ["safe-modprobe-metrics.timer", "safe-modprobe.service"])]
)
def test_the_first_boot_of_an_image_enables_none(units: Path, tmp_path: Path, ours: bool, made: list[str]) -> None:
    """Where no preset names a unit, it is enabled then: see systemd.preset(5)."""
    folder = tmp_path / "usr/lib/systemd"
    shutil.copytree(units, folder / "system")
    if ours:
        (folder / "system-preset").mkdir()
        shutil.copy(FOLDER / "safe-modprobe.preset", folder / "system-preset/80-safe-modprobe.preset")
    subprocess.run(["systemctl", f"--root={tmp_path}", "preset-all"], check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.glob("etc/systemd/system/*.wants/*")) == made


def test_the_path_is_what_helpers_leave() -> None:
    assert f"PathExists={PENDING}\n" in (TOP / "packaging/systemd/safe-modprobe-counts.path").read_text()
