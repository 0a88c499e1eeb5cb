"""The helper's argument vector -> what was asked, and what a patched kernel said of the caller.

Pure. The kernel writes `-q -- ALIAS` (kernel/module/kmod.c, call_modprobe()); grsecurity's adds one
string (kernel/kmod.c, ____request_module()). People write modprobe(8)'s options.
"""

from collections.abc import Sequence

from safe_modprobe.errors import UsageError
from safe_modprobe.frozen import NamedTuple
from safe_modprobe.model import Claim, Request

NORMAL = "grsec_modharden_normal"
FILESYSTEM = "grsec_modharden_fs"
NETDEV = "grsec_modharden_netdev"

MAX_ALIAS = 4095
"""Bytes. The kernel stops at 55 (MODULE_NAME_LEN - 1); udev's aliases, typed by hand, are longer."""

UID_MAX = 2**32 - 2  # -1 is nobody, chown(2)

_SHOWN = 80  # characters of a wrong word: enough to find it

USAGE = "safe-modprobe [-q] [-n] [-d DIR] [-S VERSION] [--] ALIAS [KERNEL ARGUMENT...]"


class Invocation(NamedTuple):
    """A parsed command line; `directory` and `version` are modprobe's -d and -S, None if not given."""

    request: Request
    quiet: bool = False
    dry_run: bool = False
    directory: str | None = None
    version: str | None = None


_FLAGS = {"-q": "quiet", "--quiet": "quiet", "-n": "dry_run", "--dry-run": "dry_run", "--show": "dry_run"}
_VALUES = {"-d": "directory", "--dirname": "directory", "-S": "version", "--set-version": "version"}


def parse(argv: Sequence[str]) -> Invocation:
    """Parse the arguments after the program's own name.

    Raises UsageError for what modprobe(8) would not accept, and for an alias that is empty or longer than
    MAX_ALIAS. What stands after `--` is never taken for an option.
    """
    options: dict[str, bool] = {}
    values: dict[str, str] = {}
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        if name in _VALUES:
            if not equals and not rest:
                raise UsageError(f"{name}: no value was given; usage: {USAGE}")
            values[_VALUES[name]] = value if equals else rest.pop(0)
        elif name in _FLAGS and not (word.startswith("--") and equals) and not value.startswith("-"):
            options[_FLAGS[name]] = True
            if value:  # `-qn` is `-q -n`, and `-q-` is not `-q --`
                rest.insert(0, "-" + value)
        else:
            raise UsageError(f"{escape(word[:_SHOWN])}: no such option; usage: {USAGE}")
    if not rest:
        raise UsageError(f"no alias was given; usage: {USAGE}")
    untrusted_alias, *untrusted_args = rest
    return Invocation(
        Request(_checked_alias(untrusted_alias), tuple(untrusted_args), _claim(untrusted_args)),
        options.get("quiet", False),
        options.get("dry_run", False),
        values.get("directory"),
        values.get("version"),
    )


def _checked_alias(untrusted_alias: str) -> str:
    """An alias may be any bytes; only its length has a bound."""
    size = len(untrusted_alias.encode(errors="surrogateescape"))
    if not 0 < size <= MAX_ALIAS:
        raise UsageError(f"the alias has {size} bytes; it may have 1 to {MAX_ALIAS}")
    return untrusted_alias


def _claim(untrusted_args: Sequence[str]) -> Claim:
    """What grsecurity's strings mean; whatever else stands there comes from nobody privileged."""
    unprivileged, uid, filesystem, netdev = False, None, False, False
    for word in untrusted_args:
        if word == FILESYSTEM:
            filesystem = True
        elif word == NETDEV:
            netdev = True
        else:
            # One kernel says one thing: a second word takes the first one's uid away, and brings none.
            uid = None if unprivileged else _normal_uid(word)
            unprivileged = True
    return Claim(unprivileged, uid, filesystem, netdev)


def _normal_uid(word: str) -> int | None:
    """N of `grsec_modharden_normalN_` (%u of a uid, so no sign, no leading zero, and not root's), otherwise None."""
    digits = word.removeprefix(NORMAL).removesuffix("_")
    if word != f"{NORMAL}{digits}_" or not (digits.isascii() and digits.isdigit()):
        return None
    # Ten digits hold 2**32; int() of more would only cost time.
    uid = int(digits) if len(digits) <= 10 else UID_MAX + 1
    return uid if str(uid) == digits and 0 < uid <= UID_MAX else None


def escape(text: str) -> str:
    r"""Untrusted text for one line that people and parsers read: ASCII, with \xNN for the rest."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"\\\"'" else f"\\x{byte:02x}"
        for byte in text.encode(errors="surrogateescape")
    )
