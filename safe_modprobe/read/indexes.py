"""What depmod wrote down of a kernel's modules: their names and aliases, and those of what is built in."""

import os
from collections.abc import Iterator, Mapping, Sequence

from safe_modprobe.errors import UsageError
from safe_modprobe.frozen import NamedTuple
from safe_modprobe.kmod import Kmod


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
    modules: dict[str, list[str]] = {}
    try:
        for line in _lines(f"{folder}/modules.dep"):
            path, colon, _ = line.partition(":")
            if colon:
                modules[module_name(path)] = []
        for line in _lines(f"{folder}/modules.alias"):
            keyword, _, rest = line.partition(" ")
            alias, _, module = rest.rpartition(" ")
            if keyword == "alias" and alias:
                modules.setdefault(module, []).append(alias)
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.filename}: no such file; give the right --root and --kernel, or let depmod index the modules"
        ) from None
    for alias, module in kmod.config()["aliases"]:
        modules.setdefault(module, []).append(alias)
    return Indexes(modules, _built_in(f"{folder}/modules.builtin.modinfo"))


def module_name(path: str) -> str:
    """The name that libkmod gives to the module in a file."""
    name = path.rpartition("/")[2]
    return name.partition(".ko")[0].replace("-", "_")


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for line in lines:
            yield line.removesuffix("\n")


def _built_in(path: str) -> dict[str, list[str]] | None:
    """`module.key=value`, each with a NUL behind it."""
    found: dict[str, list[str]] = {}
    try:
        with open(path, "rb") as file:
            pairs = os.fsdecode(file.read()).split("\0")
    except FileNotFoundError:
        return None
    for pair in pairs:
        key, _, value = pair.partition("=")
        module, dot, key = key.rpartition(".")
        if dot:
            aliases = found.setdefault(module.replace("-", "_"), [])
            if key == "alias":
                aliases.append(value)
    return found
