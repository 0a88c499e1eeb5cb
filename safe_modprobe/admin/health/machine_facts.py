"""Read the names that a machine has and a policy can use: modules, aliases, users, groups, units, programs."""

import grp
import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

from safe_modprobe.admin.modules.indexes import aliases, built_in_aliases, built_in_names, loadable_paths, module_name
from safe_modprobe.admin.policy.names import Facts, NamesInPolicy
from safe_modprobe.kmod import Kmod
from safe_modprobe.policy.accounts import parse_numbers
from safe_modprobe.policy.match import normalize_pattern
from safe_modprobe.runtime import read

UNIT_FOLDERS = tuple(
    f"{top}/systemd/{name}"
    for top in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
    for name in (
        "system",
        "system.control",
        "system.attached",
        "transient",
        "generator",
        "generator.early",
        "generator.late",
    )
)
"""Unit folders of the system manager (systemd.unit(5)). A folder may be missing."""

_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS (include/linux/namei.h)
_MAX_BYTES = 64 << 20

_T = TypeVar("_T")


def read_facts(root: str | None, modules: str, config: Sequence[str] | None, wanted: NamesInPolicy) -> Facts:
    """Return the facts of the system below `root` (None: the running one). `modules` is its modules folder.

    `config` are the folders of modprobe.d, None for those of this system. `wanted` are the names to look up one by
    one. What is missing or cannot be read becomes None or empty, for unknown.
    """
    loadable = _or_none(lambda: frozenset(map(module_name, loadable_paths(modules))))
    built_in = _or_none(lambda: built_in_names(modules))
    named = _or_none(lambda: list(aliases(modules))) or []
    configured = _or_none(lambda: Kmod(modules, config).config()["aliases"]) or []
    of_built_in = _or_none(lambda: built_in_aliases(modules)) or {}
    return Facts(
        kernel=os.path.basename(modules),
        # Some packages keep modules.builtin elsewhere. Without it, a built-in module would look like a missing one.
        modules=None if built_in is None else loadable,
        built_in=built_in or frozenset(),
        aliases=tuple(normalize_pattern(alias) for alias, _ in (*named, *configured)),
        built_in_aliases=tuple(map(normalize_pattern, chain.from_iterable(of_built_in.values()))),
        users=_known_ids(root, wanted.users, "/etc/passwd", "/etc/subuid", pwd.getpwuid),
        groups=_known_ids(root, wanted.groups, "/etc/group", "/etc/subgid", grp.getgrgid),
        units=_units(root),
        programs={path: _resolve_links(root, path) for path in wanted.programs},
    )


def below(root: str | None, path: str) -> str:
    """Return the path under which we reach a file of the system below `root`."""
    return path if root is None else os.path.join(root, path.lstrip("/"))


def _or_none(reader: Callable[[], _T]) -> _T | None:
    """Call the reader. Return None when it raises OSError."""
    try:
        return reader()
    except OSError:
        return None


def _known_ids(
    root: str | None, numbers: frozenset[int], names: str, ranges: str, look_up: Callable[[int], object]
) -> frozenset[int] | None:
    """Return the numbers that are in the file `names` or in a subordinate range of the file `ranges`.

    For the running system, `look_up` also asks the name services.
    """
    known = _or_none(lambda: set(parse_numbers(read(below(root, names), _MAX_BYTES)).values()))
    if known is None:
        return None
    subordinate = [range(start, start + count) for start, count in _subordinate_ranges(below(root, ranges))]
    found = {each for each in numbers if each in known or any(each in ids for ids in subordinate)}
    if root is None:
        found |= {each for each in numbers - found if _has_entry(look_up, each)}
    return frozenset(found)


def _subordinate_ranges(path: str) -> Iterator[tuple[int, int]]:
    """Yield (start, count) of the lines `name:start:count` of subuid(5)."""
    for line in (_or_none(lambda: read(path, _MAX_BYTES)) or b"").split(b"\n"):
        numbers = line.split(b":")[1:]
        if len(numbers) == 2 and all(each.isdigit() and len(each) <= 10 for each in numbers):
            yield int(numbers[0]), int(numbers[1])


def _has_entry(look_up: Callable[[int], object], number: int) -> bool:
    try:
        look_up(number)
    except KeyError:
        return False
    return True


def _units(root: str | None) -> tuple[str, ...] | None:
    """Return patterns of unit names, or None on a system without systemd."""
    names: set[str] = set()
    for folder in UNIT_FOLDERS:
        try:
            with os.scandir(below(root, folder)) as entries:
                names.update(each.name for each in entries if not _is_alias(each))
        except OSError:
            continue
    if not names:
        return None
    # systemd-sysv-generator(8) makes a unit for each init script at boot. It has not run in an image.
    names.update(f"{each}.service" for each in _or_none(lambda: os.listdir(below(root, "/etc/init.d"))) or ())
    units = {each for each in names if each.endswith(".service")}
    templates = {f"{each.partition('@')[0]}@*.service" for each in units if each.endswith("@.service")}
    # Programs create scopes at run time, for sessions, containers and virtual machines.
    return (*sorted(units), *sorted(templates), "*.scope")


def _is_alias(entry: "os.DirEntry[str]") -> bool:
    """Return whether the entry is only an alias of a unit. A cgroup has the unit's own name."""
    if not entry.is_symlink():
        return False
    target = os.readlink(entry.path)
    return target != "/dev/null" and os.path.basename(target) != entry.name


def _resolve_links(root: str | None, path: str) -> str:
    """Return the path without links, or "" if it does not exist. Links of an image stay inside the image."""
    done, todo, links = "", path.split("/")[::-1], 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        path_here = below(root, f"{done}/{part}")
        try:
            target = os.readlink(path_here)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError:  # not a link, or no permission to read it: take the name as it is
            done = f"{done}/{part}"
            continue
        links += 1
        if links > _MAX_LINKS:
            return ""
        if target.startswith("/"):
            done = ""
        todo += target.split("/")[::-1]
    return done
