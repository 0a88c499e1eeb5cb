"""Requests on a stock kernel: which caller gets which module. Each test is one case."""

import json

from guest import Guest

SMP = (
    "smp_nested", "smp_nested_marked", "smp_softdep", "smp_needs_marked", "smp_net_admin", "smp_marked", "smp_open",
    "smp_options",
)  # fmt: skip
ALG = ("algif_aead", "algif_hash", "algif_skcipher", "algif_rng", "af_alg")
SCTP = ("sctp", "ip6_udp_tunnel", "udp_tunnel")

MARKED, NEEDS_MARKED, NET_ADMIN, OPEN, SOFTDEP, NESTED = 21, 39, 37, 42, 36, 33
"""The protocol families in the aliases (net-pf-FAMILY) of the test modules (tests/vm/modules)."""


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on and unload the modules of these tests, before each test."""
    guest.unload(*SMP, *ALG, *SCTP)
    guest.switch_on()


def expect(guest: Guest, module: str, loaded: bool) -> None:
    """Assert that the module is loaded, or is not. The failure shows the last three records."""
    assert (
        module in guest.modules()
    ) is loaded, f"{module} {'is not' if loaded else 'is'} in /proc/modules; the log says: {guest.log()[-3:]}"


def open_socket(guest: Guest, uid: int, family: int, kind: int = 1, protocol: int = 0, **privileges: object) -> None:
    """Request net-pf-FAMILY as this user, with these arguments of Guest.become()."""
    guest.run_as(uid, lambda: guest.ask_socket(family, kind, protocol), **privileges)


def test_user_is_refused_a_marked_module_by_alias(guest: Guest) -> None:
    open_socket(guest, 1000, MARKED)
    expect(guest, "smp_marked", False)


def test_root_gets_a_marked_module_by_alias(guest: Guest) -> None:
    open_socket(guest, 0, MARKED)
    expect(guest, "smp_marked", True)


def test_user_gets_an_unmarked_module(guest: Guest) -> None:
    open_socket(guest, 1000, OPEN)
    expect(guest, "smp_open", True)


def test_user_is_refused_a_marked_module_by_its_name(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked"))
    guest.run_as(1000, lambda: guest.ask_raw(b"smp-marked"))
    expect(guest, "smp_marked", False)


def test_user_is_refused_a_module_that_depends_on_a_marked_one(guest: Guest) -> None:
    open_socket(guest, 1000, NEEDS_MARKED)
    expect(guest, "smp_marked", False)
    expect(guest, "smp_needs_marked", False)


def test_root_gets_a_module_that_depends_on_a_marked_one(guest: Guest) -> None:
    open_socket(guest, 0, NEEDS_MARKED)
    expect(guest, "smp_needs_marked", True)


def test_a_users_soft_dependency_on_a_marked_module_is_skipped(guest: Guest) -> None:
    open_socket(guest, 1000, SOFTDEP)
    expect(guest, "smp_marked", False)
    expect(guest, "smp_softdep", True)


def test_roots_soft_dependency_is_loaded(guest: Guest) -> None:
    open_socket(guest, 0, SOFTDEP)
    expect(guest, "smp_marked", True)
    expect(guest, "smp_softdep", True)


def test_a_nested_request_caused_by_a_user_is_refused(guest: Guest) -> None:
    open_socket(guest, 1000, NESTED)
    expect(guest, "smp_nested", True)
    expect(guest, "smp_nested_marked", False)


def test_a_nested_request_caused_by_root_is_granted(guest: Guest) -> None:
    open_socket(guest, 0, NESTED)
    expect(guest, "smp_nested_marked", True)


def test_user_is_refused_a_module_whose_marker_names_a_capability(guest: Guest) -> None:
    open_socket(guest, 1000, NET_ADMIN)
    expect(guest, "smp_net_admin", False)


def test_user_with_the_capability_named_by_the_marker_gets_the_module(guest: Guest) -> None:
    open_socket(guest, 1000, NET_ADMIN, caps=("CAP_NET_ADMIN",))
    expect(guest, "smp_net_admin", True)


def test_user_with_another_capability_is_refused(guest: Guest) -> None:
    open_socket(guest, 1000, MARKED, caps=("CAP_SYS_ADMIN", "CAP_NET_RAW"))
    expect(guest, "smp_marked", False)


def test_user_with_cap_sys_module_gets_a_marked_module(guest: Guest) -> None:
    open_socket(guest, 1000, MARKED, caps=("CAP_SYS_MODULE",))
    expect(guest, "smp_marked", True)


def test_root_of_a_user_namespace_is_refused(guest: Guest) -> None:
    open_socket(guest, 1000, MARKED, user_namespace=True)
    open_socket(guest, 1000, NET_ADMIN, user_namespace=True)
    expect(guest, "smp_marked", False)
    expect(guest, "smp_net_admin", False)


def test_uid_0_without_capabilities_is_refused(guest: Guest) -> None:
    guest.run_as(0, lambda: guest.ask_socket(MARKED, 1, 0), caps=())
    expect(guest, "smp_marked", False)


def test_user_is_refused_af_alg_and_root_gets_it(guest: Guest) -> None:
    open_socket(guest, 1000, 38, 5)
    expect(guest, "af_alg", False)
    open_socket(guest, 0, 38, 5)
    expect(guest, "af_alg", True)


def test_user_is_refused_sctp_and_root_gets_it(guest: Guest) -> None:
    open_socket(guest, 1000, 2, 5, 132)
    expect(guest, "sctp", False)
    open_socket(guest, 0, 2, 5, 132)
    expect(guest, "sctp", True)


def test_user_is_refused_algif_aead_after_root_has_loaded_af_alg(guest: Guest) -> None:
    open_socket(guest, 0, 38, 5)
    guest.run_as(1000, lambda: guest.ask_alg_bind(b"aead", b"gcm(aes)"))
    expect(guest, "algif_aead", False)
    guest.run_as(0, lambda: guest.ask_alg_bind(b"hash", b"sha256"))
    expect(guest, "algif_hash", True)


def test_options_of_modprobe_d_reach_the_module(guest: Guest) -> None:
    guest.write("/etc/modprobe.d/options.conf", "options smp_options number=42\n")
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_options")) == 0
    expect(guest, "smp_options", True)
    assert guest.sh("cat /sys/module/smp_options/parameters/number").stdout.strip() == "42"


def test_options_of_the_kernels_command_line_reach_the_module(guest: Guest) -> None:
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_options")) == 0
    assert guest.sh("cat /sys/module/smp_options/parameters/other").stdout.strip() == "43"


def test_an_install_command_runs_for_root_and_is_refused_to_a_user(guest: Guest) -> None:
    guest.write("/etc/modprobe.d/install.conf", "install smp_open touch /run/ran-$MODPROBE_MODULE; touch /run/ran\n")
    try:
        open_socket(guest, 1000, OPEN)
        assert guest.sh("test -e /run/ran").returncode == 1
        open_socket(guest, 0, OPEN)
        assert guest.sh("test -e /run/ran").returncode == 0
        expect(guest, "smp_open", False)
    finally:
        guest.sh("rm -f /etc/modprobe.d/install.conf /run/ran*")


def test_blacklist_applies_to_aliases_and_not_to_module_names(guest: Guest) -> None:
    guest.write("/etc/modprobe.d/blacklist.conf", "blacklist smp_open\n")
    try:
        open_socket(guest, 0, OPEN)
        expect(guest, "smp_open", False)
        assert guest.run_as(0, lambda: guest.ask_raw(b"smp_open")) == 0
        expect(guest, "smp_open", True)
    finally:
        guest.sh("rm -f /etc/modprobe.d/blacklist.conf")


def test_exit_codes_reach_the_requester(guest: Guest) -> None:
    assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 256  # wait(2) status of exit 1
    assert guest.run_as(1000, lambda: guest.ask_raw(b"nothing-answers-this")) == 256
    assert guest.run_as(0, lambda: guest.ask_raw(b"smp_marked")) == 0
    assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 0, "it is loaded already"


def test_a_rule_for_one_user_allows_only_that_user(guest: Guest) -> None:
    guest.write(
        "/etc/safe-modprobe/policy.d/10-site.toml",
        'rule = [{ modules = ["smp_marked"], users = [1001], action = "allow" }]\n',
    )
    try:
        open_socket(guest, 1000, MARKED)
        expect(guest, "smp_marked", False)
        open_socket(guest, 1001, MARKED)
        expect(guest, "smp_marked", True)
    finally:
        guest.sh("rm /etc/safe-modprobe/policy.d/10-site.toml")


def test_the_rule_proposed_in_a_refusal_allows_the_request(guest: Guest) -> None:
    open_socket(guest, 1000, MARKED)
    message = guest.log()[-1]
    fix = message.partition("to allow it, add ")[2].partition(" in the new file /etc/")[0]
    assert fix, message
    guest.write("/etc/safe-modprobe/policy.d/10-site.toml", fix + "\n")
    try:
        open_socket(guest, 1000, MARKED)
        expect(guest, "smp_marked", True)
    finally:
        guest.sh("rm /etc/safe-modprobe/policy.d/10-site.toml")


def test_a_record_names_the_caller_and_the_line_of_the_policy(guest: Guest) -> None:
    open_socket(guest, 1000, 38, 5)
    message = guest.log()[-1]
    assert "denied 'net-pf-38' (af_alg) to uid 1000 tid " in message, message
    assert ".toml:" in message, message


def test_explain_predicts_the_helpers_verdict(guest: Guest) -> None:
    for uid, verdict in ((1000, "deny"), (0, "allow")):
        found = json.loads(guest.sh(f"safe-modprobectl explain net-pf-21 --uid {uid} --json").stdout)
        assert found["verdict"] == verdict, found
        assert [step["module"] for step in found["steps"]] == ["smp_marked"]
        assert found["steps"][0]["marker"] == "Y"


def test_when_run_by_hand_the_caller_is_the_user_who_runs_the_helper(guest: Guest) -> None:
    assert guest.sh("safe-modprobe -- net-pf-21").returncode == 0
    expect(guest, "smp_marked", True)
    guest.unload("smp_marked")
    done = guest.run_as(1000, lambda: guest.sh("/usr/sbin/safe-modprobe -- net-pf-21").returncode)
    assert done == 1
    expect(guest, "smp_marked", False)


def test_compressed_modules_are_loaded(guest: Guest) -> None:
    for name in ("smp_xz", "smp_zst", "smp_gz"):
        guest.unload(name)
        assert guest.run_as(0, lambda name=name: guest.ask_raw(name.encode())) == 0, (name, guest.log()[-2:])
        expect(guest, name, True)
        guest.unload(name)


def test_user_is_refused_a_compressed_marked_module(guest: Guest) -> None:
    for name in ("smp_marked_xz", "smp_marked_zst", "smp_marked_gz"):
        guest.run_as(1000, lambda name=name: guest.ask_raw(name.encode()))
        expect(guest, name, False)


def test_grsecuritys_kernel_arguments_decide_who_is_the_caller(guest: Guest) -> None:
    rows = (
        ("grsec_modharden_normal1000_", 1, False),
        ("grsec_modharden_normal0_", 1, False),
        ("grsec_modharden_normal_", 1, False),
        ("nonsense", 1, False),
        ("grsec_modharden_netdev", 1, False),
        ("grsec_modharden_fs", 1, False),
        ("", 0, True),
    )
    for argument, code, loaded in rows:
        done = guest.sh(f"safe-modprobe -q -- smp_marked {argument}")
        assert done.returncode == code, (argument, done)
        expect(guest, "smp_marked", loaded)


def test_grsecuritys_fs_argument_allows_a_file_system(guest: Guest) -> None:
    done = guest.sh("safe-modprobe -q -- fs-xfs grsec_modharden_fs")
    assert done.returncode == 0, guest.log()[-2:]
    expect(guest, "xfs", True)
    guest.sh("rmmod xfs")


def test_a_kernel_thread_gets_a_marked_module(guest: Guest) -> None:
    assert guest.run_as(1000, lambda: guest.ask_kthread(b"broker", b"smp_marked")) == 0
    expect(guest, "smp_marked", True)


def test_root_with_an_odd_process_name_gets_a_marked_module(guest: Guest) -> None:
    for name in (b"a) R 1 (b", b"x-1 [000] ..", b"new\nline"):

        def ask(name: bytes = name) -> int:
            guest.rename(name)
            return guest.ask_raw(b"smp_marked")

        assert guest.run_as(0, ask) == 0, (name, guest.log()[-2:])
        expect(guest, "smp_marked", True)
        guest.unload("smp_marked")


def test_a_rule_by_call_site_matches_code_of_a_module(guest: Guest) -> None:
    guest.write(
        "/etc/safe-modprobe/policy.d/10-site.toml",
        'rule = [{ modules = ["smp_marked"], call_sites = ["smp_write [[]smp_ask]"], action = "allow" }]\n',
    )
    try:
        open_socket(guest, 1000, MARKED)
        expect(guest, "smp_marked", False)
        assert guest.run_as(1000, lambda: guest.ask_raw(b"smp_marked")) == 0, guest.log()[-2:]
    finally:
        guest.sh("rm /etc/safe-modprobe/policy.d/10-site.toml")
