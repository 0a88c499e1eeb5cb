"""The helper's argument vector -> what was asked, and what a patched kernel said of the caller.

Pure. The kernel writes `-q -- ALIAS` (kernel/module/kmod.c, call_modprobe()); grsecurity's adds one
word (kernel/kmod.c, ____request_module()), and one with the series in packaging/kernel up to three. People
write modprobe(8)'s options. Behind the alias, each word an argument (RFC 5234, SP for an argument's end):

    words  = [ kind ] [ caller [ site ] ]
    kind   = SP ( "grsec_modharden_fs" / "grsec_modharden_netdev" )
    caller = SP "grsec_modharden_normal" UID "_"    ; of who lacks CAP_SYS_MODULE; 0 to UID_MAX
    site   = SP "modharden_cap" N "_"               ; held, and declared by the call site; 1 to 63, not 16
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
"""Bytes. The kernel stops at 55 (MODULE_NAME_LEN - 1); udev's aliases, typed by hand, are longer."""

SELF_TEST = ("net-pf-16-proto-31", "net-pf-16-proto-30", "net-pf-16-proto-29")
"""Protocols of AF_NETLINK that no kernel has (include/uapi/linux/netlink.h): callers/self_test.py requests them.

Three, since a kernel with CONFIG_MODULE_DEBUG_AUTOLOAD_DUPS runs no second helper for the same name.
"""

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


def claimed_caller(claim: Claim) -> Caller:
    """The unprivileged caller that the kernel's words name; nobody in particular where they are not understood.

    They tell of its real uid, and of one capability at most. It may hold any other but CAP_SYS_MODULE.
    """
    return Caller(
        Source.KERNEL_ARGS,
        claim.uid,
        capabilities=claim.capabilities,
        initial_user_namespace=True if claim.capabilities else None,
        may_hold=ALL & ~(1 << SYS_MODULE) if claim.uid is not None else 0,
    )


UNNAMED_CALLER = Caller(Source.KERNEL_ARGS, capabilities=1 << SYS_MODULE, initial_user_namespace=True)
"""Of whom a kernel that names everybody else says nothing.

Its uid is not known: it may be a daemon that has kept the capability alone, or a user's set-user-ID program.
"""


def crypto_asks_as_user(alias: str) -> bool:
    """Whether the crypto API's threads ask for it: on a kernel with the series in packaging/kernel, as their users."""
    return alias.startswith(("crypto-", "cryptomgr"))


def _claim(untrusted_args: Sequence[str]) -> Claim:
    """What the words mean; what is not in the grammar comes from nobody privileged, and nothing else in it counts.

    But for `kind`, which only ever takes something away, so it counts wherever it stands.
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
    """N of `nameN_` (%u or %d of a number from least to most, so no sign and no leading zero), otherwise None."""
    digits = word.removeprefix(name).removesuffix("_")
    if word != f"{name}{digits}_" or not (digits.isascii() and digits.isdigit()):
        return None
    # Ten digits hold 2**32; int() of more would only cost time.
    number = int(digits) if len(digits) <= 10 else most + 1
    return number if str(number) == digits and least <= number <= most else None
