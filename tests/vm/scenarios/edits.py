"""An admin marks, unmarks and allows: what the kernel then does, one row a test."""

from collections.abc import Callable

from guest import Guest

SMP = (
    "smp_nested", "smp_nested_marked", "smp_softdep", "smp_needs_marked", "smp_net_admin", "smp_marked", "smp_open",
)  # fmt: skip
ALG = ("algif_aead", "algif_hash", "algif_skcipher", "algif_rng", "af_alg")
MARKED, NEEDS_MARKED = 21, 39

ETC = "/etc/safe-modprobe/policy.d"
SITE = f"{ETC}/10-site.toml"
RUN = "/run/safe-modprobe/policy.d"
UNTIL_REBOOT = f"{RUN}/09-until-reboot.toml"


def setup(guest: Guest) -> None:
    """Before each test: switched on, no row of the admin's, and nothing of ours in the kernel."""
    guest.sh(f"rm -f {ETC}/*.toml {UNTIL_REBOOT}; mkdir -p {ETC}")
    guest.unload(*SMP, *ALG)
    guest.switch_on()


def ctl(guest: Guest, command: str) -> str:
    done = guest.sh(f"safe-modprobectl {command}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(guest: Guest, command: str) -> str:
    done = guest.sh(f"safe-modprobectl {command}")
    assert done.returncode == 1, done
    return done.stderr.removeprefix("safe-modprobectl: ").removesuffix("\n")


def got(guest: Guest, uid: int, family: int, module: str, kind: int = 1, protocol: int = 0) -> bool:
    """Whether the module is in once this user has asked for the family; it was not before, and is not after."""
    return _came_in(guest, module, lambda: guest.run_as(uid, lambda: guest.ask_socket(family, kind, protocol)))


def got_open(guest: Guest, uid: int, **who: object) -> bool:
    """The same for smp_open, which is not marked, by its own name, for which no class of aliases is."""
    return _came_in(guest, "smp_open", lambda: guest.run_as(uid, lambda: guest.ask_raw(b"smp_open"), **who))


def _came_in(guest: Guest, module: str, ask: Callable[[], object]) -> bool:
    assert module not in guest.modules(), guest.sh(f"lsmod; rmmod {module}")
    ask()
    there = module in guest.modules()
    guest.unload(*SMP, *ALG)
    return there


def test_mark_has_a_user_refused_and_unmark_lets_it_through(guest: Guest) -> None:
    assert got_open(guest, 1000)
    said = ctl(guest, "mark smp-open --reason 'nobody here needs it'")
    assert said.startswith(f"{SITE}:1: written\n") and "smp_open: denied to a user without privilege" in said, said
    assert not got_open(guest, 1000)
    assert "nobody here needs it" in guest.log()[-1] and "[10-site.toml:1]" in guest.log()[-1], guest.log()[-1:]
    assert got_open(guest, 0)
    said = ctl(guest, "unmark smp_open --reason 'somebody does'")
    # Its own alias, net-pf-42, is in a class of the default policy's, so there is a row as well: everybody gets it.
    assert f"{SITE}: smp_open removed from an earlier mark\n" in said and f"{SITE}:1: written\n" in said, said
    assert got_open(guest, 1000)
    assert got(guest, 1000, 42, "smp_open")


def test_mark_for_a_capability(guest: Guest) -> None:
    ctl(guest, "mark smp_open --cap cap_net_admin --reason test")
    assert not got_open(guest, 1000)
    assert got_open(guest, 1000, caps=("CAP_NET_ADMIN",))


def test_unmark_of_the_default_policys_mark(guest: Guest) -> None:
    assert not got(guest, 1000, 38, "af_alg", 5)
    ctl(guest, "unmark af_alg --reason test")
    assert got(guest, 1000, 38, "af_alg", 5)
    ctl(guest, "mark af_alg --reason test")
    assert not got(guest, 1000, 38, "af_alg", 5)


def test_unmark_leaves_a_modules_own_marker_unless_it_is_told_to(guest: Guest) -> None:
    assert "no mark says so: --over-marker opens it" in refused(guest, "unmark smp_marked --reason test")
    assert not got(guest, 1000, MARKED, "smp_marked")
    ctl(guest, "unmark smp_marked --over-marker --reason test")
    assert got(guest, 1000, MARKED, "smp_marked")


def test_allow_lets_one_user_through_with_all_that_it_needs_and_no_other(guest: Guest) -> None:
    said = ctl(guest, "allow smp_needs_marked --uid 1001 --reason test")
    assert "note: the row also names smp_marked" in said, said
    assert not got(guest, 1000, NEEDS_MARKED, "smp_needs_marked")
    assert got(guest, 1001, NEEDS_MARKED, "smp_needs_marked")
    assert ctl(guest, "allow smp_needs_marked --uid 1001 --reason again").startswith(f"{SITE}: nothing to change\n")


def test_a_module_that_is_in_the_kernel_is_judged_as_if_it_were_not(guest: Guest) -> None:
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_needs_marked")) == 0
    said = ctl(guest, "mark smp_needs_marked --reason test")
    assert "note: it is in the kernel already, so every user has it until 'rmmod smp_needs_marked'\n" in said, said
    said = ctl(guest, "allow smp_needs_marked --uid 1001 --reason test")
    assert "note: the row also names smp_marked, needed to load the rest\n" in said, said
    guest.unload("smp_needs_marked", "smp_marked")
    assert not got(guest, 1000, NEEDS_MARKED, "smp_needs_marked")
    assert got(guest, 1001, NEEDS_MARKED, "smp_needs_marked")


def test_until_reboot_writes_below_run_alone_and_stands_above_etc(guest: Guest) -> None:
    ctl(guest, "mark smp_open --reason test")
    ctl(guest, "allow smp_open --uid 1001 --until-reboot")
    guest.write(f"{ETC}/11-all.toml", 'rule = [{ modules = ["smp_open"], users = [1001], action = "deny" }]\n')
    before = guest.sh(f"cat {SITE}").stdout
    assert got_open(guest, 1001)
    assert not got_open(guest, 1000)
    assert guest.sh(f"cat {SITE}").stdout == before and "allow" not in before
    assert guest.sh(f"stat -c '%a %u' {UNTIL_REBOOT} {RUN}").stdout == "644 0\n755 0\n"


def test_a_rule_that_decides_first_is_named_and_nothing_is_written(guest: Guest) -> None:
    guest.write(f"{ETC}/05-a.toml", 'rule = [{ modules = ["smp_open"], action = "deny", reason = "no" }]\n')
    said = refused(guest, "allow smp_open --uid 1001 --reason test")
    assert said == "05-a.toml:1: smp_open: no; that decides first, so change it there; nothing was changed", said
    assert guest.sh(f"test -e {SITE}").returncode == 1


def test_a_disk_that_cannot_be_written(guest: Guest) -> None:
    guest.sh(f"mount -t tmpfs -o ro,mode=755 tmpfs {ETC}")
    try:
        said = refused(guest, "mark smp_open --reason test")
        assert said == f"{SITE}: it cannot be written: Read-only file system; nothing was changed", said
    finally:
        guest.sh(f"umount {ETC}")
    assert got_open(guest, 1000)


def test_a_user_cannot_write(guest: Guest) -> None:
    done = guest.run_as(1000, lambda: guest.sh("safe-modprobectl mark smp_open --reason test"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert guest.sh(f"ls -A {ETC}").stdout == ""
