"""Test the RPM packages: their files, and their scriptlets with a real rpm. Nothing here runs on Fedora."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.packages.machine import BEFORE, HELPER, ON, OTHER, Machine
from tests.vm.cache import TOP
from tests.vm.product import product, rpms
from tests.vm.roots import root

RPM = TOP / "packaging/rpm"


def package(ends: str) -> Path:
    return next(path for path in rpms() if re.fullmatch(rf"safe-modprobe{ends}", path.name))


@pytest.fixture(scope="module")
def binary() -> Path:
    return package(r"-\d.*(?<!src|rch)\.rpm")


def rpm(*what: str | Path) -> list[str]:
    return subprocess.run(["rpm", *what], capture_output=True, text=True, check=True).stdout.splitlines()


def test_rpmlint_finds_no_error(tmp_path: Path) -> None:
    (tmp_path / ".rpmmacros").write_text((RPM / "macros.elsewhere").read_text())
    command = ["rpmlint", "-c", RPM / "rpmlint.toml", *rpms(), RPM / "safe-modprobe.spec"]
    done = subprocess.run(command, env={"HOME": str(tmp_path), "PATH": "/usr/bin"}, capture_output=True, text=True)
    assert done.returncode == 0 and ": E: " not in done.stdout, done.stdout + done.stderr
    assert " 3 packages and 1 specfiles checked; 0 errors" in done.stdout


def test_every_rpmlint_filter_has_a_reason() -> None:
    lines = [line for line in (RPM / "rpmlint.toml").read_text().splitlines() if line.startswith("    ")]
    assert lines and [line for line in lines if not re.search(", +# ..", line)] == []


def test_the_package_has_the_files_of_make_install(binary: Path) -> None:
    tree = product() / "tree"
    made = {f"/{path.relative_to(tree)}" for path in tree.rglob("*") if path.is_file()}
    made = {re.sub("(/man/.*)", r"\1.gz", name) for name in made}
    lines = rpm("-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", binary)
    packaged = {name for mode, name in (line.split() for line in lines) if mode.startswith("-")}
    assert {
        name for name in packaged ^ made if not name.startswith(("/usr/share/doc/", "/usr/share/licenses/"))
    } == set()
    assert [line for line in lines if line.split()[1].startswith("/etc/")] == [
        "drwxr-xr-x /etc/safe-modprobe",
        "drwxr-xr-x /etc/safe-modprobe/policy.d",
        "drwxr-xr-x /etc/safe-modprobe/tests.d",
    ]


def test_the_package_depends_on_one_python_version(binary: Path) -> None:
    """The extensions fit one version, so dnf must not upgrade Python without our package."""
    assert "python(abi) = 3.11" in rpm("-qp", "--requires", binary)


def test_a_system_with_selinux_gets_the_selinux_package(binary: Path) -> None:
    version = rpm("-qp", "--qf", "%{VERSION}-%{RELEASE}", binary)[0]
    assert f"(safe-modprobe-selinux = {version} if selinux-policy-targeted)" in rpm("-qp", "--requires", binary)
    assert "/usr/share/selinux/packages/safe-modprobe.cil" in rpm("-qpl", package("-selinux-.*"))


def test_versions_are_the_same(binary: Path) -> None:
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    assert rpm("-qp", "--qf", "%{VERSION} %{CHANGELOGTEXT}", binary)[0].startswith(f"{version} - ")
    assert any(f" - {version}-1" in line for line in rpm("-qp", "--changelog", binary))


@pytest.mark.parametrize("tag", ["%{POSTIN}", "%{POSTUN}"])
def test_the_selinux_scriptlets_succeed_without_a_selinux_configuration(tag: str) -> None:
    """A shell in POSIX mode exits if `.` finds no file."""
    script = "\n".join(rpm("-qp", "--qf", tag, package("-selinux-.*")))
    assert "/etc/selinux/config" in script
    script = "set -- 1\n" + script.replace("/etc/selinux/config", "/nowhere/config") + "\necho over"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


@pytest.fixture(scope="module")
def machine(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    tree = tmp_path_factory.mktemp("rpm") / "tree"
    subprocess.run(["cp", "-a", root("fleet") / "tree", tree], check=True)
    subprocess.run(["cp", binary, tree / "srv/safe-modprobe.rpm"], check=True)
    return Machine(tree)


INSTALL = "rpm -i --nodeps /srv/safe-modprobe.rpm; mkdir -p /run/safe-modprobe; "
"""Debian's rpm does not know the installed Debian packages, so it needs --nodeps."""

GONE = f"printf /opt/gone >{BEFORE}; "
BROKEN = "ln -sf /bin/false /usr/sbin/safe-modprobectl; "
CONTAINER = "mkdir -p /run/systemd; echo lxc >/run/systemd/container; "
ERASE = "rpm -e safe-modprobe; rm -rf /run/systemd/container /run/safe-modprobe"

ROWS = [
    ("it was off", INSTALL + ERASE, "exec", "/sbin/modprobe"),
    ("the helper before is restored", INSTALL + ON + ERASE, "exec", "/usr/sbin/modprobe"),
    ("its own tool is broken", INSTALL + ON + BROKEN + ERASE, "exec", "/usr/sbin/modprobe"),
    ("the kernel has another helper", INSTALL + ON + OTHER + ERASE, "exec", "/opt/helper"),
    ("kernel.modprobe was empty before", f"{INSTALL} {ON} : >{BEFORE}; {BROKEN} {ERASE}", "exec", ""),
    ("the helper before does not exist any more", INSTALL + ON + GONE + ERASE, "exec", "/sbin/modprobe"),
    (
        "broken, and the helper before does not exist any more",
        INSTALL + ON + GONE + BROKEN + ERASE,
        "exec",
        "/usr/sbin/modprobe",
    ),
    ("its own file is gone already", f"{INSTALL} {ON} {BROKEN} rm {HELPER}; {ERASE}", "exec", "/usr/sbin/modprobe"),
    ("a chroot has another system's kernel", INSTALL + ON + ERASE, "", HELPER),
    ("a container has another system's kernel", INSTALL + ON + CONTAINER + BROKEN + ERASE, "exec", HELPER),
]


@pytest.mark.parametrize(("script", "before", "switch"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_kernels_helper_after_the_removal(machine: Machine, script: str, before: str, switch: str) -> None:
    machine.run("mkdir -p /etc/safe-modprobe/policy.d; : >/etc/safe-modprobe/policy.d/10-site.toml")
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(script, before)
    assert machine.now() == switch
    assert not (machine.tree / HELPER[1:]).exists()
    assert (machine.tree / "etc/safe-modprobe/policy.d/10-site.toml").exists()


def test_an_upgrade_switches_nothing_off_and_starts_the_watch(machine: Machine) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(INSTALL + ON + "rpm -U --force --nodeps /srv/safe-modprobe.rpm")
    assert machine.now() == HELPER
    assert (machine.tree / "run/safe-modprobe/watch.lock").exists()
    machine.run("rm -r /usr/lib/safe-modprobe/safe_modprobe; rpm -U --force --nodeps /srv/safe-modprobe.rpm")
    assert machine.now() == HELPER
    machine.run("rpm -e safe-modprobe")


def test_installing_switches_nothing_on(machine: Machine) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(INSTALL)
    assert machine.now() == "/sbin/modprobe"
    assert list((machine.tree / "etc/systemd").rglob("*safe-modprobe*")) == []
    machine.run(ERASE)
