"""Parse the helper's arguments: the kernel's, a patched kernel's, modprobe's options, and hostile bytes."""

import os

import pytest

from safe_modprobe.callers.kernel_args import USAGE, claimed_caller, parse
from safe_modprobe.capability import SYS_MODULE, holds
from safe_modprobe.errors import UsageError
from safe_modprobe.escape import escape
from safe_modprobe.model import Claim, Source

CLAIMS = [
    ([], Claim()),
    (["grsec_modharden_normal1000_"], Claim(True, 1000)),
    (["grsec_modharden_normal4294967294_"], Claim(True, 4294967294)),
    (["grsec_modharden_normal0_"], Claim(True, 0)),  # uid 0 without CAP_SYS_MODULE; grsecurity never passes it
    (["grsec_modharden_fs"], Claim(filesystem=True)),
    (["grsec_modharden_netdev"], Claim(netdev=True)),
    # A kernel with the series in packaging/kernel passes up to three arguments.
    (["grsec_modharden_fs", "grsec_modharden_normal1000_"], Claim(True, 1000, True)),
    (["grsec_modharden_netdev", "grsec_modharden_normal0_"], Claim(True, 0, False, True)),
    (["grsec_modharden_normal1000_", "modharden_cap12_"], Claim(True, 1000, capabilities=1 << 12)),
    (["grsec_modharden_normal0_", "modharden_cap1_"], Claim(True, 0, capabilities=2)),
    (["grsec_modharden_normal5_", "modharden_cap63_"], Claim(True, 5, capabilities=1 << 63)),
    (
        ["grsec_modharden_fs", "grsec_modharden_normal1000_", "modharden_cap21_"],
        Claim(True, 1000, True, False, 1 << 21),
    ),
    # Malformed or unknown: an unprivileged and unknown caller.
    (["grsec_modharden_normal_"], Claim(True)),
    (["grsec_modharden_normal1000"], Claim(True)),
    (["grsec_modharden_normal1000__"], Claim(True)),
    (["grsec_modharden_normal-1_"], Claim(True)),
    (["grsec_modharden_normal+1_"], Claim(True)),
    (["grsec_modharden_normal01000_"], Claim(True)),
    (["grsec_modharden_normal4294967295_"], Claim(True)),
    (["grsec_modharden_normal00_"], Claim(True)),
    (["grsec_modharden_normal-0_"], Claim(True)),
    (["grsec_modharden_normal" + "9" * 5000 + "_"], Claim(True)),
    (["grsec_modharden_normal١_"], Claim(True)),
    (["grsec_modharden_normal1000_ "], Claim(True)),
    (["Xgrsec_modharden_normal1000_"], Claim(True)),
    (["grsec_modharden_fs_"], Claim(True)),
    (["grsec_modharden"], Claim(True)),
    ([""], Claim(True)),
    (["debug=1"], Claim(True)),
    (["\udcff"], Claim(True)),
    (["grsec_modharden_fs", "x"], Claim(True, None, True)),
    (["grsec_modharden_normal1000_", "grsec_modharden_normal1001_"], Claim(True)),
    (["grsec_modharden_normal1000_", "x"], Claim(True)),
    (["x", "grsec_modharden_normal1000_"], Claim(True)),
    # In another order, twice, or without the argument that must precede them.
    (["modharden_cap12_"], Claim(True)),
    (["grsec_modharden_fs", "modharden_cap21_"], Claim(True, None, True)),
    (["modharden_cap12_", "grsec_modharden_normal1000_"], Claim(True)),
    (["grsec_modharden_normal1000_", "grsec_modharden_fs"], Claim(True, None, True)),
    (["grsec_modharden_normal1000_", "modharden_cap12_", "grsec_modharden_fs"], Claim(True, None, True)),
    (["grsec_modharden_normal1000_", "modharden_cap12_", "modharden_cap21_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap12_", ""], Claim(True)),
    (["", "grsec_modharden_normal1000_"], Claim(True)),
    (["grsec_modharden_fs", "grsec_modharden_fs"], Claim(True, None, True)),
    (["grsec_modharden_fs", "grsec_modharden_netdev"], Claim(True, None, True, True)),
    (["grsec_modharden_fs", "grsec_modharden_netdev", "grsec_modharden_normal1000_"], Claim(True, None, True, True)),
    (["grsec_modharden_normal_", "modharden_cap12_"], Claim(True)),
    # All in one argument, as a shell would see it.
    (["grsec_modharden_normal1000_ modharden_cap12_"], Claim(True)),
    (["grsec_modharden_normal1000_modharden_cap12_"], Claim(True)),
    # No kernel names a capability so.
    (["grsec_modharden_normal1000_", "modharden_cap16_"], Claim(True)),  # CAP_SYS_MODULE: then the kernel is silent
    (["grsec_modharden_normal1000_", "modharden_cap0_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap12"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap012_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap-1_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap+12_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap64_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap4294967308_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap" + "9" * 5000 + "_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap١٢_"], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_cap12_ "], Claim(True)),
    (["grsec_modharden_normal1000_", "modharden_CAP_NET_ADMIN_"], Claim(True)),
    (["grsec_modharden_normal1000_", "grsec_modharden_cap12_"], Claim(True)),
]


@pytest.mark.parametrize(("arguments", "claim"), CLAIMS)
def test_kernel_arguments_give_the_claim(arguments: list[str], claim: Claim) -> None:
    request = parse(["-q", "--", "net-pf-38", *arguments]).request
    assert request.claim == claim
    assert request.kernel_args == tuple(arguments)


@pytest.mark.parametrize("claim", [claim for _, claim in CLAIMS if claim.unprivileged])
def test_a_claimed_caller_never_holds_cap_sys_module(claim: Claim) -> None:
    caller = claimed_caller(claim)
    assert (caller.source, caller.uid, caller.known) == (Source.KERNEL_ARGS, claim.uid, claim.uid is not None)
    assert caller.capabilities == claim.capabilities
    assert not holds(caller.capabilities | caller.may_hold, SYS_MODULE)


@pytest.mark.parametrize("claim", [claim for _, claim in CLAIMS if claim.unprivileged])
def test_a_claimed_caller_has_no_details_beyond_the_claim(claim: Claim) -> None:
    """Except that a claimed capability is held in the initial user namespace."""
    caller = claimed_caller(claim)
    assert (caller.euid, caller.gids, caller.no_new_privs, caller.seen) == (None, None, None, False)
    assert caller.initial_user_namespace is (True if claim.capabilities else None)


OPTIONS = [
    (["-q", "--", "x"], dict(quiet=True)),
    (["x"], {}),
    (["-n", "x"], dict(dry_run=True)),
    (["--dry-run", "x"], dict(dry_run=True)),
    (["--show", "x"], dict(dry_run=True)),
    (["-qn", "x"], dict(quiet=True, dry_run=True)),
    (["-d", "/root", "x"], dict(directory="/root")),
    (["-d/root", "x"], dict(directory="/root")),
    (["--dirname=/root", "x"], dict(directory="/root")),
    (["--dirname", "/root", "x"], dict(directory="/root")),
    (["-S", "6.1.0", "x"], dict(version="6.1.0")),
    (["--set-version=6.1.0", "-nq", "x"], dict(version="6.1.0", quiet=True, dry_run=True)),
]


@pytest.mark.parametrize(("argv", "options"), OPTIONS)
def test_options(argv: list[str], options: dict[str, object]) -> None:
    found = parse(argv)
    assert found.request.alias == "x"
    for name, default in (("quiet", False), ("dry_run", False), ("directory", None), ("version", None)):
        assert getattr(found, name) == options.get(name, default)


HOSTILE = ["../x", "/abs.ko", "./x.ko", "-r", "--", "*", "[", "a\nb", "\udcff\udcfe", "x" * 55, " ", "%n", "x" * 4095]


@pytest.mark.parametrize("alias", HOSTILE)
def test_any_bytes_are_an_alias_after_two_dashes(alias: str) -> None:
    assert parse(["-q", "--", alias]).request.alias == alias


ERRORS = [
    ([], f"no alias was given; usage: {USAGE}"),
    (["-q"], f"no alias was given; usage: {USAGE}"),
    (["-q", "--"], f"no alias was given; usage: {USAGE}"),
    (["-r", "x"], f"-r: no such option; usage: {USAGE}"),
    (["-qr", "x"], f"-r: no such option; usage: {USAGE}"),
    (["-q-", "x"], f"-q-: no such option; usage: {USAGE}"),
    (["-q-quiet", "x"], f"-q-quiet: no such option; usage: {USAGE}"),
    (["-", "x"], f"-: no such option; usage: {USAGE}"),
    (["-" + "r" * 10_000_000], f"-{'r' * 79}: no such option; usage: {USAGE}"),
    (["--force", "x"], f"--force: no such option; usage: {USAGE}"),
    (["--quiet=1", "x"], f"--quiet=1: no such option; usage: {USAGE}"),
    (["-\n", "x"], f"-\\x0a: no such option; usage: {USAGE}"),
    (["-d"], f"-d: no value was given; usage: {USAGE}"),
    (["--set-version"], f"--set-version: no value was given; usage: {USAGE}"),
    (["--", ""], "the alias has 0 bytes; it may have 1 to 4095"),
    (["--", "x" * 4096], "the alias has 4096 bytes; it may have 1 to 4095"),
    (["--", "ü" * 2048], "the alias has 4096 bytes; it may have 1 to 4095"),
    (["--", "x" * 10_000_000], "the alias has 10000000 bytes; it may have 1 to 4095"),
]


@pytest.mark.parametrize(("argv", "message"), ERRORS)
def test_errors(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(argv)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"net-pf-38", "net-pf-38"),
        (b"a\nb", "a\\x0ab"),
        (b"\xff", "\\xff"),
        (b"'\"\\", "\\x27\\x22\\x5c"),
        (b"\x1b[31m", "\\x1b[31m"),
        ("ü".encode(), "\\xc3\\xbc"),
    ],
)
def test_escape(raw: bytes, shown: str) -> None:
    assert escape(os.fsdecode(raw)) == shown
