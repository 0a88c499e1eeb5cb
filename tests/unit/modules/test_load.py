"""Loading: which steps are tried, in which order, and which errors are returned.

The system call and /sbin/modprobe are real. No file here is a module, so every load fails. Successes are tested in
tests/vm.
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
"""The kernel's errors for a text file: no module support, lockdown, no ELF file, no signature."""


@pytest.fixture
def fd(tmp_path: Path) -> int:
    (tmp_path / "no-module").write_text("this is no module")
    return os.open(tmp_path / "no-module", os.O_RDONLY)


def verdict(steps: Plan, who: Caller = ROOT) -> Verdict:
    return decide(policy(""), parse(["x"]).request, who, steps)


def outcome(found: Verdict) -> dict[str, object]:
    """Return the errno of each step that was tried, "kernel" for an errno of REFUSALS."""
    errors = load(found, tree=Tree("/nowhere", "0"))
    assert not all_loaded(found, errors)
    numbers: dict[str, object] = {name: None if error is None else error.errno for name, error in errors.items()}
    return {name: "kernel" if number in REFUSALS else number for name, number in numbers.items()}


def target(*steps: Step) -> Target:
    return Target(steps[-1].module, TargetState.NEW, steps)


ROWS = [
    (plan(step("m", image=0)), ROOT, {"m": "kernel"}),
    (plan(step("m")), ROOT, {"m": errno.ENOENT}),
    (plan(step("m", install=True)), ROOT, {"m": errno.EIO}),
    # No step is tried after a required step that failed.
    (plan(step("d", image=0), step("m", Y, "d", image=0)), ROOT, {"d": "kernel"}),
    (plan(step("c"), step("d", Y, "c", image=0), step("m", Y, "c", "d", image=0)), ROOT, {"c": errno.ENOENT}),
    # A soft dependency that fails is skipped, and so are the steps that need it.
    (plan(step("s", image=0), step("m", image=0)), ROOT, {"s": "kernel", "m": "kernel"}),
    (plan(step("d"), step("s", Y, "d", image=0), step("m", image=0)), ROOT, {"d": errno.ENOENT, "s": NOT_TRIED, "m": "kernel"}),
    # A refused step is not tried, and neither are the dependencies that only it needs.
    (plan(step("m", Y, image=0)), USER, {}),
    (plan(step("d", Y, image=0), step("m", N, "d", image=0)), USER, {}),
    (plan(step("d", image=0), step("m", Y, "d", image=0)), USER, {}),
    (plan(step("s", Y, image=0), step("m", image=0)), USER, {"m": "kernel"}),
    # A module of several targets is tried once, and its failure counts for all of them.
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
def test_steps_are_tried_in_order_and_errors_returned(
    steps: Plan, who: Caller, expected: dict[str, object], fd: int
) -> None:
    def with_file(each: Target) -> Target:
        return each._replace(steps=tuple(s._replace(image=fd) if s.image == 0 else s for s in each.steps))

    with_files = steps._replace(targets=tuple(map(with_file, steps.targets)))
    assert outcome(verdict(with_files, who)) == expected


def test_the_exit_status_of_modprobe_is_in_the_error() -> None:
    error = load(verdict(plan(step("m", install=True))), tree=Tree("/nowhere", "0"))["m"]
    assert error is not None and error.strerror == "/sbin/modprobe ended with 1"


def test_an_option_with_a_nul_is_rejected(fd: int) -> None:
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
    # The exit status 0 would tell the kernel that the module is loaded.
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


@pytest.mark.parametrize(("targets", "who", "found", "success"), DONE)
def test_loading_succeeds_only_if_all_targets_are_loaded(
    targets: tuple[Target, ...], who: Caller, found: dict[str, OSError | None], success: bool
) -> None:
    assert all_loaded(verdict(Plan("x", targets), who), found) is success
