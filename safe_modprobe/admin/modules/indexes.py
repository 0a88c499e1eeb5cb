"""What depmod wrote down of a kernel's modules: their names and aliases, and those of what is built in."""

import os
from collections.abc import Iterator, Mapping, Sequence

from safe_modprobe.errors import UsageError
from safe_modprobe.kmod import Kmod
from safe_modprobe.light_types import NamedTuple


class Indexes(NamedTuple):
    """Modules with their aliases, modprobe.d's among them. `built_in` is None where the kernel's build left no list."""

    modules: Mapping[str, Sequence[str]]
    built_in: Mapping[str, Sequence[str]] | None


def read_indexes(folder: str | None, config: Sequence[str] | None) -> Indexes:
    """The indexes of a folder of modules, None for the running kernel's; `config` as for read_plan().

    Raises OSError, UsageError where depmod has not been.
    """
    kmod = Kmod(folder, config)
    folder = kmod.dirname
    try:
        modules: dict[str, list[str]] = {module_name(path): [] for path in loadable_paths(folder)}
        for alias, module in aliases(folder):
            modules.setdefault(module, []).append(alias)
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.filename}: no such file; give the right --root and --kernel, or let depmod index the modules"
        ) from None
    for alias, module in kmod.config()["aliases"]:
        modules.setdefault(module, []).append(alias)
    try:
        return Indexes(modules, built_in_aliases(folder))
    except FileNotFoundError:
        return Indexes(modules, None)


def module_name(path: str) -> str:
    """kernel/a/b-c.ko.xz -> b_c, as libkmod's path_to_modname() does."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def loadable_paths(folder: str) -> Iterator[str]:
    """The paths of the modules that can be loaded, below the folder (modules.dep). Raises OSError."""
    for line in _lines(f"{folder}/modules.dep"):
        path, colon, _ = line.partition(":")
        if colon:
            yield path


def built_in_names(folder: str) -> frozenset[str]:
    """What is built in (modules.builtin). Raises OSError."""
    return frozenset(module_name(line) for line in _lines(f"{folder}/modules.builtin") if line)


def aliases(folder: str) -> Iterator[tuple[str, str]]:
    """Every alias with its module (modules.alias). Raises OSError."""
    for line in _lines(f"{folder}/modules.alias"):
        keyword, _, rest = line.partition(" ")
        alias, _, module = rest.rpartition(" ")
        if keyword == "alias" and alias:
            yield alias, module


def built_in_aliases(folder: str) -> dict[str, list[str]]:
    """What is built in, with its aliases (modules.builtin.modinfo). Raises OSError."""
    found: dict[str, list[str]] = {}
    with open(f"{folder}/modules.builtin.modinfo", "rb") as file:
        # module.key=value, each with a NUL at its end (Documentation/kbuild/kbuild.rst).
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
