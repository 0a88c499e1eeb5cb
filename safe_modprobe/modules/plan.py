"""Make the plan for an alias: all targets and steps, as libkmod finds them, with the modules' markers."""

import os
from _collections_abc import Sequence

from safe_modprobe.capability import SYS_MODULE, parse_capability
from safe_modprobe.errors import UntrustedInputError, UsageError
from safe_modprobe.kmod import (
    KMOD_PROBE_APPLY_BLACKLIST_ALIAS_ONLY,
    Action,
    BlacklistedError,
    Kmod,
    KmodError,
    Module,
)
from safe_modprobe.model import UNMARKED, Marker, Plan, Request, Step, Target, TargetState
from safe_modprobe.modules.image import compression, kernel_decompresses, sealed_copy

_FOLDERS = ("lib/modules", "usr/lib/modules")


def modules_folder(directory: str | None, version: str | None) -> str | None:
    """Return the folder that modprobe's -d and -S select; None, for libkmod's default, without both."""
    if directory is None and version is None:
        return None
    release = version or os.uname().release
    choices = [os.path.join(directory or "/", folder, release) for folder in _FOLDERS]
    return next((path for path in choices if os.path.isdir(path)), choices[0])


def read_plan(request: Request, folder: str | None = None, config: Sequence[str] | None = None) -> Plan:
    """Return what modprobe(8) would do for the alias, step by step, with every file opened and its marker read.

    `config` are the folders of modprobe.d, None for this system's. The descriptors stay open for the load.
    Raises OSError (KmodError) if libkmod cannot read its indexes, and UsageError if the folder does not exist.
    """
    return PlanReader(request, kmod_of(folder, config)).plan()


def kmod_of(folder: str | None, config: Sequence[str] | None) -> Kmod:
    """Return libkmod's context for these folders. Raises OSError and UsageError like read_plan()."""
    if folder is not None and not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder of modules; give the right -d and -S")
    if folder is not None and not any(
        os.path.exists(f"{folder}/{name}") for name in ("modules.dep.bin", "modules.dep")
    ):
        # libkmod would find no module at all, and the helper allows an alias that no module matches.
        raise UsageError(f"{folder}: modules.dep is missing; give the right -d and -S, or run depmod")
    return Kmod(folder, config)


class PlanReader:
    """Make the plan for one request. A subclass may override how a module's state and file are read."""

    def __init__(self, request: Request, kmod: Kmod) -> None:
        self.request = request
        self.kmod = kmod
        self.steps: dict[str, Step] = {}

    def plan(self) -> Plan:
        """Return every target with its steps. Raises OSError (KmodError) if an index cannot be read."""
        try:
            found = self.kmod.lookup(self.request.alias)
        except (KmodError, ValueError) as error:
            if isinstance(error, ValueError) or error.errno in _NO_ALIAS:
                found = []
            else:
                raise
        return Plan(self.request.alias, tuple(self._target(module) for module in found))

    def _target(self, module: Module) -> Target:
        weak = tuple(other.name for other in module.weakdeps)
        state = self.state_of(module)
        if state in ("live", "builtin"):
            return Target(module.name, TargetState(state), (), weak)
        try:
            actions = self.actions_of(module)
        except BlacklistedError:
            return Target(module.name, TargetState.BLACKLISTED)
        steps = []
        for action in actions:
            name = action.module.name
            if name not in self.steps:
                self.steps[name] = self.step_of(action.module, action.options, action.install)
            steps.append(self.steps[name])
        if self.request.claim.filesystem:
            steps = [self._with_filesystem(step, module.name) for step in steps]
        return Target(module.name, TargetState.NEW, tuple(steps), weak)

    def state_of(self, module: Module) -> str | None:
        """Return the module's state in the kernel, see Module.initstate."""
        return module.initstate

    def actions_of(self, module: Module) -> list[Action]:
        """Return the actions that load the module, in order. Raises BlacklistedError and KmodError."""
        return module.plan(KMOD_PROBE_APPLY_BLACKLIST_ALIAS_ONLY)

    def step_of(self, module: Module, options: str, install: bool) -> Step:
        """Return the step with its file opened and its marker read. An unreadable marker counts as privileged."""
        needs = tuple(other.name for other in module.dependencies)
        step = Step(module.name, module.path, options, install, needs=needs)
        if module.path is not None:
            try:
                step = self._opened(step, module.path)
            except (OSError, UntrustedInputError) as error:
                return step._replace(marker=doubtful_marker(f"unreadable ({_text(error)})"))
        if install:
            # The helper cannot inspect what a shell command of modprobe.d would load as root.
            return step._replace(marker=doubtful_marker("unknown, because it has an install command"))
        return step

    def _opened(self, step: Step, path: str) -> Step:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self._read(step, fd)
        except (OSError, UntrustedInputError):
            os.close(fd)
            raise

    def _read(self, step: Step, fd: int) -> Step:
        kind = compression(fd)
        if kind is None or kind == kernel_decompresses():
            try:
                return step._replace(fd=fd, image=fd, marker=self._marker(fd))
            except KmodError:
                if kind is None:
                    raise
            # The kernel can decompress it, but this libkmod cannot. Read the marker in a copy and load the file.
            copy = sealed_copy(fd, kind)
            try:
                return step._replace(fd=fd, image=fd, marker=self._marker(copy))
            finally:
                os.close(copy)
        image = sealed_copy(fd, kind)
        try:
            return step._replace(fd=fd, image=image, marker=self._marker(image))
        except KmodError:
            os.close(image)
            raise

    def _marker(self, fd: int) -> Marker:
        return parse_marker(self.kmod.module_from_path(f"/proc/self/fd/{fd}").info)

    def _with_filesystem(self, step: Step, target: str) -> Step:
        """Set the target's `registers_filesystem` by its undefined symbols, like grsecurity's simplify_symbols()."""
        if step.module != target:
            return step
        try:
            symbols = self.kmod.module_from_path(f"/proc/self/fd/{step.image}").dependency_symbols
        except KmodError:
            symbols = []
        return step._replace(registers_filesystem="register_filesystem" in symbols)


_NO_ALIAS = (2, 22, 36)  # ENOENT, EINVAL, ENAMETOOLONG: libkmod's errors for an invalid alias


def doubtful_marker(reason: str) -> Marker:
    """Return a marker that requires CAP_SYS_MODULE, because the module's own is unreadable or invalid."""
    return Marker(reason, SYS_MODULE)


def parse_marker(info: list[tuple[str, str]]) -> Marker:
    """Return the marker in .modinfo's pairs: "Y", "N" or a capability's name. Any other value counts as "Y"."""
    values = sorted({value for key, value in info if key == "privileged"})
    if not values:
        return UNMARKED
    if len(values) > 1:
        return doubtful_marker(f"several values ({_shown(values)})")
    value = values[0]
    if value == "N":
        return Marker("N")
    capability = SYS_MODULE if value == "Y" else parse_capability(value)
    return (
        Marker(value, capability) if capability is not None else doubtful_marker(f"no known value ({_shown(values)})")
    )


def _shown(values: list[str]) -> str:
    return ", ".join(ascii(value[:40]) for value in values[:4])


def _text(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
