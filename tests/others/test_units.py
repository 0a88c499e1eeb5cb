"""Test the systemd units: they are valid, those for counts and metrics are sandboxed, and their commands parse."""

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
"""The highest allowed exposure by `systemd-analyze security`, in tenths. 100 is the worst."""


def analyze(*words: object) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return copies of the units with /bin/true in place of our programs, which are not installed here."""
    folder = tmp_path_factory.mktemp("units")
    for path in UNITS:
        text = re.sub(r"(?<==)/usr/(sbin/safe-modprobectl|libexec/safe-modprobe/\w+)", "/bin/true", path.read_text())
        (folder / path.name).write_text(re.sub("@[A-Z]+@", "/usr", text))
    return folder


@pytest.mark.parametrize("name", [each.name for each in UNITS])
def test_a_unit_is_valid(units: Path, name: str) -> None:
    assert analyze("verify", "--man=no", units / name) == (0, "")


def test_systemd_finds_a_wrong_value(units: Path, tmp_path: Path) -> None:
    text = (units / "safe-modprobe-counts.service").read_text()
    (tmp_path / "bad.service").write_text(text.replace("ProtectHome=yes", "ProtectHome=perhaps"))
    assert "protect home value" in analyze("verify", "--man=no", tmp_path / "bad.service")[1]


@pytest.mark.parametrize("name", [each.name for each in SERVICES])
def test_a_service_is_sandboxed(name: str) -> None:
    path = TOP / "packaging/systemd" / name
    code, output = analyze("security", "--offline=true", f"--threshold={EXPOSURE[name]}", path)
    assert code == 0, output[-200:]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_the_command_of_a_service_parses(path: Path) -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(command)
    assert program == "/usr/sbin/safe-modprobectl"
    parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("with_preset", "enabled"), [(True, []), (False, ["safe-modprobe-metrics.timer", "safe-modprobe.service"])]
)
def test_the_first_boot_of_an_image_enables_no_unit(
    units: Path, tmp_path: Path, with_preset: bool, enabled: list[str]
) -> None:
    """Without a preset systemd enables every unit at that boot: see systemd.preset(5)."""
    folder = tmp_path / "usr/lib/systemd"
    shutil.copytree(units, folder / "system")
    if with_preset:
        (folder / "system-preset").mkdir()
        shutil.copy(FOLDER / "safe-modprobe.preset", folder / "system-preset/80-safe-modprobe.preset")
    subprocess.run(["systemctl", f"--root={tmp_path}", "preset-all"], check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.glob("etc/systemd/system/*.wants/*")) == enabled


def test_the_path_unit_watches_the_file_that_the_helper_writes() -> None:
    assert f"PathExists={PENDING}\n" in (TOP / "packaging/systemd/safe-modprobe-counts.path").read_text()
