"""Look up users and groups in /etc/passwd and /etc/group alone.

The helper must not query a name service during a module request, since that service may itself wait for a module.
"""

from safe_modprobe.runtime import read

_MAX_BYTES = 8 << 20
_DIGITS = 10  # of 2**32 - 1


class Accounts:
    """The two files, each read by the first query that needs it. Every query raises OSError if it cannot read."""

    def __init__(self, passwd: str = "/etc/passwd", group: str = "/etc/group") -> None:
        self._paths = (passwd, group)
        self._numbers: dict[str, dict[bytes, int]] = {}

    def uid(self, name: str) -> int | None:
        """Return the user's uid, None for an unknown name."""
        return self._known(self._paths[0]).get(name.encode(errors="surrogateescape"))

    def gid(self, name: str) -> int | None:
        """Return the group's gid, None for an unknown name."""
        return self._known(self._paths[1]).get(name.encode(errors="surrogateescape"))

    def user_name(self, uid: int) -> str | None:
        """Return the first user name with this uid, None if there is none."""
        known = self._known(self._paths[0])
        return next((name.decode(errors="surrogateescape") for name, number in known.items() if number == uid), None)

    def gids(self, uid: int) -> frozenset[int]:
        """Return the groups of a login with this uid: the primary one of passwd(5) and those of group(5)."""
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
    """Return {name: number} of `name:password:number:…` lines (passwd(5), group(5)). A name's first line wins."""
    numbers: dict[bytes, int] = {}
    for fields in _rows(text):
        if fields[0] and fields[2].isdigit() and len(fields[2]) <= _DIGITS:
            numbers.setdefault(fields[0], int(fields[2]))
    return numbers


def _rows(text: bytes) -> list[list[bytes]]:
    rows = [line.split(b":") for line in text.split(b"\n")]
    return [fields for fields in rows if len(fields) > 3]
