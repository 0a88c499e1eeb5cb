"""Names of users and groups, from /etc/passwd and /etc/group alone.

Name services must not be asked from inside a module request: the one that answers may
itself be waiting for a module.
"""

from safe_modprobe.runtime import read

_MAX_BYTES = 8 << 20
_DIGITS = 10  # of 2**32 - 1


class Accounts:
    """The two files, each read when the first name of its kind is asked for. Raises OSError then."""

    def __init__(self, passwd: str = "/etc/passwd", group: str = "/etc/group") -> None:
        self._paths = (passwd, group)
        self._numbers: dict[str, dict[bytes, int]] = {}

    def uid(self, name: str) -> int | None:
        """The user's number, None for nobody of that name."""
        return self._known(self._paths[0]).get(name.encode(errors="surrogateescape"))

    def gid(self, name: str) -> int | None:
        """The group's number, None for no group of that name."""
        return self._known(self._paths[1]).get(name.encode(errors="surrogateescape"))

    def user_name(self, uid: int) -> str | None:
        """The first name of this number, None for a number without one."""
        known = self._known(self._paths[0])
        return next((name.decode(errors="surrogateescape") for name, number in known.items() if number == uid), None)

    def gids(self, uid: int) -> frozenset[int]:
        """The groups of whoever logs in with this number: passwd(5)'s own, and those of group(5) that list the name."""
        passwd, group = (_rows(read(path, _MAX_BYTES)) for path in self._paths)
        users = [fields for fields in passwd if fields[2] == b"%d" % uid]
        names = {fields[0] for fields in users}
        found = {fields[3] for fields in users}
        found |= {fields[2] for fields in group if not names.isdisjoint(fields[3].split(b","))}
        return frozenset(int(gid) for gid in found if gid.isdigit() and len(gid) <= _DIGITS)

    def _known(self, path: str) -> dict[bytes, int]:
        if path not in self._numbers:
            self._numbers[path] = parse_numbers(read(path, _MAX_BYTES))
        return self._numbers[path]


def parse_numbers(text: bytes) -> dict[bytes, int]:
    """`name:password:number:…` lines; passwd(5) and group(5) agree so far. The first of a name wins."""
    numbers: dict[bytes, int] = {}
    for fields in _rows(text):
        if fields[0] and fields[2].isdigit() and len(fields[2]) <= _DIGITS:
            numbers.setdefault(fields[0], int(fields[2]))
    return numbers


def _rows(text: bytes) -> list[list[bytes]]:
    rows = [line.split(b":") for line in text.split(b"\n")]
    return [fields for fields in rows if len(fields) > 3]
