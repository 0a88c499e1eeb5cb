"""Type hints of the libkmod bindings. kmod.pyx has the documentation."""

from collections.abc import Callable, Sequence

KMOD_PROBE_FORCE_VERMAGIC: int
KMOD_PROBE_FORCE_MODVERSION: int
KMOD_PROBE_IGNORE_COMMAND: int
KMOD_PROBE_IGNORE_LOADED: int
KMOD_PROBE_FAIL_ON_LOADED: int
KMOD_PROBE_APPLY_BLACKLIST_ALL: int
KMOD_PROBE_APPLY_BLACKLIST: int
KMOD_PROBE_APPLY_BLACKLIST_ALIAS_ONLY: int
KMOD_FILTER_BLACKLIST: int
KMOD_FILTER_BUILTIN: int
KMOD_REMOVE_FORCE: int
KMOD_REMOVE_NOWAIT: int
MODULE_INIT_IGNORE_MODVERSIONS: int
MODULE_INIT_IGNORE_VERMAGIC: int
MODULE_INIT_COMPRESSED_FILE: int

class KmodError(OSError): ...
class BlacklistedError(KmodError): ...

class Kmod:
    def __init__(self, mod_dir: str | bytes | None = None, config: Sequence[str | bytes] | None = None) -> None: ...
    dirname: str
    log_priority: int
    def set_mod_dir(self, mod_dir: str | bytes | None) -> None: ...
    def set_log(self, callback: Callable[[int, str, int, str, str], None] | None) -> None: ...
    def load_resources(self) -> None: ...
    def unload_resources(self) -> None: ...
    def validate_resources(self) -> int: ...
    def lookup(self, alias: str | bytes, flags: int = 0) -> list[Module]: ...
    def module_from_name(self, name: str | bytes) -> Module: ...
    def module_from_path(self, path: str | bytes) -> Module: ...
    def loaded(self) -> list[Module]: ...
    def modprobe(
        self, name: str | bytes, quiet: bool = False, flags: int = 0, extra_options: str | None = None
    ) -> None: ...
    def rmmod(self, module_name: str | bytes, flags: int = 0) -> None: ...
    def config(self) -> dict[str, list[tuple[str, str]]]: ...
    def list(self) -> Sequence[Module]: ...

class Action:
    module: Module
    install: bool
    options: str

class Module:
    name: str
    path: str | None
    options: str | None
    install_command: str | None
    remove_command: str | None
    initstate: str | None
    refcount: int
    size: int
    dependencies: list[Module]
    softdeps: tuple[list[Module], list[Module]]
    weakdeps: list[Module]
    holders: list[Module]
    info: list[tuple[str, str]]
    versions: list[tuple[str, int]]
    symbols: list[tuple[str, int]]
    dependency_symbols: list[str]
    def plan(self, flags: int = 0, extra_options: str | None = None) -> list[Action]: ...
    def insert(self, flags: int = 0, extra_options: str | None = None) -> None: ...
    def remove(self, flags: int = 0) -> None: ...

def finit_module(fd: int, params: str | bytes, flags: int) -> None: ...
