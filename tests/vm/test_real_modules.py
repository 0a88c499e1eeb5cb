"""Run `scan` and `surface` on the modules of Debian's kernels: uncompressed in 6.1, xz in 6.12 and 7.2.

Nothing boots here. The tests check the default policy's promises by class of module, so that they also cover modules
and requests that no rule names.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.vm.cache import TOP
from tests.vm.kernels import NATIVE, kernel
from tests.vm.modprobectl import modprobectl_json

KERNELS = ("bookworm", "bookworm-amd64", "trixie", "sid")


@pytest.fixture(scope="module", params=KERNELS)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return a kernel's name, and a root with its modules and the default policy."""
    root = tmp_path_factory.mktemp(request.param)
    (root / "lib").mkdir()
    (root / "lib/modules").symlink_to(kernel(request.param).root / "lib/modules")
    policy = root / "usr/lib/safe-modprobe/policy.d"
    policy.mkdir(parents=True)
    for path in (TOP / "policy.d").glob("*.toml"):
        shutil.copy(path, policy)
    for path in (policy, *policy.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return request.param, root


@pytest.fixture(scope="module")
def surface(image: tuple[str, Path]) -> Any:
    code, found = modprobectl_json("surface", "--root", image[1], "--json")
    assert code == 0
    return found


def test_both_readers_agree_on_every_module(image: tuple[str, Path]) -> None:
    name, root = image
    code, found = modprobectl_json("scan", "--root", root, "--json")
    assert [(each["path"], each["findings"]) for each in found["modules"] if each["findings"]] == []
    assert code == 0 and len(found["modules"]) > 1000
    marked = {each["module"]: each["marker"] for each in found["modules"] if each["marker"] is not None}
    assert marked == ({
        "smp_marked": "Y", "smp_marked_gz": "Y", "smp_marked_xz": "Y", "smp_marked_zst": "Y", "smp_nested_marked": "Y",
        "smp_net_admin": "CAP_NET_ADMIN",
    } if name == NATIVE else {})  # fmt: skip


def reachable(surface: Any, key: str, cls: str) -> dict[str, str]:
    """Map each module of a class that this caller still gets to the request family that loads it."""
    return {
        each["module"]: each["callers"][key]["family"]
        for each in surface["modules"]
        if each["class"] == cls and each["callers"].get(key, {"verdict": "deny"})["verdict"] != "deny"
    }


OPEN = {"crypto-*", "net-pf-16-proto-4-type-*", "char-major-10-200", "char-major-116-*", "snd-card-*"}
"""Families in 40-open-to-users.toml, and ciphers for an AF_ALG socket that another process opened."""


def test_a_user_gets_only_the_open_families(surface: Any) -> None:
    assert set(reachable(surface, "user", "user").values()) - OPEN == set()


def test_root_of_a_user_namespace_gets_only_mountable_file_systems(surface: Any) -> None:
    assert set(reachable(surface, "userns-root", "userns")) - {"overlay", "fuse", "binfmt_misc"} == set()
    before = next(each for each in surface["callers"] if each["key"] == "userns-root")["before"]
    assert before > 500


def test_cap_net_admin_still_gets_all_network_modules(surface: Any) -> None:
    classes = {
        each["class"]: (each["before"], each["after"])
        for caller in surface["callers"]
        if caller["key"] == "network-admin"
        for each in caller["classes"]
    }
    assert classes["userns"][0] == classes["userns"][1] > 200
    assert classes["network-admin"][0] == classes["network-admin"][1] > 10


EXPLOITED = """af_alg algif_aead authencesn esp4 esp6 nf_tables act_pedit openvswitch cifs ip_set sch_hfsc cls_u32
    vsock_loopback xfrm_user essiv""".split()


@pytest.mark.parametrize("module", EXPLOITED)
def test_an_exploited_module_is_denied_to_unprivileged_callers(surface: Any, module: str) -> None:
    (found,) = (each["callers"] for each in surface["modules"] if each["module"] == module)
    assert {found[key]["verdict"] for key in ("user", "userns-root") if key in found} == {"deny"}
