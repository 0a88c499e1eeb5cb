"""What is inserted, in which order, and what of it failed.

The system call and /sbin/modprobe are the real ones. No file here is a module, so no kernel takes one: the rows
are about failures. Successes are in tests/vm.
"""

import errno
import os
from pathlib import Path

import pytest

from safe_modprobe.callers.kernel_args import parse
from safe_modprobe.decide import decide
from safe_modprobe.model import Caller, Plan, Step, Target, TargetState, Verdict
from safe_modprobe.modules.load import Tree, all_loaded, load
from tests.unit.make import ROOT, USER, N, Y, plan, policy, step

NOT_TRIED = errno.ECANCELED
REFUSALS = {errno.ENOSYS, errno.EPERM, errno.ENOEXEC, errno.EKEYREJECTED, errno.ENOPKG, errno.EBADMSG}
"""The kernel's own words for a file that is no module: no modules at all, locked down, no ELF, no signature."""


@pytest.fixture
def fd(tmp_path: Path) -> int:
    (tmp_path / "no-module").write_text("this is no module")
    return os.open(tmp_path / "no-module", os.O_RDONLY)


def verdict(steps: Plan, who: Caller = ROOT) -> Verdict:
    return decide(policy(""), parse(["x"]).request, who, steps)


def outcome(found: Verdict) -> dict[str, object]:
    """The errno of each step that was tried; KERNEL for whatever this kernel says to a text file."""
    every = load(found, tree=Tree("/nowhere", "0"))
    assert not all_loaded(found, every)
    words: dict[str, object] = {name: None if error is None else error.errno for name, error in every.items()}
    return {name: "kernel" if word in REFUSALS else word for name, word in words.items()}


def target(*steps: Step) -> Target:
    return Target(steps[-1].module, TargetState.NEW, steps)


ROWS = [
    (plan(step("m", image=0)), ROOT, {"m": "kernel"}),
    (plan(step("m")), ROOT, {"m": errno.ENOENT}),
    (plan(step("m", install=True)), ROOT, {"m": errno.EIO}),
    # Nothing after a required step that failed.
    (plan(step("d", image=0), step("m", Y, "d", image=0)), ROOT, {"d": "kernel"}),
    (plan(step("c"), step("d", Y, "c", image=0), step("m", Y, "c", "d", image=0)), ROOT, {"c": errno.ENOENT}),
    # A soft dependency that fails is passed over, and so is what needs it.
    (plan(step("s", image=0), step("m", image=0)), ROOT, {"s": "kernel", "m": "kernel"}),
    (plan(step("d"), step("s", Y, "d", image=0), step("m", image=0)), ROOT, {"d": errno.ENOENT, "s": NOT_TRIED, "m": "kernel"}),
    # What was refused is not tried, and brings nothing in.
    (plan(step("m", Y, image=0)), USER, {}),
    (plan(step("d", Y, image=0), step("m", N, "d", image=0)), USER, {}),
    (plan(step("d", image=0), step("m", Y, "d", image=0)), USER, {}),
    (plan(step("s", Y, image=0), step("m", image=0)), USER, {"m": "kernel"}),
    # Each module once, however many targets it belongs to, and its failure counts for all of them.
    (Plan("x", (target(step("m", image=0)), target(step("m", image=0)))), ROOT, {"m": "kernel"}),
    (
        Plan("x", (target(step("d"), step("m", Y, "d", image=0)), target(step("d"), step("n", Y, "d", image=0)))),
        ROOT,
        {"d": errno.ENOENT, "n": NOT_TRIED},
    ),
    (Plan("x", (target(step("m", Y, image=0)), target(step("n", image=0)))), USER, {"n": "kernel"}),
    (Plan("x"), ROOT, {}),
    (Plan("x", (Target("m", TargetState.BLACKLISTED),)), ROOT, {}),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "who", "expected"), ROWS)
def test_what_is_tried_and_what_comes_of_it(steps: Plan, who: Caller, expected: dict[str, object], fd: int) -> None:
    def with_file(each: Target) -> Target:
        return each._replace(steps=tuple(s._replace(image=fd) if s.image == 0 else s for s in each.steps))

    with_files = steps._replace(targets=tuple(map(with_file, steps.targets)))
    assert outcome(verdict(with_files, who)) == expected


def test_modprobes_own_word_for_a_failure() -> None:
    error = load(verdict(plan(step("m", install=True))), tree=Tree("/nowhere", "0"))["m"]
    assert error is not None and error.strerror == "/sbin/modprobe ended with 1"


def test_an_option_with_a_nul_never_gets_to_the_kernel(fd: int) -> None:
    with pytest.raises(ValueError, match="NUL"):
        load(verdict(plan(step("m", image=fd, options="a=\0"))))


ONE, TWO = plan(step("m")).targets[0], plan(step("n")).targets[0]
FAILED = OSError(errno.ENOEXEC, "no")
DONE = [
    ((ONE,), ROOT, {"m": None}, True),
    ((ONE, TWO), ROOT, {"m": None, "n": None}, True),
    ((ONE,), ROOT, {"s": FAILED, "m": None}, True),
    ((Target("m", TargetState.LIVE),), USER, {}, True),
    ((Target("m", TargetState.BUILT_IN),), USER, {}, True),
    ((Target("b", TargetState.BLACKLISTED), ONE), ROOT, {"m": None}, True),
    # 0 would tell the kernel that all of it is there.
    ((), ROOT, {}, False),
    ((Target("b", TargetState.BLACKLISTED),), ROOT, {}, False),
    ((ONE,), ROOT, {}, False),
    ((ONE,), ROOT, {"m": FAILED}, False),
    ((ONE, TWO), ROOT, {"m": None}, False),
    ((ONE, TWO), ROOT, {"m": None, "n": FAILED}, False),
    ((Target("l", TargetState.LIVE), ONE), ROOT, {}, False),
    (plan(step("m", Y)).targets, USER, {}, False),
    (plan(step("m", Y)).targets, USER, {"m": None}, False),
    ((*plan(step("m", Y)).targets, TWO), USER, {"n": None}, False),
]


@pytest.mark.parametrize(("targets", "who", "found", "whole"), DONE)
def test_only_all_of_it_is_a_success(
    targets: tuple[Target, ...], who: Caller, found: dict[str, OSError | None], whole: bool
) -> None:
    assert all_loaded(verdict(Plan("x", targets), who), found) is whole
