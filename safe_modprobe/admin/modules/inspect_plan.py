"""Plans to look at, never to load: of many requests, of other kernels, of modules as if none were loaded yet.

Not on the helper's path, which opens each file for the load.
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
    """The plans of many requests: every module is read once, and no descriptor stays open.

    `as_if_new`: as if nothing were loaded yet. Raises as read_plan() does.
    """
    kmod = kmod_of(folder, config)
    steps: dict[str, Step] = {}
    for request in requests:
        yield _PlanInspector(request, kmod, steps, as_if_new).plan()


class UnloadedModule(NamedTuple):
    """A module as if nothing of it were in the kernel, with every alias that it answers, its own name first."""

    target: Target
    aliases: tuple[str, ...]
    now: TargetState


def read_as_unloaded(
    name: str, folder: str | None = None, config: Sequence[str] | None = None
) -> UnloadedModule | None:
    """The module of this name, None where this kernel has none. Raises as read_plan() does."""
    return _PlanInspector(Request(name), kmod_of(folder, config), {}, True).as_new(name)


class _PlanInspector(PlanReader):
    """Shares its steps with the readers of other requests, and keeps no file open."""

    def __init__(self, request: Request, kmod: Kmod, steps: dict[str, Step], as_if_new: bool) -> None:
        super().__init__(request, kmod)
        self.steps = steps
        self.as_if_new = as_if_new
        self.aliases: dict[str, tuple[str, ...]] = {}

    def as_new(self, name: str) -> UnloadedModule | None:
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
        # That flag means to libkmod what is built in, too.
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
        except KmodError:  # unreadable, as its marker then says
            return ()
        return tuple(value for key, value in info if key == "alias")
