"""Verdicts on Debian's own modules, for kernels that have none of our test modules."""

from guest import Guest

ALG = ("algif_hash", "algif_skcipher", "algif_aead", "algif_rng", "af_alg")
SCTP = ("sctp", "ip6_udp_tunnel", "udp_tunnel")


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on and unload the modules of these tests, before each test."""
    guest.unload(*ALG, *SCTP, "xfs")
    guest.switch_on()


def test_user_is_refused_af_alg_and_root_gets_it(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" in guest.modules(), guest.log()[-2:]


def test_user_is_refused_sctp_and_root_gets_it(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(2, 5, 132))
    assert "sctp" not in guest.modules()
    guest.run_as(0, lambda: guest.ask_socket(2, 5, 132))
    assert "sctp" in guest.modules(), guest.log()[-2:]


def test_root_of_a_user_namespace_is_refused(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5), user_namespace=True)
    assert "af_alg" not in guest.modules()


def test_cap_net_admin_suffices_for_af_alg_and_cap_net_raw_does_not(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5), caps=("CAP_NET_RAW",))
    assert "af_alg" not in guest.modules()
    guest.run_as(1000, lambda: guest.ask_socket(38, 5), caps=("CAP_NET_ADMIN",))
    assert "af_alg" in guest.modules(), guest.log()[-2:]


def test_tracefs_names_the_caller(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    assert "denied 'net-pf-38' (af_alg) to uid 1000 tid" in guest.log()[-1], guest.log()[-1:]


def test_without_tracefs_user_is_refused_af_alg_and_root_gets_it(guest: Guest) -> None:
    guest.sh("rmdir /sys/kernel/tracing/instances/safe-modprobe")
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" in guest.modules(), guest.log()[-2:]
