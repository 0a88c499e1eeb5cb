"""The Debian package, built by each release's own tools, before anything boots with it (tests/boot)."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.vm.cache import TOP
from tests.vm.kernels import NATIVE
from tests.vm.product import build_root, deb, product
from tests.vm.roots import SUITES

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
