"""The Debian package, built by each release's own tools, before anything boots with it (tests/boot)."""

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


def shown(package: Path, *what: str) -> str:
    return subprocess.run(["dpkg-deb", what[0], package, *what[1:]], capture_output=True, text=True, check=True).stdout


def files(package: Path) -> set[str]:
    """All but folders, as if /usr were merged."""
    lines = (line.split(None, 5) for line in shown(package, "-c").splitlines())
    return {re.sub("^/lib/", "/usr/lib/", line[5][1:]) for line in lines if not line[0].startswith("d")}


@pytest.mark.parametrize("suite", ALL)
def test_lintian_finds_nothing_and_nothing_is_hidden_from_it(suite: str) -> None:
    command = ["lintian", "--allow-root", "--fail-on", "warning", deb(suite)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert not [name for name in files(deb(suite)) if "lintian" in name]


def test_it_has_the_files_of_make_install() -> None:
    tree = product() / "tree"
    made = {f"/{path.relative_to(tree)}" for path in tree.rglob("*") if path.is_file()}
    made = {re.sub("(/man/.*)", r"\1.gz", name) for name in made if "/__pycache__/" not in name}
    packaged = {name for name in files(deb()) if not name.startswith(("/usr/share/doc/", "/usr/share/python3/"))}
    # Debian 12's shtab does not know fish.
    assert packaged ^ made <= {"/usr/share/fish/vendor_completions.d/safe-modprobectl.fish"}


@pytest.mark.parametrize(("suite", "depends"), ROWS)
def test_a_new_python_comes_with_a_new_package(suite: str, depends: str) -> None:
    """The extension is for one version: apt must not take Python further without it."""
    assert depends in shown(deb(suite), "-f", "Depends")


@pytest.mark.parametrize("suite", ALL)
def test_whose_files_it_watches(suite: str) -> None:
    """A path that no package has would never trigger anything; and nobody waits for us."""
    info = build_root(suite) / "var/lib/dpkg/info"
    known = {line for path in info.glob("*.list") for line in path.read_text().splitlines()}
    lines = shown(deb(suite), "-I", "triggers").splitlines()
    assert {line.split()[0] for line in lines} == {"interest-noawait"}
    assert [path for path in (line.split()[1] for line in lines) if path not in known] == []
    assert len(lines) == 5


@pytest.mark.parametrize("suite", ALL)
def test_nothing_is_a_conffile(suite: str) -> None:
    """Whatever is edited in /etc is the admin's own; ours is in /usr/lib."""
    assert "conffiles" not in shown(deb(suite), "-I")
    assert [name for name in files(deb(suite)) if name.startswith("/etc/")] == []


def test_versions_are_the_same() -> None:
    changelog = (TOP / "packaging/debian/changelog").read_text()
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    assert changelog.startswith(f"safe-modprobe ({version}) ")


def test_apt_knows_what_builds_it() -> None:
    """As the README has it, for whoever builds the package by hand."""
    done = subprocess.run(
        ["apt-get", "--simulate", "build-dep", "-y", "./packaging"], cwd=TOP, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "lacking"),
    [("/usr/bin:/bin", "no-such-package (>= 3) nor-this"), ("/nowhere", "dpkg-dev")],
    ids=["what builds it", "what says so"],
)
def test_what_make_deb_lacks_is_one_sentence(tmp_path: Path, path: str, lacking: str) -> None:
    (tmp_path / "packaging/debian").mkdir(parents=True)
    control = (TOP / "packaging/debian/control").read_text()
    more = control.replace("Build-Depends:\n", "Build-Depends:\n no-such-package (>= 3),\n nor-this,\n")
    (tmp_path / "packaging/debian/control").write_text(more)
    command = ["/usr/bin/make", "-s", "-f", TOP / "Makefile", "deb", "SOURCE_DATE_EPOCH=0"]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True)
    said = f"make deb: not installed: {lacking}; 'apt-get build-dep ./packaging' installs all that it needs"
    assert done.returncode == 2 and done.stderr.splitlines()[-2] == said, done
    assert not (tmp_path / "build").exists()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """With the package, and with an older version of it that is the same but for its number."""
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
"""Somebody switches it on when its files have gone."""

UNPACKED = "dpkg --unpack /srv/new.deb; "
"""And not configured, as where apt was stopped: dpkg asks prerm nothing then."""

GONE = f"printf /opt/gone >{BEFORE}; "
COMPILE = "/usr/bin/py3compile"
NO_PYTHON = f"mv {COMPILE} {COMPILE}.aside; ln -s /bin/false {COMPILE}; "
"""As where Python is broken: what debhelper adds to the scripts is in it."""

PYTHON = f"; mv {COMPILE}.aside {COMPILE}"
SPOILT = f"echo exit >{HELPER}; "

GONE_ROWS = [
    ("off, and stays so", ERASE, "exec", "/sbin/modprobe"),
    ("what was there before", ON + ERASE, "exec", "/usr/sbin/modprobe"),
    ("nobody remembers", f"{ON} rm {BEFORE}; {ERASE}", "exec", "/sbin/modprobe"),
    ("its own tool is broken", ON + BROKEN + ERASE, "exec", "/usr/sbin/modprobe"),
    ("broken, and nothing was there before", f"{ON} : >{BEFORE}; {BROKEN} {ERASE}", "exec", ""),
    ("it is not the helper", ON + OTHER + ERASE, "exec", "/opt/helper"),
    ("by another name", BY_LINK + ERASE, "exec", "/usr/sbin/modprobe"),
    ("by another name, and broken", BY_LINK + BROKEN + ERASE, "exec", "/usr/sbin/modprobe"),
    ("its own file is gone already", f"{ON} {BROKEN} rm {HELPER}; {ERASE}", "exec", "/usr/sbin/modprobe"),
    ("nobody can say whose kernel it is", ON + UNKNOWN + ERASE, "exec", "/usr/sbin/modprobe"),
    ("switched on while the files go", ON + AGAIN + ERASE, "exec", "/sbin/modprobe"),
    ("another's, while the files go", ON + AGAIN.replace(HELPER, "/opt/x") + ERASE, "exec", "/opt/x"),
    ("a chroot has another system's kernel", ON + ERASE, "", HELPER),
    ("and still when the files are gone", ON + AGAIN + ERASE, "", HELPER),
    ("it was never configured", ON + UNPACKED + ERASE, "exec", "/sbin/modprobe"),
    ("it was never configured, and is purged", ON + UNPACKED + "dpkg -P safe-modprobe; ", "exec", "/sbin/modprobe"),
    ("never configured, and another's helper", ON + OTHER + UNPACKED + ERASE, "exec", "/opt/helper"),
    ("never configured, in a chroot", ON + UNPACKED + ERASE, "", HELPER),
    ("never configured, in a container", ON + CONTAINER + UNPACKED + ERASE, "exec", HELPER),
    ("what was there before is gone", ON + GONE + ERASE, "exec", "/sbin/modprobe"),
    ("gone, and its own tool is broken", ON + GONE + BROKEN + ERASE, "exec", "/sbin/modprobe"),
    ("a container has, too", ON + CONTAINER + ERASE, "exec", HELPER),
    ("and its own tool is broken", ON + CONTAINER + BROKEN + ERASE, "exec", HELPER),
    ("and still when its files are gone", ON + CONTAINER + AGAIN + ERASE, "exec", HELPER),
]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "before", "switch"), [row[1:] for row in GONE_ROWS], ids=[row[0] for row in GONE_ROWS]
)
def test_who_is_the_helper_once_the_package_is_gone(machine: Machine, script: str, before: str, switch: str) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(FRESH + INSTALL + script, before)
    assert machine.now() == switch
    assert not (machine.tree / HELPER[1:]).exists()
    assert (machine.tree / RUN[1:]).exists() == (switch == HELPER), "/run may be another system's, too"


def test_the_last_word_waits_for_the_watch(machine: Machine) -> None:
    """Whose helper hangs, and which would have given it back, or not, once the files are gone."""
    machine.switch.write_text("/sbin/modprobe\n")
    watch = f"(umask 077; : >{RUN}/watch.lock); flock {RUN}/watch.lock sh -c ': >/run/held; sleep 3; : >/run/over' & "
    held = "until [ -e /run/held ]; do :; done; "
    machine.run(
        FRESH + "rm -f /run/held /run/over; " + INSTALL + ON + BROKEN + watch + held + ERASE + "ls /run/over; wait"
    )
    assert machine.now() == "/usr/sbin/modprobe"


def test_a_kernel_that_cannot_be_set_keeps_the_package(machine: Machine) -> None:
    """dpkg then calls `postinst abort-remove`, which has nothing to switch on again."""
    machine.switch.write_text("/sbin/modprobe\n")
    unwritable = f"sed -i 's:>[$]sysctl .. true:>/dev/full || true:' {INFO}.prerm; "
    machine.run(FRESH + INSTALL + ON + BROKEN + unwritable + "! dpkg -r safe-modprobe 2>/run/said")
    assert machine.now() == HELPER and (machine.tree / HELPER[1:]).exists()
    said = (machine.tree / "run/said").read_text()
    assert f"safe-modprobe: kernel.modprobe is still {HELPER} of this package, and cannot be set" in said, said
    assert (
        "safe-modprobe: it was switched off for the removal, and stays off: run 'safe-modprobectl enable'" in said
    ), said
    assert not (machine.tree / "run/safe-modprobe/removing").exists()


@pytest.mark.parametrize("how", ["abort-upgrade 9", "abort-deconfigure in-favour x 9", "triggered /usr/bin/python3"])
def test_what_ends_with_a_look(machine: Machine, how: str) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(FRESH + INSTALL + ON + f"{INFO}.postinst {how}")
    assert machine.now() == HELPER and (machine.tree / "run/safe-modprobe/watch.lock").exists()


@pytest.mark.parametrize("how", ["triggered /usr/bin/python3", "configure 0.0.1", "abort-upgrade 9"])
def test_where_python_is_broken_it_stands_down_all_the_same(machine: Machine, how: str) -> None:
    """And where it was looked at alone, dpkg is not told that the package is broken."""
    machine.switch.write_text("/sbin/modprobe\n")
    code = 0 if how.startswith("triggered") else 1
    ask = f"code=0; {INFO}.postinst {how} || code=$? {PYTHON}; [ $code = {code} ]"
    machine.run(FRESH + INSTALL + ON + SPOILT + NO_PYTHON + ask)
    assert machine.now() == "/usr/sbin/modprobe"


@pytest.mark.parametrize(
    ("words", "trial"), [("boot trial trial-at-boot", True), ("boot trial", False), ("boot", False)]
)
def test_who_keeps_the_package_keeps_the_trial_at_boot(machine: Machine, words: str, trial: bool) -> None:
    note = f"mkdir -p {RUN}; printf '%s\\n' {words} >{RUN}/removing; "
    link = "/etc/systemd/system/sysinit.target.wants/safe-modprobe.service"
    machine.run(FRESH + INSTALL + f"mkdir -p /etc/safe-modprobe; {note} {INFO}.postinst abort-remove; rm {link}")
    assert (machine.tree / "etc/safe-modprobe/trial").exists() == trial


@pytest.mark.parametrize("on", [True, False])
def test_an_upgrade_switches_nothing_off_or_on_and_ends_with_a_look(machine: Machine, on: bool) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(FRESH + "dpkg -i --force-downgrade /srv/old.deb; " + (ON if on else "") + INSTALL)
    assert machine.now() == (HELPER if on else "/sbin/modprobe")
    assert (machine.tree / "run/safe-modprobe/watch.lock").exists() == on
    machine.run("dpkg-query -W -f '${db:Status-Abbrev}' safe-modprobe | grep -q ii")


def test_what_a_distribution_runs_as_its_test_passes(machine: Machine) -> None:
    """With no more than what the package depends on, and wherever: it switches nothing."""
    (command,) = re.findall("^Test-Command: (.*)$", (TOP / "packaging/debian/tests/control").read_text(), re.M)
    machine.run(FRESH + INSTALL + command)


def test_links_of_systemds_go_with_it(machine: Machine) -> None:
    """Also in a chroot, and where its own tool is broken."""
    wants = "/etc/systemd/system/sysinit.target.wants/safe-modprobe.service"
    machine.switch.write_text("/sbin/modprobe\n")
    for before in ("", "exec"):
        machine.run(FRESH + INSTALL + f"systemctl enable safe-modprobe.service; ls {wants}; " + BROKEN + ERASE, before)
        assert not (machine.tree / wants[1:]).is_symlink()


def test_an_upgrade_in_a_container_leaves_its_hosts_kernel_alone(machine: Machine) -> None:
    """Also with a helper that would be stood down for."""
    machine.switch.write_text("/sbin/modprobe\n")
    spoil = f"echo exit >{HELPER}; {INFO}.postinst triggered /usr/bin/python3"
    machine.run(FRESH + "dpkg -i --force-downgrade /srv/old.deb; " + ON + CONTAINER + INSTALL + spoil)
    assert machine.now() == HELPER
    machine.run(f"rm /run/systemd/container; {INFO}.postinst triggered /usr/bin/python3")
    assert machine.now() == "/usr/sbin/modprobe"
