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
    Module,
)
from safe_modprobe.model import Plan, Request, Step
from safe_modprobe.read.modules import Reader, kmod_of


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
        yield _Onlooker(request, kmod, steps, as_if_new).plan()


class _Onlooker(Reader):
    """Shares its steps with the readers of other requests, and keeps no file open."""

    def __init__(self, request: Request, kmod: Kmod, steps: dict[str, Step], as_if_new: bool) -> None:
        super().__init__(request, kmod)
        self.steps = steps
        self.as_if_new = as_if_new

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
        for fd in {step.fd, step.image} - {-1}:
            os.close(fd)
        return step._replace(fd=-1, image=-1)
