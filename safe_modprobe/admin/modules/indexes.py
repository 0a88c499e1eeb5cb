"""Read depmod's indexes: names and aliases of a kernel's modules, loadable and built in."""

import os
from collections.abc import Iterator, Mapping, Sequence

from safe_modprobe.errors import UsageError
from safe_modprobe.kmod import Kmod
from safe_modprobe.light_types import NamedTuple


class Indexes(NamedTuple):
    """Modules with their aliases, including those of modprobe.d. `built_in` is None if the kernel has no list."""

    modules: Mapping[str, Sequence[str]]
    built_in: Mapping[str, Sequence[str]] | None


def read_indexes(folder: str | None, config: Sequence[str] | None) -> Indexes:
    """Return the indexes of a module folder; None means the running kernel's. `config` is as for read_plan().

    Raises OSError, and UsageError if depmod has not indexed the folder.
    """
    kmod = Kmod(folder, config)
    folder = kmod.dirname
    try:
        modules: dict[str, list[str]] = {module_name(path): [] for path in loadable_paths(folder)}
        for alias, module in aliases(folder):
            modules.setdefault(module, []).append(alias)
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.filename}: no such file; check --root and --kernel, or run depmod to index the modules"
        ) from None
    for alias, module in kmod.config()["aliases"]:
        modules.setdefault(module, []).append(alias)
    try:
        return Indexes(modules, built_in_aliases(folder))
    except FileNotFoundError:
        return Indexes(modules, None)


def module_name(path: str) -> str:
    """Return the name of a module file: kernel/a/b-c.ko.xz -> b_c, as libkmod's path_to_modname() does."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def loadable_paths(folder: str) -> Iterator[str]:
    """Yield the paths of the loadable modules, relative to the folder (modules.dep). Raises OSError."""
    for line in _lines(f"{folder}/modules.dep"):
        path, colon, _ = line.partition(":")
        if colon:
            yield path


def built_in_names(folder: str) -> frozenset[str]:
    """Return the names of the built-in modules (modules.builtin). Raises OSError."""
    return frozenset(module_name(line) for line in _lines(f"{folder}/modules.builtin") if line)


def aliases(folder: str) -> Iterator[tuple[str, str]]:
    """Yield every (alias, module) of modules.alias. Raises OSError."""
    for line in _lines(f"{folder}/modules.alias"):
        keyword, _, rest = line.partition(" ")
        alias, _, module = rest.rpartition(" ")
        if keyword == "alias" and alias:
            yield alias, module


def built_in_aliases(folder: str) -> dict[str, list[str]]:
    """Return the built-in modules with their aliases (modules.builtin.modinfo). Raises OSError."""
    found: dict[str, list[str]] = {}
    with open(f"{folder}/modules.builtin.modinfo", "rb") as file:
        # Each entry is module.key=value and a NUL (Documentation/kbuild/kbuild.rst).
        pairs = os.fsdecode(file.read()).split("\0")
    for pair in pairs:
        key, _, value = pair.partition("=")
        module, dot, key = key.rpartition(".")
        if dot:
            of_module = found.setdefault(module.replace("-", "_"), [])
            if key == "alias":
                of_module.append(value)
    return found


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for line in lines:
            yield line.removesuffix("\n")
