"""Parse the helper's arguments into the request and a patched kernel's claim about the caller. Pure.

The kernel writes `-q -- ALIAS` (call_modprobe() in kernel/module/kmod.c). A grsecurity kernel adds one argument
(____request_module() in kernel/kmod.c), a kernel with the series in packaging/kernel up to three. People write
modprobe(8)'s options. The grammar of the kernel arguments after the alias (RFC 5234; SP separates two arguments):

    words  = [ kind ] [ caller [ site ] ]
    kind   = SP ( "grsec_modharden_fs" / "grsec_modharden_netdev" )
    caller = SP "grsec_modharden_normal" UID "_"    ; lacks CAP_SYS_MODULE; real uid, 0 to UID_MAX
    site   = SP "modharden_cap" N "_"               ; the caller holds it, the call site names it; 1 to 63, not 16
"""

from _collections_abc import Sequence

from safe_modprobe.capability import ALL, SYS_MODULE
from safe_modprobe.errors import UsageError
from safe_modprobe.escape import escape
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import UID_MAX, Caller, Claim, Request, Source

NORMAL = "grsec_modharden_normal"
FILESYSTEM = "grsec_modharden_fs"
NETDEV = "grsec_modharden_netdev"
SITE = "modharden_cap"

MAX_ALIAS = 4095
"""Bytes. The kernel passes at most 55 (MODULE_NAME_LEN - 1). udev's aliases, typed by hand, are longer."""

SELF_TEST = ("net-pf-16-proto-31", "net-pf-16-proto-30", "net-pf-16-proto-29")
"""Aliases for AF_NETLINK protocols that no kernel has (include/uapi/linux/netlink.h). `enable` requests them as a test.

Three, since a kernel with CONFIG_MODULE_DEBUG_AUTOLOAD_DUPS runs no second helper for the same name.
"""

_MAX_SHOWN = 80  # characters of a wrong option in a message

USAGE = "safe-modprobe [-q] [-n] [-d DIR] [-S VERSION] [--] ALIAS [KERNEL ARGUMENT...]"


class Invocation(NamedTuple):
    """A parsed command line. `directory` and `version` are modprobe's -d and -S, None if not given."""

    request: Request
    quiet: bool = False
    dry_run: bool = False
    directory: str | None = None
    version: str | None = None


_FLAGS = {"-q": "quiet", "--quiet": "quiet", "-n": "dry_run", "--dry-run": "dry_run", "--show": "dry_run"}
_VALUES = {"-d": "directory", "--dirname": "directory", "-S": "version", "--set-version": "version"}


def parse(argv: Sequence[str]) -> Invocation:
    """Parse the arguments after the program's own name. An argument after `--` is never an option.

    Raises UsageError for an option that is not in USAGE, and for an alias that is empty or longer than MAX_ALIAS.
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
            raise UsageError(f"{escape(word[:_MAX_SHOWN])}: no such option; usage: {USAGE}")
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
    """Return the alias if its length is in bounds, which are in bytes. It may hold any bytes."""
    size = len(untrusted_alias.encode(errors="surrogateescape"))
    if not 0 < size <= MAX_ALIAS:
        raise UsageError(f"the alias has {size} bytes; it may have 1 to {MAX_ALIAS}")
    return untrusted_alias


def claimed_caller(claim: Claim) -> Caller:
    """Return the unprivileged caller that the kernel arguments name; an unknown one for malformed arguments.

    They give its real uid and at most one capability. It may hold any other capability except CAP_SYS_MODULE.
    """
    return Caller(
        Source.KERNEL_ARGS,
        claim.uid,
        capabilities=claim.capabilities,
        initial_user_namespace=True if claim.capabilities else None,
        may_hold=ALL & ~(1 << SYS_MODULE) if claim.uid is not None else 0,
    )


UNNAMED_CALLER = Caller(Source.KERNEL_ARGS, capabilities=1 << SYS_MODULE, initial_user_namespace=True)
"""The caller of a request without kernel arguments, on a kernel that names each caller without CAP_SYS_MODULE.

Its uid is unknown: it may be a daemon that kept only this capability, or a set-user-ID program that a user runs.
"""


def crypto_asks_as_user(alias: str) -> bool:
    """Return whether crypto threads request this alias: as their user, where packaging/kernel patches the kernel."""
    return alias.startswith(("crypto-", "cryptomgr"))


def _claim(untrusted_args: Sequence[str]) -> Claim:
    """Return what the arguments claim. Arguments outside the grammar claim an unprivileged and unknown caller.

    `kind` counts in any position and in malformed arguments, because it can only take privilege away.
    """
    filesystem, netdev = FILESYSTEM in untrusted_args, NETDEV in untrusted_args
    rest = untrusted_args[1:] if untrusted_args and untrusted_args[0] in (FILESYSTEM, NETDEV) else untrusted_args
    if not rest:
        return Claim(filesystem=filesystem, netdev=netdev)
    uid = _number(rest[0], NORMAL, 0, UID_MAX)
    site = _number(rest[1], SITE, 1, 63) if len(rest) == 2 else None
    if len(rest) == 1 or (uid is not None and site not in (None, SYS_MODULE)):
        return Claim(True, uid, filesystem, netdev, 0 if site is None else 1 << site)
    return Claim(True, None, filesystem, netdev)


def _number(word: str, name: str, least: int, most: int) -> int | None:
    """Return N of `nameN_`: a decimal from least to most, without sign or leading zero. Otherwise return None."""
    digits = word.removeprefix(name).removesuffix("_")
    if word != f"{name}{digits}_" or not (digits.isascii() and digits.isdigit()):
        return None
    # Ten digits hold 2**32. Parsing more digits would only cost time.
    number = int(digits) if len(digits) <= 10 else most + 1
    return number if str(number) == digits and least <= number <= most else None
