"""Test the Debian package, built by each release's own tools, without a boot. tests/boot boots with it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.packages.machine import BEFORE, HELPER, ON, OTHER, SWITCH, Machine
from tests.vm.cache import TOP
from tests.vm.kernels import NATIVE
from tests.vm.product import build_root, deb, product
from tests.vm.roots import SUITES, root

ALL = (NATIVE, *SUITES)
ROWS = [
    (NATIVE, "python3 (<< 3.12), python3 (>= 3.11~)"),
    ("trixie", "python3 (<< 3.14), python3 (>= 3.13~)"),
    ("sid", "python3 (<< 3.15), python3 (>= 3.14~)"),
]


def dpkg_deb(package: Path, option: str, *arguments: str) -> str:
    return subprocess.run(["dpkg-deb", option, package, *arguments], capture_output=True, text=True, check=True).stdout


def files(package: Path) -> set[str]:
    """Return all files but folders, with paths as on a system with merged /usr."""
    lines = (line.split(None, 5) for line in dpkg_deb(package, "-c").splitlines())
    return {re.sub("^/lib/", "/usr/lib/", line[5][1:]) for line in lines if not line[0].startswith("d")}


@pytest.mark.parametrize("suite", ALL)
def test_lintian_finds_nothing_without_overrides(suite: str) -> None:
    command = ["lintian", "--allow-root", "--fail-on", "warning", deb(suite)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert not [name for name in files(deb(suite)) if "lintian" in name]


def test_the_package_has_the_files_of_make_install() -> None:
    tree = product() / "tree"
    made = {f"/{path.relative_to(tree)}" for path in tree.rglob("*") if path.is_file()}
    made = {re.sub("(/man/.*)", r"\1.gz", name) for name in made if "/__pycache__/" not in name}
    packaged = {name for name in files(deb()) if not name.startswith(("/usr/share/doc/", "/usr/share/python3/"))}
    # Debian 12's shtab does not support fish.
    assert packaged ^ made <= {"/usr/share/fish/vendor_completions.d/safe-modprobectl.fish"}


@pytest.mark.parametrize(("suite", "depends"), ROWS)
def test_the_package_depends_on_one_python_version(suite: str, depends: str) -> None:
    """The extensions fit one version, so apt must not upgrade Python without our package."""
    assert depends in dpkg_deb(deb(suite), "-f", "Depends")


@pytest.mark.parametrize("suite", ALL)
def test_triggers_name_existing_files_of_other_packages(suite: str) -> None:
    """A path that no package has would never trigger. With noawait, other packages do not wait for ours."""
    info = build_root(suite) / "var/lib/dpkg/info"
    known = {line for path in info.glob("*.list") for line in path.read_text().splitlines()}
    lines = dpkg_deb(deb(suite), "-I", "triggers").splitlines()
    assert {line.split()[0] for line in lines} == {"interest-noawait"}
    assert [path for path in (line.split()[1] for line in lines) if path not in known] == []
    assert len(lines) == 5


@pytest.mark.parametrize("suite", ALL)
def test_the_package_has_no_conffile(suite: str) -> None:
    """All files in /etc are the administrator's. Ours are in /usr/lib."""
    assert "conffiles" not in dpkg_deb(deb(suite), "-I")
    assert [name for name in files(deb(suite)) if name.startswith("/etc/")] == []


def test_versions_are_the_same() -> None:
    changelog = (TOP / "packaging/debian/changelog").read_text()
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    assert changelog.startswith(f"safe-modprobe ({version}) ")


def test_apt_can_install_the_build_dependencies() -> None:
    """The README gives this command for a manual build."""
    done = subprocess.run(
        ["apt-get", "--simulate", "build-dep", "-y", "./packaging"], cwd=TOP, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "lacking"),
    [("/usr/bin:/bin", "no-such-package (>= 3) nor-this"), ("/nowhere", "dpkg-dev")],
    ids=["build dependencies", "dpkg-checkbuilddeps"],
)
def test_make_deb_names_missing_packages_in_one_sentence(tmp_path: Path, path: str, lacking: str) -> None:
    (tmp_path / "packaging/debian").mkdir(parents=True)
    control = (TOP / "packaging/debian/control").read_text()
    # Only packages that no machine has: which real ones are installed here does not count.
    more = re.sub(
        r"^Build-Depends:\n(?: .*\n)+", "Build-Depends:\n no-such-package (>= 3),\n nor-this,\n", control, flags=re.M
    )
    (tmp_path / "packaging/debian/control").write_text(more)
    command = ["/usr/bin/make", "-s", "-f", TOP / "Makefile", "deb", "SOURCE_DATE_EPOCH=0"]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True)
    message = f"make deb: not installed: {lacking}; 'apt-get build-dep ./packaging' installs all that it needs"
    assert done.returncode == 2 and done.stderr.splitlines()[-2] == message, done
    assert not (tmp_path / "build").exists()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Return a machine with the package's file, and with one that differs only in its lower version."""
    top = tmp_path_factory.mktemp("debian")
    tree = top / "tree"
    subprocess.run(["cp", "-a", root("fleet") / "tree", tree], check=True)
    subprocess.run(["cp", deb(), tree / "srv/new.deb"], check=True)
    subprocess.run(["dpkg-deb", "-R", deb(), top / "older"], check=True)
    control = top / "older/DEBIAN/control"
    control.write_text(re.sub("^Version: .*", "Version: 0.0.1", control.read_text(), flags=re.M))
    subprocess.run(["dpkg-deb", "-b", "-Znone", top / "older", tree / "srv/old.deb"], check=True, capture_output=True)
    return Machine(tree)


INFO = "/var/lib/dpkg/info/safe-modprobe"
RUN = "/run/safe-modprobe"
FRESH = f"rm -rf {RUN} /run/systemd/container /etc/safe-modprobe; "
INSTALL = "dpkg -i /srv/new.deb; "
BROKEN = "ln -sf /bin/false /usr/sbin/safe-modprobectl; "
ERASE = "dpkg -r safe-modprobe; "
BY_LINK = ON + f"echo /sbin/safe-modprobe >{SWITCH}; "
CONTAINER = "mkdir -p /run/systemd; echo lxc >/run/systemd/container; "
UNKNOWN = "rm -r /usr/libexec/safe-modprobe; "
AGAIN = f"sed -i '2i echo {HELPER} >{SWITCH}' {INFO}.postrm; "
"""postrm, which runs after the files were deleted, first makes ours the kernel's helper again."""

UNPACKED = "dpkg --unpack /srv/new.deb; "
"""Unpack without configuring, as when apt is interrupted. dpkg does not run prerm in this state."""

GONE = f"printf /opt/gone >{BEFORE}; "
COMPILE = "/usr/bin/py3compile"
NO_PYTHON = f"mv {COMPILE} {COMPILE}.aside; ln -s /bin/false {COMPILE}; "
"""Break py3compile, which debhelper's parts of the maintainer scripts run."""

PYTHON = f"; mv {COMPILE}.aside {COMPILE}"
SPOILT = f"echo exit >{HELPER}; "

REMOVAL_ROWS = [
    ("it was off", ERASE, "exec", "/sbin/modprobe"),
    ("the helper before is restored", ON + ERASE, "exec", "/usr/sbin/modprobe"),
    ("the helper before was not recorded", f"{ON} rm {BEFORE}; {ERASE}", "exec", "/sbin/modprobe"),
    ("its own tool is broken", ON + BROKEN + ERASE, "exec", "/usr/sbin/modprobe"),
    ("broken, and kernel.modprobe was empty before", f"{ON} : >{BEFORE}; {BROKEN} {ERASE}", "exec", ""),
    ("the kernel has another helper", ON + OTHER + ERASE, "exec", "/opt/helper"),
    ("the helper is set by another path", BY_LINK + ERASE, "exec", "/usr/sbin/modprobe"),
    ("broken, and the helper is set by another path", BY_LINK + BROKEN + ERASE, "exec", "/usr/sbin/modprobe"),
    ("its own file is gone already", f"{ON} {BROKEN} rm {HELPER}; {ERASE}", "exec", "/usr/sbin/modprobe"),
    ("the script that detects another system's kernel is missing", ON + UNKNOWN + ERASE, "exec", "/usr/sbin/modprobe"),
    ("switched on while the files go", ON + AGAIN + ERASE, "exec", "/sbin/modprobe"),
    ("another helper is set while the files go", ON + AGAIN.replace(HELPER, "/opt/x") + ERASE, "exec", "/opt/x"),
    ("a chroot has another system's kernel", ON + ERASE, "", HELPER),
    ("in a chroot, switched on while the files go", ON + AGAIN + ERASE, "", HELPER),
    ("it was never configured", ON + UNPACKED + ERASE, "exec", "/sbin/modprobe"),
    ("it was never configured, and is purged", ON + UNPACKED + "dpkg -P safe-modprobe; ", "exec", "/sbin/modprobe"),
    ("never configured, and the kernel has another helper", ON + OTHER + UNPACKED + ERASE, "exec", "/opt/helper"),
    ("never configured, in a chroot", ON + UNPACKED + ERASE, "", HELPER),
    ("never configured, in a container", ON + CONTAINER + UNPACKED + ERASE, "exec", HELPER),
    ("the helper before does not exist any more", ON + GONE + ERASE, "exec", "/sbin/modprobe"),
    ("broken, and the helper before does not exist any more", ON + GONE + BROKEN + ERASE, "exec", "/sbin/modprobe"),
    ("a container has another system's kernel", ON + CONTAINER + ERASE, "exec", HELPER),
    ("in a container, and its own tool is broken", ON + CONTAINER + BROKEN + ERASE, "exec", HELPER),
    ("in a container, switched on while the files go", ON + CONTAINER + AGAIN + ERASE, "exec", HELPER),
]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "before", "switch"), [row[1:] for row in REMOVAL_ROWS], ids=[row[0] for row in REMOVAL_ROWS]
)
def test_the_kernels_helper_after_the_removal(machine: Machine, script: str, before: str, switch: str) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(FRESH + INSTALL + script, before)
    assert machine.now() == switch
    assert not (machine.tree / HELPER[1:]).exists()
    assert (machine.tree / RUN[1:]).exists() == (switch == HELPER), "/run may belong to another system as well"


def test_the_removal_waits_for_a_running_watch(machine: Machine) -> None:
    """The watch holds its lock for 3 seconds, and could change kernel.modprobe after the files are gone."""
    machine.switch.write_text("/sbin/modprobe\n")
    watch = f"(umask 077; : >{RUN}/watch.lock); flock {RUN}/watch.lock sh -c ': >/run/held; sleep 3; : >/run/over' & "
    held = "until [ -e /run/held ]; do :; done; "
    machine.run(
        FRESH + "rm -f /run/held /run/over; " + INSTALL + ON + BROKEN + watch + held + ERASE + "ls /run/over; wait"
    )
    assert machine.now() == "/usr/sbin/modprobe"


def test_the_removal_fails_if_the_kernels_helper_cannot_be_set(machine: Machine) -> None:
    """dpkg then calls `postinst abort-remove`, which finds nothing to switch on again."""
    machine.switch.write_text("/sbin/modprobe\n")
    unwritable = f"sed -i 's:>[$]sysctl .. true:>/dev/full || true:' {INFO}.prerm; "
    machine.run(FRESH + INSTALL + ON + BROKEN + unwritable + "! dpkg -r safe-modprobe 2>/run/said")
    assert machine.now() == HELPER and (machine.tree / HELPER[1:]).exists()
    output = (machine.tree / "run/said").read_text()
    assert f"safe-modprobe: kernel.modprobe is still {HELPER} of this package, and cannot be set" in output, output
    assert (
        "safe-modprobe: it was switched off for the removal, and stays off: run 'safe-modprobectl enable'" in output
    ), output
    assert not (machine.tree / "run/safe-modprobe/removing").exists()


@pytest.mark.parametrize("how", ["abort-upgrade 9", "abort-deconfigure in-favour x 9", "triggered /usr/bin/python3"])
def test_postinst_starts_the_watch(machine: Machine, how: str) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(FRESH + INSTALL + ON + f"{INFO}.postinst {how}")
    assert machine.now() == HELPER and (machine.tree / "run/safe-modprobe/watch.lock").exists()


@pytest.mark.parametrize("how", ["triggered /usr/bin/python3", "configure 0.0.1", "abort-upgrade 9"])
def test_modprobe_is_restored_if_python_is_broken(machine: Machine, how: str) -> None:
    """A trigger only checks the helper, so postinst then reports success to dpkg."""
    machine.switch.write_text("/sbin/modprobe\n")
    code = 0 if how.startswith("triggered") else 1
    ask = f"code=0; {INFO}.postinst {how} || code=$? {PYTHON}; [ $code = {code} ]"
    machine.run(FRESH + INSTALL + ON + SPOILT + NO_PYTHON + ask)
    assert machine.now() == "/usr/sbin/modprobe"


@pytest.mark.parametrize(
    ("words", "trial"), [("boot trial trial-at-boot", True), ("boot trial", False), ("boot", False)]
)
def test_an_aborted_removal_keeps_the_trial_at_boot(machine: Machine, words: str, trial: bool) -> None:
    note = f"mkdir -p {RUN}; printf '%s\\n' {words} >{RUN}/removing; "
    link = "/etc/systemd/system/sysinit.target.wants/safe-modprobe.service"
    machine.run(FRESH + INSTALL + f"mkdir -p /etc/safe-modprobe; {note} {INFO}.postinst abort-remove; rm {link}")
    assert (machine.tree / "etc/safe-modprobe/trial").exists() == trial


@pytest.mark.parametrize("on", [True, False])
def test_an_upgrade_switches_nothing_and_starts_the_watch_if_on(machine: Machine, on: bool) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(FRESH + "dpkg -i --force-downgrade /srv/old.deb; " + (ON if on else "") + INSTALL)
    assert machine.now() == (HELPER if on else "/sbin/modprobe")
    assert (machine.tree / "run/safe-modprobe/watch.lock").exists() == on
    machine.run("dpkg-query -W -f '${db:Status-Abbrev}' safe-modprobe | grep -q ii")


def test_the_autopkgtest_passes(machine: Machine) -> None:
    """A distribution runs it anywhere, with only the package's dependencies. It switches nothing."""
    (command,) = re.findall("^Test-Command: (.*)$", (TOP / "packaging/debian/tests/control").read_text(), re.M)
    machine.run(FRESH + INSTALL + command)


def test_the_removal_deletes_the_links_of_systemctl_enable(machine: Machine) -> None:
    """This holds in a chroot too, and if its own tool is broken."""
    wants = "/etc/systemd/system/sysinit.target.wants/safe-modprobe.service"
    machine.switch.write_text("/sbin/modprobe\n")
    for before in ("", "exec"):
        machine.run(FRESH + INSTALL + f"systemctl enable safe-modprobe.service; ls {wants}; " + BROKEN + ERASE, before)
        assert not (machine.tree / wants[1:]).is_symlink()


def test_an_upgrade_in_a_container_does_not_switch_the_hosts_kernel(machine: Machine) -> None:
    """Outside of a container postinst replaces a broken helper by modprobe. In a container it does not."""
    machine.switch.write_text("/sbin/modprobe\n")
    spoil = f"echo exit >{HELPER}; {INFO}.postinst triggered /usr/bin/python3"
    machine.run(FRESH + "dpkg -i --force-downgrade /srv/old.deb; " + ON + CONTAINER + INSTALL + spoil)
    assert machine.now() == HELPER
    machine.run(f"rm /run/systemd/container; {INFO}.postinst triggered /usr/bin/python3")
    assert machine.now() == "/usr/sbin/modprobe"
