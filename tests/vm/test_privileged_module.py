"""Compile modules with privileged_module.h against a real kernel's headers, also by DKMS as the document shows.

Nothing boots here. Scenarios load such modules in guests: smp_marked and smp_net_admin.
"""

import re
import shutil
import subprocess
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest

from tests.vm.cache import TOP, cached, digest, run
from tests.vm.kernels import HEADER, NATIVE, kernel
from tests.vm.modprobectl import modprobectl_json

DOCUMENT = TOP / "docs/privileged-modules.md"

ACCEPTED = {
    "at_all": ("MODULE_PRIVILEGED();", "Y"),
    "by_one": ('MODULE_PRIVILEGED("CAP_NET_ADMIN");', "CAP_NET_ADMIN"),
    "in_parts": ('MODULE_PRIVILEGED("CAP_" "SYS_ADMIN");', "CAP_SYS_ADMIN"),
    "twice_the_same": ('MODULE_PRIVILEGED("CAP_NET_RAW");\nMODULE_PRIVILEGED("CAP_NET_RAW");', "CAP_NET_RAW"),
}
DOUBTFUL = {
    "two": ('MODULE_PRIVILEGED("CAP_NET_ADMIN");\nMODULE_PRIVILEGED();', "its marker privileged= has several values"),
    "none_such": ('MODULE_PRIVILEGED("CAP_NET_ADMON");', "its marker privileged= has no known value"),
    "with_a_space": ('MODULE_PRIVILEGED("CAP_NET_ADMIN ");', "its marker privileged= has no known value"),
}
NO_NAME = r"MODULE_PRIVILEGED() takes a name such as \"CAP_NET_ADMIN\""
REFUSED = {
    "lower": ('MODULE_PRIVILEGED("net_admin");', NO_NAME),
    "empty": ('MODULE_PRIVILEGED("");', NO_NAME),
    "yes": ('MODULE_PRIVILEGED("Y");', NO_NAME),
    "no": ('MODULE_PRIVILEGED("N");', NO_NAME),
    "nul": (r'MODULE_PRIVILEGED("CAP_NET_ADMIN\0privileged=N");', NO_NAME),
    "two": ('MODULE_PRIVILEGED("CAP_NET_ADMIN", "CAP_SYS_ADMIN");', "MODULE_PRIVILEGED() takes one capability"),
    "three": ('MODULE_PRIVILEGED("CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_NET_RAW");', ""),
    "bare": ("MODULE_PRIVILEGED(CAP_NET_ADMIN);", ""),
    "number": ("MODULE_PRIVILEGED(12);", ""),
    "null": ("MODULE_PRIVILEGED(NULL);", ""),
    "variable": ('static const char cap[] = "CAP_NET_ADMIN";\nMODULE_PRIVILEGED(cap);', ""),
    "word": ("MODULE_PRIVILEGED;", ""),
}


@pytest.fixture(scope="module")
def version() -> str:
    return kernel(NATIVE).version


def compiled(name: str, rows: dict[str, tuple[str, str]], version: str) -> tuple[Path, str]:
    """Compile a module for each row. Return the folder of those that compile, and the compiler's messages."""

    def make(folder: Path) -> None:
        shutil.copy(HEADER, folder)
        for module, (line, _) in rows.items():
            (folder / f"{module}.c").write_text(
                f'#include "privileged_module.h"\n{line}\nMODULE_DESCRIPTION("");\nMODULE_LICENSE("GPL");\n'
            )
        (folder / "Kbuild").write_text("".join(f"obj-m += {module}.o\n" for module in rows))
        command = ["make", "-k", "-C", f"/usr/src/linux-headers-{version}", f"M={folder}", "modules"]
        (folder / "stderr").write_text(subprocess.run(command, capture_output=True, text=True).stderr)

    key = digest(HEADER, repr(rows), version, run(["gcc", "--version"]), getsource(compiled))
    folder = cached(f"privileged-{name}", key, make)
    return folder, (folder / "stderr").read_text()


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, version: str) -> dict[str, Any]:
    work, messages = compiled("compile", ACCEPTED | DOUBTFUL, version)
    root = tmp_path_factory.mktemp("root")
    assert "error" not in messages and "warning" not in messages, messages
    folder = root / "lib/modules" / version
    folder.mkdir(parents=True)
    for module in work.glob("*.ko"):
        shutil.copy(module, folder)
    code, found = modprobectl_json("scan", "--root", root, "--kernel", version, "--json")
    assert code == 1 and len(found["modules"]) == len(ACCEPTED | DOUBTFUL)
    return {each["module"]: each for each in found["modules"]}


@pytest.mark.parametrize("name", ACCEPTED)
def test_both_readers_find_the_marker(scanned: dict[str, Any], name: str) -> None:
    """`scan` reads every module by libkmod and by pyelftools, and reports where they disagree."""
    assert (scanned[name]["marker"], scanned[name]["findings"]) == (ACCEPTED[name][1], [])


@pytest.mark.parametrize("name", DOUBTFUL)
def test_scan_reports_a_marker_that_compiles_but_is_invalid(scanned: dict[str, Any], name: str) -> None:
    (finding,) = scanned[name]["findings"]
    assert finding.startswith(DOUBTFUL[name][1]) and scanned[name]["needs"] == "CAP_SYS_MODULE"


@pytest.fixture(scope="module")
def refused(version: str) -> tuple[Path, str]:
    folder, messages = compiled("refused", {**REFUSED, "control": ACCEPTED["by_one"]}, version)
    assert (folder / "control.o").exists()
    return folder, messages


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_capability_does_not_compile(refused: tuple[Path, str], name: str) -> None:
    folder, messages = refused
    assert not (folder / f"{name}.o").exists()
    # gcc reports an error at the macro's definition, and its use in a note that follows.
    reasons = [part for part in re.split(r"(?m)^(?=.*error: )", messages) if f"/{name}.c:" in part]
    assert any(REFUSED[name][1] in reason for reason in reasons), messages


def blocks() -> dict[str, str]:
    """Return the files that the document shows, by name."""
    return dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL))


def test_the_documents_dkms_package_builds_and_is_marked(tmp_path: Path, version: str) -> None:
    sources, tree, root = tmp_path / "src/example-1.0", tmp_path / "dkms", tmp_path / "root"
    for folder in (sources, tree, root / "lib/modules" / version):
        folder.mkdir(parents=True)
    for name, text in blocks().items():
        (sources / name).write_text(text)
    shutil.copy(HEADER, sources)
    named = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith("/usr/src/"))
    assert sorted(path.name for path in sources.iterdir()) == sorted(
        Path(named.split()[0]).name.split() + named.split()[1:]
    )
    # DKMS creates a signing key in /var/lib/dkms. A private mount namespace keeps it off the host's.
    aside = ["unshare", "--mount", "sh", "-euc", 'mount -t tmpfs none /var/lib/dkms; exec "$@"', "sh"]
    done = subprocess.run(
        [*aside, "dkms", "install", "-m", "example", "-v", "1.0", "-k", version, "--no-depmod",
         "--sourcetree", sources.parent, "--dkmstree", tree, "--installtree", root / "lib/modules",
         "--kernelsourcedir", f"/usr/src/linux-headers-{version}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run(["depmod", "-b", root, version], check=True, capture_output=True)
    code, found = modprobectl_json("scan", "--root", root, "--kernel", version, "--json")
    (module,) = found["modules"]
    assert (code, module["module"], module["marker"], module["findings"]) == (0, "example", "CAP_NET_ADMIN", [])
    command = ["modinfo", "-b", root, "-k", version, "-F", "privileged", "example"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "CAP_NET_ADMIN\n"
    for uid, verdict in (("1000", "deny"), ("0", "allow")):
        _, explained = modprobectl_json(
            "explain", "net-pf-45", "--uid", uid, "--root", root, "--kernel", version, "--json"
        )
        assert explained["verdict"] == verdict
