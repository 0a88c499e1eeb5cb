"""`mark`, `unmark` and `allow` change what callers get. Each test is one edit, checked with real requests."""

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
    """Switch safe-modprobe on, remove the administrator's policy and unload these modules, before each test."""
    guest.sh(f"rm -f {ETC}/*.toml {UNTIL_REBOOT}; mkdir -p {ETC}")
    guest.unload(*SMP, *ALG)
    guest.switch_on()


def ctl(guest: Guest, command: str) -> str:
    """Run a safe-modprobectl command that must succeed. Return its output."""
    done = guest.sh(f"safe-modprobectl {command}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(guest: Guest, command: str) -> str:
    """Run a safe-modprobectl command that must exit with 1. Return its error message."""
    done = guest.sh(f"safe-modprobectl {command}")
    assert done.returncode == 1, done
    return done.stderr.removeprefix("safe-modprobectl: ").removesuffix("\n")


def got(guest: Guest, uid: int, family: int, module: str, kind: int = 1, protocol: int = 0) -> bool:
    """Return whether a request for net-pf-FAMILY by this user loads the module. Unload it afterwards."""
    return _loads(guest, module, lambda: guest.run_as(uid, lambda: guest.ask_socket(family, kind, protocol)))


def got_open(guest: Guest, uid: int, **privileges: object) -> bool:
    """Return whether a request for smp_open by name loads it. It has no marker, and no class has its name."""
    return _loads(guest, "smp_open", lambda: guest.run_as(uid, lambda: guest.ask_raw(b"smp_open"), **privileges))


def _loads(guest: Guest, module: str, request: Callable[[], object]) -> bool:
    assert module not in guest.modules(), guest.sh(f"lsmod; rmmod {module}")
    request()
    loaded = module in guest.modules()
    guest.unload(*SMP, *ALG)
    return loaded


def test_mark_refuses_a_user_and_unmark_allows_the_user_again(guest: Guest) -> None:
    assert got_open(guest, 1000)
    output = ctl(guest, "mark smp-open --reason 'nobody here needs it'")
    assert (
        output.startswith(f"{SITE}:1: written\n") and "smp_open: denied to a user without privilege" in output
    ), output
    assert not got_open(guest, 1000)
    assert "nobody here needs it" in guest.log()[-1] and "[10-site.toml:1]" in guest.log()[-1], guest.log()[-1:]
    assert got_open(guest, 0)
    output = ctl(guest, "unmark smp_open --reason 'somebody does'")
    # Its alias net-pf-42 is in a class that the default policy marks, so unmark also writes a row that opens it.
    assert f"{SITE}: smp_open removed from an earlier mark\n" in output and f"{SITE}:1: written\n" in output, output
    assert got_open(guest, 1000)
    assert got(guest, 1000, 42, "smp_open")


def test_a_mark_can_name_a_capability(guest: Guest) -> None:
    ctl(guest, "mark smp_open --cap cap_net_admin --reason test")
    assert not got_open(guest, 1000)
    assert got_open(guest, 1000, caps=("CAP_NET_ADMIN",))


def test_unmark_opens_a_module_that_the_default_policy_marks(guest: Guest) -> None:
    assert not got(guest, 1000, 38, "af_alg", 5)
    ctl(guest, "unmark af_alg --reason test")
    assert got(guest, 1000, 38, "af_alg", 5)
    ctl(guest, "mark af_alg --reason test")
    assert not got(guest, 1000, 38, "af_alg", 5)


def test_unmark_overrides_a_modules_marker_only_with_the_option(guest: Guest) -> None:
    assert "no mark is the cause; add --over-marker to open the module" in refused(
        guest, "unmark smp_marked --reason test"
    )
    assert not got(guest, 1000, MARKED, "smp_marked")
    ctl(guest, "unmark smp_marked --over-marker --reason test")
    assert got(guest, 1000, MARKED, "smp_marked")


def test_allow_covers_one_user_and_the_modules_dependencies(guest: Guest) -> None:
    output = ctl(guest, "allow smp_needs_marked --uid 1001 --reason test")
    assert "note: the row also names smp_marked" in output, output
    assert not got(guest, 1000, NEEDS_MARKED, "smp_needs_marked")
    assert got(guest, 1001, NEEDS_MARKED, "smp_needs_marked")
    assert ctl(guest, "allow smp_needs_marked --uid 1001 --reason again").startswith(f"{SITE}: nothing to change\n")


def test_edits_judge_a_loaded_module_as_if_it_were_not_loaded(guest: Guest) -> None:
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_needs_marked")) == 0
    output = ctl(guest, "mark smp_needs_marked --reason test")
    assert "note: it is in the kernel already, so every user has it until 'rmmod smp_needs_marked'\n" in output, output
    output = ctl(guest, "allow smp_needs_marked --uid 1001 --reason test")
    assert "note: the row also names smp_marked, needed to load the rest\n" in output, output
    guest.unload("smp_needs_marked", "smp_marked")
    assert not got(guest, 1000, NEEDS_MARKED, "smp_needs_marked")
    assert got(guest, 1001, NEEDS_MARKED, "smp_needs_marked")


def test_until_reboot_writes_only_below_run_and_takes_precedence_over_etc(guest: Guest) -> None:
    ctl(guest, "mark smp_open --reason test")
    ctl(guest, "allow smp_open --uid 1001 --until-reboot")
    guest.write(f"{ETC}/11-all.toml", 'rule = [{ modules = ["smp_open"], users = [1001], action = "deny" }]\n')
    before = guest.sh(f"cat {SITE}").stdout
    assert got_open(guest, 1001)
    assert not got_open(guest, 1000)
    assert guest.sh(f"cat {SITE}").stdout == before and "allow" not in before
    assert guest.sh(f"stat -c '%a %u' {UNTIL_REBOOT} {RUN}").stdout == "644 0\n755 0\n"


def test_an_edit_that_an_earlier_rule_overrides_fails_and_names_the_rule(guest: Guest) -> None:
    guest.write(f"{ETC}/05-a.toml", 'rule = [{ modules = ["smp_open"], action = "deny", reason = "no" }]\n')
    output = refused(guest, "allow smp_open --uid 1001 --reason test")
    assert output == "05-a.toml:1: smp_open: no; that decides first, so change it there; nothing was changed", output
    assert guest.sh(f"test -e {SITE}").returncode == 1


def test_an_edit_on_a_read_only_file_system_changes_nothing(guest: Guest) -> None:
    guest.sh(f"mount -t tmpfs -o ro,mode=755 tmpfs {ETC}")
    try:
        output = refused(guest, "mark smp_open --reason test")
        assert output == f"{SITE}: it cannot be written: Read-only file system; nothing was changed", output
    finally:
        guest.sh(f"umount {ETC}")
    assert got_open(guest, 1000)


def test_an_unprivileged_user_cannot_edit_the_policy(guest: Guest) -> None:
    done = guest.run_as(1000, lambda: guest.sh("safe-modprobectl mark smp_open --reason test"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert guest.sh(f"ls -A {ETC}").stdout == ""
