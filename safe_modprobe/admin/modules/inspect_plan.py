"""Read plans for inspection: of many requests, of other kernels, or as if no module were loaded yet.

These plans must not be loaded, because their files are closed. The helper does not use this module.
"""

import os
from collections.abc import Iterable, Iterator, Sequence

from safe_modprobe.kmod import (
    KMOD_PROBE_APPLY_BLACKLIST_ALIAS_ONLY,
    KMOD_PROBE_IGNORE_LOADED,
    Action,
    Kmod,
    KmodError,
    Module,
)
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Plan, Request, Step, Target, TargetState
from safe_modprobe.modules.plan import PlanReader, kmod_of


def read_plans(
    requests: Iterable[Request],
    folder: str | None = None,
    config: Sequence[str] | None = None,
    as_if_new: bool = False,
) -> Iterator[Plan]:
    """Yield the plan of each request. Every module is read once, and no descriptor stays open.

    `as_if_new` plans as if no module were loaded yet. Raises the errors of read_plan().
    """
    kmod = kmod_of(folder, config)
    steps: dict[str, Step] = {}
    for request in requests:
        yield _PlanInspector(request, kmod, steps, as_if_new).plan()


class UnloadedModule(NamedTuple):
    """A module, planned as if it were not loaded. `aliases` begins with its name; `now` is its state in this kernel."""

    target: Target
    aliases: tuple[str, ...]
    now: TargetState


def read_as_unloaded(
    name: str, folder: str | None = None, config: Sequence[str] | None = None
) -> UnloadedModule | None:
    """Return the module of this name, or None if this kernel has none. Raises the errors of read_plan()."""
    return _PlanInspector(Request(name), kmod_of(folder, config), {}, True).as_unloaded(name)


class _PlanInspector(PlanReader):
    """A plan reader that shares its steps with the readers of other requests, and keeps no file open."""

    def __init__(self, request: Request, kmod: Kmod, steps: dict[str, Step], as_if_new: bool) -> None:
        super().__init__(request, kmod)
        self.steps = steps
        self.as_if_new = as_if_new
        self.aliases: dict[str, tuple[str, ...]] = {}

    def as_unloaded(self, name: str) -> UnloadedModule | None:
        module = self.kmod.module_from_name(name)
        if module.initstate == "builtin":
            return UnloadedModule(Target(module.name, TargetState.BUILT_IN), (module.name,), TargetState.BUILT_IN)
        if module.path is None:
            return None
        steps = tuple(self.step_of(each.module, each.options, each.install) for each in self.actions_of(module))
        now = TargetState.LIVE if module.initstate == "live" else TargetState.NEW
        aliases = self.aliases.get(module.name, ())
        return UnloadedModule(Target(module.name, TargetState.NEW, steps), (module.name, *aliases), now)

    def state_of(self, module: Module) -> str | None:
        state = super().state_of(module)
        return None if self.as_if_new and state == "live" else state

    def actions_of(self, module: Module) -> list[Action]:
        if not self.as_if_new:
            return super().actions_of(module)
        # With KMOD_PROBE_IGNORE_LOADED, libkmod also lists built-in modules.
        actions = module.plan(KMOD_PROBE_APPLY_BLACKLIST_ALIAS_ONLY | KMOD_PROBE_IGNORE_LOADED)
        return [action for action in actions if action.module.initstate != "builtin"]

    def step_of(self, module: Module, options: str, install: bool) -> Step:
        step = super().step_of(module, options, install)
        if step.image >= 0:
            self.aliases[step.module] = self._aliases(step.image)
        for fd in {step.fd, step.image} - {-1}:
            os.close(fd)
        return step._replace(fd=-1, image=-1)

    def _aliases(self, fd: int) -> tuple[str, ...]:
        try:
            info = self.kmod.module_from_path(f"/proc/self/fd/{fd}").info
        except KmodError:  # the file is unreadable, and its marker says so
            return ()
        return tuple(value for key, value in info if key == "alias")
