"""Plans on real module trees: steps, dependencies, and markers under any compression and in unreadable files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_modprobe.admin.modules.inspect_plan import read_as_unloaded, read_plans
from safe_modprobe.callers.kernel_args import parse
from safe_modprobe.capability import SYS_MODULE, Capability
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.model import UNMARKED, Marker, Plan, Request, Target, TargetState
from safe_modprobe.modules.plan import modules_folder, parse_marker, read_plan
from tests.tree.build import Mod, build_tree
from tests.unit.descriptors import nothing_left_open

Y = (b"privileged=Y",)
MODULES = (
    Mod("plain", ("alias-plain", "two-*")),
    Mod("marked", ("two-x",), info=Y),
    *[Mod(f"marked_{pack}", info=Y, pack=pack) for pack in ("xz", "zst", "gz")],
    *[Mod(f"plain_{pack}", pack=pack) for pack in ("xz", "zst", "gz")],
    Mod("needs", (), ("marked",)),
    Mod("soft", (), softdep="pre: needs"),
    Mod("fs", ("fs-x",), filesystem=True),
    Mod("no_fs", ("fs-y",)),
    Mod("broken", ()),
    Mod("gone", ()),
    Mod("cut", (), pack="xz"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build_tree(tmp_path_factory.mktemp("tree"), MODULES)
    (made / "kernel/broken.ko").write_bytes(b"\x7fELF and no more")
    (made / "kernel/gone.ko").unlink()
    cut = made / "kernel/cut.ko"
    cut.write_bytes(cut.read_bytes()[:100])
    return made


def steps(folder: Path, alias: str, *args: str) -> list[tuple[str, str | None]]:
    plan = read_plan(parse(["--", alias, *args]).request, str(folder))
    return [(step.module, step.marker.written) for target in plan.targets for step in target.steps]


PLANS = [
    ("plain", [("plain", None)]), ("alias-plain", [("plain", None)]), ("marked", [("marked", "Y")]),
    ("needs", [("marked", "Y"), ("needs", None)]), ("soft", [("marked", "Y"), ("needs", None), ("soft", None)]),
    *[(f"marked_{pack}", [(f"marked_{pack}", "Y")]) for pack in ("xz", "zst", "gz")],
    *[(f"plain_{pack}", [(f"plain_{pack}", None)]) for pack in ("xz", "zst", "gz")],
    ("built_in", []), ("nothing", []), ("[", []), ("../plain", []), ("a\0b"[:1], []),
]  # fmt: skip


@pytest.mark.parametrize(("alias", "expected"), PLANS)
def test_steps_and_their_markers(folder: Path, alias: str, expected: list[tuple[str, str | None]]) -> None:
    assert steps(folder, alias) == expected


AS_NEW = [
    ("plain", ["plain"], ("plain", "alias-plain", "two-*")),
    ("marked_gz", ["marked_gz"], ("marked_gz",)),
    ("needs", ["marked", "needs"], ("needs",)),
    ("soft", ["marked", "needs", "soft"], ("soft",)),
    ("broken", ["broken"], ("broken",)),
    ("cut", ["cut"], ("cut",)),
    ("gone", ["gone"], ("gone",)),
    ("built_in", [], ("built_in",)),
]


@pytest.mark.parametrize(("name", "steps", "aliases"), AS_NEW)
def test_a_module_is_read_by_name_as_if_it_were_not_loaded(
    folder: Path, name: str, steps: list[str], aliases: tuple[str, ...]
) -> None:
    found = read_as_unloaded(name, str(folder))
    assert found is not None
    assert ([step.module for step in found.target.steps], found.aliases) == (steps, aliases)
    assert found.target.state == (TargetState.BUILT_IN if name == "built_in" else TargetState.NEW)


@pytest.mark.parametrize("name", ["nothing", "alias-plain", "two-x", "two-*"])
def test_read_as_unloaded_takes_no_alias(folder: Path, name: str) -> None:
    assert read_as_unloaded(name, str(folder)) is None


@pytest.mark.parametrize("alias", ["broken", "gone", "cut"])
def test_an_unreadable_module_is_privileged(folder: Path, alias: str) -> None:
    (target,) = read_plan(parse(["--", alias]).request, str(folder)).targets
    (step,) = target.steps
    assert step.marker.capability == SYS_MODULE
    assert step.marker.written is not None and step.marker.written.startswith("unreadable (")


def test_a_plan_has_every_target_of_an_alias(folder: Path) -> None:
    plan = read_plan(parse(["two-x"]).request, str(folder))
    assert sorted(target.module for target in plan.targets) == ["marked", "plain"]


def test_steps_name_their_dependencies_and_targets_their_state(folder: Path) -> None:
    plan = read_plan(parse(["soft"]).request, str(folder))
    assert [(step.module, step.needs) for step in plan.targets[0].steps] == [
        ("marked", ()),
        ("needs", ("marked",)),
        ("soft", ()),
    ]
    assert read_plan(parse(["built_in"]).request, str(folder)).targets[0].state is TargetState.BUILT_IN


@pytest.mark.parametrize(("alias", "registers"), [("fs-x", True), ("fs-y", False), ("broken", False)])
def test_a_module_that_registers_a_file_system_is_recognised(folder: Path, alias: str, registers: bool) -> None:
    plan = read_plan(parse(["--", alias, "grsec_modharden_fs"]).request, str(folder))
    assert plan.targets[0].steps[-1].registers_filesystem is registers


@pytest.mark.parametrize("pack", ["xz", "zst", "gz"])
def test_a_copy_is_sealed(folder: Path, pack: str) -> None:
    """If the kernel cannot decompress, it gets memory that cannot change, even through another descriptor."""
    step = read_plan(parse([f"marked_{pack}"]).request, str(folder)).targets[0].steps[0]
    assert step.image != step.fd and os.pread(step.image, 4, 0) == b"\x7fELF"
    with pytest.raises(OSError, match="Operation not permitted|Bad file"):
        writable = os.open(f"/proc/self/fd/{step.image}", os.O_RDWR)
        os.write(writable, b"x")


MARKERS = [
    ([], UNMARKED), ([("license", "GPL")], UNMARKED), ([("privileged", "N")], Marker("N")),
    ([("privileged", "Y")], Marker("Y", SYS_MODULE)), ([("privileged", "Y"), ("privileged", "Y")], Marker("Y", SYS_MODULE)),
    ([("privileged", "CAP_NET_ADMIN")], Marker("CAP_NET_ADMIN", Capability(12))),
    ([("privileged", "")], Marker("no known value ('')", SYS_MODULE)),
    ([("privileged", "y")], Marker("no known value ('y')", SYS_MODULE)),
    ([("privileged", "n")], Marker("no known value ('n')", SYS_MODULE)),
    ([("privileged", "N ")], Marker("no known value ('N ')", SYS_MODULE)),
    ([("privileged", "0")], Marker("no known value ('0')", SYS_MODULE)),
    ([("privileged", "CAP_NONE")], Marker("no known value ('CAP_NONE')", SYS_MODULE)),
    ([("privileged", "\udcff\n")], Marker("no known value ('\\udcff\\n')", SYS_MODULE)),
    ([("privileged", "N"), ("privileged", "Y")], Marker("several values ('N', 'Y')", SYS_MODULE)),
    ([("privileged", "N"), ("privileged", "CAP_BPF")], Marker("several values ('CAP_BPF', 'N')", SYS_MODULE)),
    ([("Privileged", "Y")], UNMARKED),
]  # fmt: skip


@pytest.mark.parametrize(("info", "found"), MARKERS)
def test_parse_marker(info: list[tuple[str, str]], found: Marker) -> None:
    assert parse_marker(info) == found


def test_modules_folder_follows_modprobes_options(tmp_path: Path) -> None:
    assert modules_folder(None, None) is None
    (tmp_path / "usr/lib/modules/9").mkdir(parents=True)
    assert modules_folder(str(tmp_path), "9") == f"{tmp_path}/usr/lib/modules/9"
    assert modules_folder(str(tmp_path), "8") == f"{tmp_path}/lib/modules/8"
    with pytest.raises(SafeModprobeError, match="no such folder of modules"):
        read_plan(parse(["x"]).request, f"{tmp_path}/lib/modules/8")


REQUESTS = ["plain", "marked", "needs", "soft", "built_in", "nothing", "[", "two-x", "marked_xz", "marked_gz", "broken"]


@pytest.mark.parametrize("as_if_new", [False, True])
def test_many_plans_are_the_same_as_one_by_one(folder: Path, as_if_new: bool) -> None:
    """Only their descriptors differ: read_plans() leaves none open."""
    requests = [parse(["--", alias]).request for alias in REQUESTS]
    with nothing_left_open():
        plans = list(read_plans(requests, str(folder), [], as_if_new))
    assert [plan.alias for plan in plans] == REQUESTS
    for request, plan in zip(requests, plans, strict=True):
        alone = read_plan(request, str(folder), [])
        assert plan == alone._replace(targets=tuple(map(closed, alone.targets)))


def closed(target: Target) -> Target:
    """Close a target's descriptors and return it without them."""
    for step in target.steps:
        for fd in {step.fd, step.image} - {-1}:
            os.close(fd)
    return target._replace(steps=tuple(step._replace(fd=-1, image=-1) for step in target.steps))


def test_many_plans_read_a_module_once(folder: Path) -> None:
    first, second = read_plans([parse(["needs"]).request, parse(["soft"]).request], str(folder), [])
    assert first.targets[0].steps[0] is second.targets[0].steps[0]


def test_modprobe_d_counts_with_and_without_as_if_new(folder: Path, tmp_path: Path) -> None:
    """This holds for aliases, blacklists and install commands of modprobe.d."""
    (tmp_path / "x.conf").write_text(
        "alias net-pf-99 plain\nblacklist fs\ninstall no_fs /bin/false\nsoftdep plain pre: built_in\n"
    )
    for as_if_new in (False, True):
        plans = list(
            read_plans(
                [parse([a]).request for a in ("net-pf-99", "fs-x", "fs-y")], str(folder), [str(tmp_path)], as_if_new
            )
        )
        assert [[(each.module, each.state) for each in plan.targets] for plan in plans] == [
            [("plain", TargetState.NEW)],
            [("fs", TargetState.BLACKLISTED)],
            [("no_fs", TargetState.NEW)],
        ]
        assert [step.module for step in plans[0].targets[0].steps] == ["plain"]
        assert plans[2].targets[0].steps[0].install


@pytest.mark.parametrize("read", [read_plan, lambda request, folder: next(read_plans([request], folder))])
def test_a_folder_without_modules_dep_is_an_error(tmp_path: Path, read: Callable[[Request, str], Plan]) -> None:
    """No module would be found in it, and an alias that no module matches is allowed."""
    with pytest.raises(SafeModprobeError) as raised:
        read(parse(["fs-x"]).request, str(tmp_path))
    assert str(raised.value) == (f"{tmp_path}: modules.dep is missing; give the right -d and -S, or run depmod")


def test_many_plans_need_an_existing_folder(tmp_path: Path) -> None:
    with pytest.raises(SafeModprobeError, match="no such folder of modules; give the right -d and -S"):
        next(read_plans([parse(["x"]).request], f"{tmp_path}/lib/modules/8"))
