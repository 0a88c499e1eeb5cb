"""What there is on a machine for a policy to name: modules, aliases, users, groups, units, programs."""

import grp
import os
import pwd
from collections.abc import Callable, Iterator, Sequence

from safe_modprobe.kmod import Kmod
from safe_modprobe.policy.match import normal_pattern
from safe_modprobe.policy.names import Asked, Facts
from safe_modprobe.read.accounts import parse_numbers
from safe_modprobe.read.waiting import read

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


def read_facts(root: str | None, modules: str, config: Sequence[str] | None, asked: Asked) -> Facts:
    """The facts of the system below `root` (None: the running one), with the modules of that folder.

    `config` are the folders of modprobe.d, None for this system's. What is not there, or cannot be read, is not known.
    """
    loadable, built_in = _lines(f"{modules}/modules.dep"), _lines(f"{modules}/modules.builtin")
    # Without the second, which some packages keep elsewhere, what is built in would seem not to be there at all.
    known = loadable is not None and built_in is not None
    return Facts(
        kernel=os.path.basename(modules),
        modules=frozenset(_module(line.partition(":")[0]) for line in loadable or () if line) if known else None,
        built_in=frozenset(_module(line) for line in built_in or () if line),
        aliases=tuple(_aliases(modules, config)),
        built_in_aliases=tuple(_built_in_aliases(modules)),
        users=_known(root, asked.users, "/etc/passwd", "/etc/subuid", pwd.getpwuid),
        groups=_known(root, asked.groups, "/etc/group", "/etc/subgid", grp.getgrgid),
        units=_units(root),
        programs={path: _real(root, path) for path in asked.programs},
    )


def below(root: str | None, path: str) -> str:
    """Where a file of that system is for us."""
    return path if root is None else os.path.join(root, path.lstrip("/"))


def _lines(path: str) -> list[str] | None:
    try:
        return read(path, _MAX_BYTES).decode(errors="surrogateescape").split("\n")
    except OSError:
        return None


def _module(path: str) -> str:
    """kernel/a/b-c.ko.xz -> b_c, as libkmod's path_to_modname() does."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _aliases(modules: str, config: Sequence[str] | None) -> Iterator[str]:
    for line in _lines(f"{modules}/modules.alias") or ():
        word, _, rest = line.partition(" ")
        if word == "alias":
            yield normal_pattern(rest.rpartition(" ")[0])
    try:
        for alias, _ in Kmod(modules, config).config()["aliases"]:
            yield normal_pattern(alias)
    except OSError:
        return


def _built_in_aliases(modules: str) -> Iterator[str]:
    # module.key=value, each with a NUL at its end (Documentation/kbuild/kbuild.rst).
    for pair in "\n".join(_lines(f"{modules}/modules.builtin.modinfo") or ()).split("\0"):
        key, _, value = pair.partition("=")
        if key.endswith(".alias"):
            yield normal_pattern(value)


def _known(
    root: str | None, numbers: frozenset[int], names: str, ranges: str, ask: Callable[[int], object]
) -> frozenset[int] | None:
    """Those of the numbers that stand in the file, or in a range for containers; here, also those of name services."""
    try:
        known = set(parse_numbers(read(below(root, names), _MAX_BYTES)).values())
    except OSError:
        return None
    lent = [range(start, start + count) for start, count in _ranges(below(root, ranges))]
    found = {each for each in numbers if each in known or any(each in some for some in lent)}
    if root is None:
        found |= {each for each in numbers - found if _answers(ask, each)}
    return frozenset(found)


def _ranges(path: str) -> Iterator[tuple[int, int]]:
    """`name:start:count` lines of subuid(5)."""
    for line in _lines(path) or ():
        numbers = line.split(":")[1:]
        if len(numbers) == 2 and all(each.isascii() and each.isdigit() and len(each) <= 10 for each in numbers):
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
    names.update(f"{each}.service" for each in _listing(below(root, "/etc/init.d")))
    units = {each for each in names if each.endswith(".service")}
    templates = {f"{each.partition('@')[0]}@*.service" for each in units if each.endswith("@.service")}
    # Scopes are made by programs while the system runs: sessions, containers, virtual machines.
    return (*sorted(units), *sorted(templates), "*.scope")


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


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
