"""What there is on a machine for a policy to name: modules, aliases, users, groups, units, programs."""

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
"""systemd.unit(5), the system's own; those that it does not name are never there."""

_MAX_LINKS = 40
_MAX_BYTES = 64 << 20

_T = TypeVar("_T")


def read_facts(root: str | None, modules: str, config: Sequence[str] | None, asked: NamesInPolicy) -> Facts:
    """The facts of the system below `root` (None: the running one), with the modules of that folder.

    `config` are the folders of modprobe.d, None for this system's. What is not there, or cannot be read, is not known.
    """
    loadable = _seen(lambda: frozenset(map(module_name, loadable_paths(modules))))
    built_in = _seen(lambda: built_in_names(modules))
    named = _seen(lambda: list(aliases(modules))) or []
    configured = _seen(lambda: Kmod(modules, config).config()["aliases"]) or []
    of_built_in = _seen(lambda: built_in_aliases(modules)) or {}
    return Facts(
        kernel=os.path.basename(modules),
        # Without the other, which some packages keep elsewhere, what is built in would seem not to be there at all.
        modules=None if built_in is None else loadable,
        built_in=built_in or frozenset(),
        aliases=tuple(normalize_pattern(alias) for alias, _ in (*named, *configured)),
        built_in_aliases=tuple(map(normalize_pattern, chain.from_iterable(of_built_in.values()))),
        users=_known(root, asked.users, "/etc/passwd", "/etc/subuid", pwd.getpwuid),
        groups=_known(root, asked.groups, "/etc/group", "/etc/subgid", grp.getgrgid),
        units=_units(root),
        programs={path: _real(root, path) for path in asked.programs},
    )


def below(root: str | None, path: str) -> str:
    """Where a file of that system is for us."""
    return path if root is None else os.path.join(root, path.lstrip("/"))


def _seen(look: Callable[[], _T]) -> _T | None:
    """What there is to see, None where nobody can look."""
    try:
        return look()
    except OSError:
        return None


def _known(
    root: str | None, numbers: frozenset[int], names: str, ranges: str, ask: Callable[[int], object]
) -> frozenset[int] | None:
    """Those of the numbers that stand in the file, or in a range for containers; here, also those of name services."""
    known = _seen(lambda: set(parse_numbers(read(below(root, names), _MAX_BYTES)).values()))
    if known is None:
        return None
    lent = [range(start, start + count) for start, count in _ranges(below(root, ranges))]
    found = {each for each in numbers if each in known or any(each in some for some in lent)}
    if root is None:
        found |= {each for each in numbers - found if _answers(ask, each)}
    return frozenset(found)


def _ranges(path: str) -> Iterator[tuple[int, int]]:
    """`name:start:count` lines of subuid(5)."""
    for line in (_seen(lambda: read(path, _MAX_BYTES)) or b"").split(b"\n"):
        numbers = line.split(b":")[1:]
        if len(numbers) == 2 and all(each.isdigit() and len(each) <= 10 for each in numbers):
            yield int(numbers[0]), int(numbers[1])


def _answers(ask: Callable[[int], object], number: int) -> bool:
    try:
        ask(number)
    except KeyError:
        return False
    return True


def _units(root: str | None) -> tuple[str, ...] | None:
    """Patterns of names that a unit may have; None where there is no systemd."""
    names: set[str] = set()
    for folder in UNIT_FOLDERS:
        try:
            with os.scandir(below(root, folder)) as entries:
                names.update(each.name for each in entries if not _other_name(each))
        except OSError:
            continue
    if not names:
        return None
    # What has no unit yet gets one of its script (systemd-sysv-generator(8)); an image has not met the generator.
    names.update(f"{each}.service" for each in _seen(lambda: os.listdir(below(root, "/etc/init.d"))) or ())
    units = {each for each in names if each.endswith(".service")}
    templates = {f"{each.partition('@')[0]}@*.service" for each in units if each.endswith("@.service")}
    # Scopes are made by programs while the system runs: sessions, containers, virtual machines.
    return (*sorted(units), *sorted(templates), "*.scope")


def _other_name(entry: "os.DirEntry[str]") -> bool:
    """Whether it only is another name of a unit: its tasks are in the cgroup of the unit's own."""
    if not entry.is_symlink():
        return False
    target = os.readlink(entry.path)
    return target != "/dev/null" and os.path.basename(target) != entry.name


def _real(root: str | None, path: str) -> str:
    """The path without links, "" where it leads nowhere; a link of an image means the image's own files."""
    done, todo, links = "", path.split("/")[::-1], 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        there = below(root, f"{done}/{part}")
        try:
            target = os.readlink(there)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError:  # not a link: or not ours to look at, and then it is as it is written
            done = f"{done}/{part}"
            continue
        links += 1
        if links > _MAX_LINKS:
            return ""
        if target.startswith("/"):
            done = ""
        todo += target.split("/")[::-1]
    return done
