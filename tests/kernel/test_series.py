"""Check the text of the series: it applies to each suite's sources, follows mainline's style, and declares requests."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.build import FRAGMENT, PATCHES, SUITES, apply, originals, series

_SIGNED = "Signed-off-by: safe-modprobe developers <safe-modprobe@example.org>"
# The code around has the same style: -ENOSYS and unused arguments where there are no modules, an argument used twice
# in try_then_request_module(), calls that begin with an open line. FILE_PATH_CHANGES asks for a maintainer of the
# documentation page, and there is none.
_IGNORED = "ENOSYS,MACRO_ARG_UNUSED,MACRO_ARG_REUSE,OPEN_ENDED_LINE,FILE_PATH_CHANGES"

_CALL = re.compile(
    r"request_module(?:_nowait)?_(?:cap|for)\(\s*(?P<arguments>(?:[^()\"]|\([^()]*\)|\"[^\"]*\")*)\)", re.DOTALL
)

_COMMA = re.compile(r",(?![^\"]*\"(?:[^\"]*\"[^\"]*\")*[^\"]*$)")
"""A comma outside of a string literal."""


@pytest.fixture(scope="module", params=SUITES)
def patched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree with the files that the series changes, after the series."""
    tree = tmp_path_factory.mktemp(request.param) / "linux"
    shutil.copytree(originals(request.param), tree)
    apply(request.param, tree)
    return tree


def test_every_patch_is_in_a_series_and_all_series_list_the_same_names() -> None:
    used = [patch for suite in SUITES for patch in series(suite)]
    assert set(used) == set(PATCHES.glob("*/*.patch"))
    assert len({tuple(patch.name for patch in series(suite)) for suite in SUITES}) == 1
    for suite in SUITES:
        assert [patch.name[:4] for patch in series(suite)] == [f"{n:04}" for n in range(1, len(series(suite)) + 1)]


def test_no_patch_is_stored_twice() -> None:
    patches = sorted(PATCHES.glob("*/*.patch"))
    texts = [re.sub(r"^@@ .*$", "", patch.read_text(), flags=re.MULTILINE) for patch in patches]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("suite", SUITES)
def test_every_patch_has_a_subject_a_reason_and_a_signature(suite: str) -> None:
    for patch in series(suite):
        head = patch.read_text().partition("\n---\n")[0]
        subject = re.search(r"^Subject: \[PATCH\] (.*)$", head, re.MULTILINE)
        assert subject and len(subject[1]) <= 75, patch
        assert head.endswith(_SIGNED), patch
        assert (
            len(head.partition("\n\n")[2].removesuffix(_SIGNED)) > 100
        ), f"{patch}: the commit message gives no reason"


def test_it_applies_without_fuzz(patched: Path) -> None:
    assert list(patched.rglob("*.orig")) == [] == list(patched.rglob("*.rej"))
    assert (patched / "Documentation/admin-guide/modprobe-caller-args.rst").exists()


@pytest.mark.parametrize("suite", SUITES)
def test_checkpatch_finds_nothing(suite: str) -> None:
    tree = originals(suite)
    done = subprocess.run(
        ["perl", "scripts/checkpatch.pl", "--strict", "--terse", "--no-tree", "--no-summary", "--show-types",
         "--ignore", _IGNORED, *series(suite)],
        cwd=tree, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def declared(tree: Path) -> list[tuple[str, list[str]]]:
    """Return (file, arguments) of every declared request. kmod.c is left out, because it only defines the functions."""
    found = []
    for path in sorted(set(tree.rglob("*.c")) - set(tree.rglob("kmod.c"))):
        for call in _CALL.finditer(path.read_text(errors="replace")):
            arguments = [
                " ".join(each.split()) for each in re.split(r",(?![^\"]*\"(?:[^\"]*\"[^\"]*\")*[^\"]*$)", call[1])
            ]
            found.append((str(path.relative_to(tree)), arguments))
    return found


def test_every_declared_name_begins_with_its_prefix(patched: Path) -> None:
    """Prefix and format are literals, so that no user can make the kernel refuse all requests of a call site."""
    calls = declared(patched)
    assert len(calls) > 55
    for where, arguments in calls:
        index = next(n for n, each in enumerate(arguments) if each == "0" or each.startswith("CAP_"))
        prefix, shape = arguments[index + 1 : index + 3]
        if prefix.startswith('"') and shape.startswith('"') and shape != '"%s"':
            assert shape.strip('"').startswith(prefix.strip('"')), (where, arguments)
        else:  # The format begins with the prefix itself, or with a value of a table whose entries all begin with it.
            assert (
                shape.startswith((prefix, '"%st_%s"', '"%stable_%s"', '"%s%s"'))
                or (prefix, where) == ('""', "net/core/dev_ioctl.c")
                or (prefix, where) == ('"rds_"', "net/rds/transport.c")
            ), (where, arguments)


FAMILIES = """netdev- tcp_ tcp-ulp- rtnl-link- rtnl-lwt- nfnetlink-subsys- fs- xfrm-type- dm- md- net-pf- can-proto-
    bt-proto- algif- crypto- tty-ldisc- char-major- block-major- bridge 8021q rds_""".split()


def test_all_known_alias_families_are_declared(patched: Path) -> None:
    text = " ".join(" ".join(arguments) for _, arguments in declared(patched))
    assert [family for family in FAMILIES if f'"{family}"' not in text] == []
    for name in ("sch", "cls", "act"):
        assert f'"{name}_"' in text or f"NET_{name.upper()}_ALIAS_PREFIX" in text


def test_the_helpers_arguments_are_copied_off_the_stack(patched: Path) -> None:
    (kmod,) = patched.rglob("kmod.c")
    text = kmod.read_text()
    assert "kstrdup(caller, GFP_KERNEL)" in text
    assert "kfree(info->argv[4])" in text


def test_no_security_module_decides_who_is_privileged(patched: Path) -> None:
    """A root daemon whose profile lacks sys_module still counts as privileged, as it does by /proc/TID/status."""
    (kmod,) = patched.rglob("kmod.c")
    code = re.sub(r"/\*.*?\*/", "", kmod.read_text(), flags=re.DOTALL)
    assert "cap_raised(cred->cap_effective, cap)" in code
    assert not re.search(r"capable\w*\(", code)


def test_the_kernel_option_is_off_by_default(patched: Path) -> None:
    option = (patched / "kernel/module/Kconfig").read_text().partition("config MODPROBE_CALLER_ARGS\n")[2]
    assert "default" not in option.partition("\nconfig ")[0].partition("help")[0]
    assert "CONFIG_MODPROBE_CALLER_ARGS=y" in FRAGMENT.read_text().splitlines()
