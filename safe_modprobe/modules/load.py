"""Insert the allowed steps in the plan's order, from the descriptors that the plan read. It decides nothing."""

import errno
import os

from safe_modprobe.kmod import MODULE_INIT_COMPRESSED_FILE, finit_module
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Action, Step, TargetState, TargetVerdict, Verdict
from safe_modprobe.modules.image import compression
from safe_modprobe.modules.modprobe import ENVIRONMENT, MODPROBE


class Tree(NamedTuple):
    """modprobe's -d and -S, for modules with an `install` command, which modprobe loads."""

    directory: str | None = None
    version: str | None = None


RUNNING = Tree()
"""The running kernel's modules, without -d and -S."""


def load(verdict: Verdict, extra_options: str = "", tree: Tree = RUNNING) -> dict[str, OSError | None]:
    """Load all allowed steps. Return each tried module's error, None for success.

    A module that is in the kernel already counts as loaded (EEXIST). Only targets get `extra_options`, as in kmod.
    """
    outcome: dict[str, OSError | None] = {}
    for target in verdict.targets:
        if target.action is not Action.DENY:
            _load_target(target, extra_options, tree, outcome)
    return outcome


def all_loaded(verdict: Verdict, outcome: dict[str, OSError | None]) -> bool:
    """Return whether the alias has a target and every target that is not blacklisted is in the kernel."""
    required = [each for each in verdict.targets if each.target.state is not TargetState.BLACKLISTED]
    return bool(required) and all(
        each.target.state is not TargetState.NEW
        or (each.action is not Action.DENY and outcome.get(each.target.module, _NOT_TRIED) is None)
        for each in required
    )


_NOT_TRIED = OSError(errno.ECANCELED, "a module that it needs failed")


def _load_target(target: TargetVerdict, extra_options: str, tree: Tree, outcome: dict[str, OSError | None]) -> None:
    required = {target.target.module}
    for step in target.target.steps:
        if step.module == target.target.module:
            required.update(step.needs)
    for judged in target.steps:
        step = judged.step
        if judged.action is Action.DENY or step.module in outcome:
            continue
        if any(outcome.get(name) is not None for name in step.needs):
            outcome[step.module] = _NOT_TRIED
        else:
            options = extra_options if step.module == target.target.module else ""
            outcome[step.module] = _insert(step, options, tree)
        if outcome[step.module] is not None and step.module in required:
            return


def _insert(step: Step, extra_options: str, tree: Tree) -> OSError | None:
    if step.install:
        return _modprobe(step.module, tree)
    if step.image < 0:
        return OSError(errno.ENOENT, "the module's file could not be opened")
    options = f"{step.options} {extra_options}".strip()
    flags = MODULE_INIT_COMPRESSED_FILE if compression(step.image) is not None else 0
    try:
        finit_module(step.image, os.fsencode(options), flags)
    except OSError as error:
        return None if error.errno == errno.EEXIST else error
    return None


def _modprobe(module: str, tree: Tree) -> OSError | None:
    """Load a module by modprobe(8), which runs its `install` command."""
    command = [MODPROBE, "-q"]
    command += ["-d", tree.directory] if tree.directory else []
    command += ["-S", tree.version] if tree.version else []
    try:
        pid = os.posix_spawn(MODPROBE, [*command, "--", module], ENVIRONMENT)
    except OSError as error:
        return error
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return OSError(errno.EIO, f"{MODPROBE} ended with {status}") if status else None
