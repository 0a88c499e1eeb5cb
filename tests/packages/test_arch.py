"""Build the Arch package with Debian's makepkg, and run its scriptlets directly. Nothing here runs on Arch."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.packages.machine import BEFORE, HELPER, ON, OTHER, Machine
from tests.vm.cache import TOP
from tests.vm.product import product, rpms
from tests.vm.roots import root

ARCH = TOP / "packaging/arch"
VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the unpacked package. makepkg refuses to run as root, so it runs as uid 1000 in a user namespace."""
    folder = tmp_path_factory.mktemp("arch")
    subprocess.run(["cp", *ARCH.iterdir(), folder], check=True)
    source = next(path for path in rpms() if path.name.endswith(".src.rpm"))
    unpacked = subprocess.run(["rpm2cpio", source], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-i", "--quiet", "*.tar.gz"], cwd=folder, input=unpacked, check=True)
    as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "env", f"HOME={folder}"]
    shtab = f"MAKEFLAGS=VENV={sys.executable}"
    done = subprocess.run([*as_user, shtab, "makepkg", "--nodeps"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "tree").mkdir()
    package = next(folder.glob(f"safe-modprobe-{VERSION}-1-*.pkg.tar*"))
    subprocess.run(["tar", "-x", "-C", folder / "tree", "-f", package], check=True, stderr=subprocess.DEVNULL)
    return folder / "tree"


def test_the_package_has_the_files_of_make_install(tree: Path) -> None:
    made = {str(path.relative_to(product() / "tree")) for path in (product() / "tree").rglob("*") if path.is_file()}
    made = {name.replace("usr/sbin/", "usr/bin/") + (".gz" if "/man/" in name else "") for name in made}
    packaged = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert packaged ^ made == {".BUILDINFO", ".INSTALL", ".MTREE", ".PKGINFO"}
    assert not (tree / "usr/sbin").exists()


def test_the_pkgbuild_says_that_it_is_untested() -> None:
    assert (
        (ARCH / "PKGBUILD")
        .read_text()
        .startswith("# This was built with Debian's makepkg only, and never installed on Arch.")
    )


@pytest.fixture(scope="module")
def machine(tree: Path) -> Machine:
    top = tree.parent / "machine"
    subprocess.run(["cp", "-a", root("fleet") / "tree", top], check=True)
    subprocess.run(["cp", "-a", f"{tree}/.", top / "usr/.."], check=True)
    subprocess.run(
        ["cp", tree / "usr/bin/safe-modprobe", top / HELPER[1:]], check=True
    )  # On Arch /usr/sbin is a link to /usr/bin.
    return Machine(top)


REMOVE = ". /.INSTALL; pre_remove; post_remove"
BROKEN = "mv /usr/bin/safe-modprobectl /usr/bin/aside; "
GONE = f"printf /opt/gone >{BEFORE}; "
CONTAINER = "mkdir -p /run/systemd; echo lxc >/run/systemd/container; "
MEND = "; rm -f /run/systemd/container; mv /usr/bin/aside /usr/bin/safe-modprobectl"

ROWS = [
    ("it was off", REMOVE, "exec", "/sbin/modprobe"),
    ("the helper before is restored", ON + REMOVE, "exec", "/usr/sbin/modprobe"),
    ("its own tool is broken", ON + BROKEN + REMOVE + MEND, "exec", "/usr/sbin/modprobe"),
    ("kernel.modprobe was empty before", f"{ON} : >{BEFORE}; {BROKEN} {REMOVE} {MEND}", "exec", ""),
    ("the helper before does not exist any more", ON + GONE + BROKEN + REMOVE + MEND, "exec", "/sbin/modprobe"),
    ("a container has another system's kernel", ON + CONTAINER + BROKEN + REMOVE + MEND, "exec", HELPER),
    ("the kernel has another helper", ON + OTHER + REMOVE, "exec", "/opt/helper"),
    ("a chroot has another system's kernel", ON + REMOVE, "", HELPER),
    ("an upgrade", ON + ". /.INSTALL; post_upgrade", "exec", HELPER),
]


@pytest.mark.parametrize(("script", "before", "switch"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_kernels_helper_after_a_scriptlet(machine: Machine, script: str, before: str, switch: str) -> None:
    machine.switch.write_text("/sbin/modprobe\n")
    machine.run(script, before)
    assert machine.now() == switch
