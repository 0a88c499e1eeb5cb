"""The default policy knows every name that the tables of docs/call-sites list.

A name is known if a call site's row or a mark by aliases matches it, or if left.toml leaves it out with a reason.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from safe_modprobe.admin.policy.globs import PatternSet, overlap
from safe_modprobe.admin.policy.reach import FAMILIES, ORDER, Reach
from safe_modprobe.policy.match import normalize_pattern
from tests.unit.make import cap
from tests.unit.policy.test_default_policy import shipped

TOP = Path(__file__).resolve().parents[3]
TABLES = TOP / "docs/call-sites"
VERSIONS = ("6.1", "6.12", "7.2")


class Row(NamedTuple):
    """A call of request_module() in a table."""

    file: str
    function: str
    name: str
    capability: str


@cache
def rows(version: str) -> tuple[Row, ...]:
    text = (TABLES / f"{version}.md").read_text().partition("\n## Calls\n")[2].partition("\n## ")[0]
    lines = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")]
    return tuple(Row(cells[0].partition(":")[0], cells[1], cells[4].strip("`"), cells[5]) for cells in lines[2:])


class Left(NamedTuple):
    """A row of left.toml."""

    files: list[str]
    reason: str
    names: Sequence[str] = ()
    functions: Sequence[str] = ("*",)
    reach: str = ""

    def at(self, row: Row) -> bool:
        return any(fnmatchcase(row.file, each) for each in self.files) and any(
            fnmatchcase(row.function, each) for each in self.functions
        )


@cache
def left(table: str) -> tuple[Left, ...]:
    return tuple(Left(**each) for each in tomllib.loads((TABLES / "left.toml").read_text())[table])


Names = tuple[str, ...]


@cache
def patterns(names: Names) -> PatternSet:
    return PatternSet(map(normalize_pattern, names), "-")


SITES = tuple(alias for site in shipped().call_sites for alias in site.aliases)
CLASSES = tuple(alias for mark in shipped().marks if not mark.modules for alias in mark.aliases)
CONSTRUCTED = ("*", "*t_*", "*table_*")


def by_policy(name: str, aliases: Iterable[str]) -> bool:
    """Return whether the aliases cover all names that a name or pattern stands for."""
    return patterns(tuple(aliases)).covers(normalize_pattern(name))


@cache
def known(row: Row, aliases: Names) -> bool:
    if row.name in CONSTRUCTED:
        return any(
            each.at(row) and all(known(row._replace(name=name), aliases) for name in each.names)
            for each in left("constructed")
        )
    return by_policy(row.name, aliases) or any(
        each.at(row) and by_policy(row.name, each.names) for each in left("left")
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_policy_knows_every_name_that_a_kernel_requests(version: str) -> None:
    assert len(rows(version)) > 300
    assert [row for row in rows(version) if not known(row, SITES + CLASSES)] == []


@pytest.mark.parametrize(
    "row",
    [
        Row("net/socket.c", "sock_create", "net-of-tomorrow-*", ""),
        Row("net/socket.c", "sock_create", "netdev*", ""),  # wider than the pattern that is known
        Row("net/socket.c", "sock_create", "*-pf-*", ""),
        Row("net/socket.c", "sock_create", "*", ""),  # constructed, without a row of left.toml
        Row("net/core/dev_ioctl.c", "dev_unload", "*", ""),
        Row("net/socket.c", "sock_create", "i2c:*", ""),  # left out in another file only
        Row("drivers/media/pci/x.c", "probe", "tuner-of-tomorrow", ""),
        Row("drivers/media/pci/x.c", "ioctl", "*", ""),
        Row("fs/char_dev.c", "base_probe", "char-*", ""),
        Row("", "", "", ""),
    ],
    ids=lambda row: f"{row.file} {row.name}",
)
def test_an_unlisted_name_is_unknown(row: Row) -> None:
    assert not known(row, SITES + CLASSES)


def every_row() -> Iterator[Row]:
    for version in VERSIONS:
        yield from rows(version)


def requested_names() -> list[str]:
    """Return all names and patterns that a kernel requests, with the constructed ones of left.toml."""
    constructed = [name for each in left("constructed") for name in each.names]
    return [*dict.fromkeys(row.name for row in every_row() if row.name not in CONSTRUCTED), *constructed]


@pytest.mark.parametrize("alias", SITES)
def test_every_call_site_of_the_policy_exists_in_a_kernel(alias: str) -> None:
    assert any(overlap(normalize_pattern(alias), normalize_pattern(name), "-") for name in requested_names())


@pytest.mark.parametrize("site", shipped().call_sites, ids=lambda site: str(site.origin))
def test_removing_a_call_site_leaves_an_unknown_name(site: object) -> None:
    """Marks by aliases are left out here, since they could hide a missing call site."""
    aliases = tuple(alias for each in shipped().call_sites if each is not site for alias in each.aliases)
    assert not all(known(row, aliases) for row in every_row() if row.name not in CONSTRUCTED)


@pytest.mark.parametrize("each", left("left"), ids=lambda each: each.names[0])
def test_a_left_out_name_is_requested_and_not_in_the_policy(each: Left) -> None:
    """A file of the row requests or constructs each name, and each file requests one of the names."""
    constructed_names = {name for some in left("constructed") for name in some.names}
    here = [row for row in every_row() if each.at(row) and by_policy(row.name, each.names)]
    for name in each.names:
        assert any(by_policy(other, [name]) for other in (*constructed_names, *(row.name for row in here))), name
    for file in each.files:
        constructed = any(fnmatchcase(file, other) for some in left("constructed") for other in some.files)
        assert constructed or any(fnmatchcase(row.file, file) for row in here), file
    assert [name for name in each.names if by_policy(name, SITES + CLASSES)] == []
    assert len(each.reason) > 20


@pytest.mark.parametrize("each", left("left"), ids=lambda each: each.names[0])
def test_a_left_out_name_has_the_right_reach(each: Left) -> None:
    """The reach is that of safe-modprobectl. For names unknown to it, users must be unable to request them."""
    found = [
        family.reach
        for family in FAMILIES
        for pattern in family.patterns
        for name in each.names
        if by_policy(pattern, [name]) or by_policy(name, [pattern])
    ]
    reach = Reach(each.reach)
    assert min(found, key=ORDER.index, default=reach) == reach
    assert found or reach in (Reach.KERNEL, Reach.CAPABILITY)


@pytest.mark.parametrize("each", left("constructed"), ids=lambda each: each.functions[0])
def test_constructed_names_are_made_in_the_listed_functions(each: Left) -> None:
    here = [row for row in every_row() if each.at(row) and row.name in CONSTRUCTED]
    assert [name for name in each.functions if name not in {row.function for row in here}] == []
    assert [file for file in each.files if not any(fnmatchcase(row.file, file) for row in here)] == []
    assert len(each.reason) > 10


def test_no_constructed_name_has_two_explanations() -> None:
    calls = {row for row in every_row() if row.name in CONSTRUCTED}
    assert [row for row in calls if sum(each.at(row) for each in left("constructed")) != 1] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_series_and_the_policy_name_the_same_capability(version: str) -> None:
    """If the kernel series declares a capability, the first row that matches the whole call has the same one."""
    wrong = []
    for row in rows(version):
        if not row.capability.startswith("CAP_") or row.name in CONSTRUCTED:
            continue
        site = next(each for each in shipped().call_sites if by_policy(row.name, each.aliases))
        if site.capability != cap(row.capability):
            wrong.append((row, site))
    assert wrong == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_summary_has_the_numbers_of_the_tables(version: str) -> None:
    text = (TABLES / f"{version}.md").read_text()
    count = {what: int(number) for what, number in re.findall(r"^\| (\w.*: .*) \| (\d+) \|$", text, re.MULTILINE)}
    lines = [count[f"lines as in 2017: {what}"] for what in ("in all", "constant", "with %", "else")]
    calls = [count[f"calls: {what}"] for what in ("in all", "constant", "prefixed", "constructed")]
    uses = sum(number for what, number in count.items() if what.startswith("mentions: ") and what != "mentions: in all")
    assert (
        uses == count["mentions: in all"]
        and sum(lines[1:]) == lines[0]
        and sum(calls[1:]) == calls[0] == len(rows(version))
    )
    summary = (TABLES / "README.md").read_text()
    (full,) = re.findall(r"^# request_module\(\) in Linux (\S+)$", text, re.MULTILINE)
    for numbers in (lines, [*calls, count["mentions: in all"] - calls[0]]):
        assert f"\n| {full} | {' | '.join(map(str, numbers))} |\n" in summary
