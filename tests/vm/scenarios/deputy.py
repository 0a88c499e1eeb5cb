"""A kernel thread asks on somebody's behalf: those who wait behind it are the callers."""

from debian_modules import setup
from guest import Guest

__all__ = ["setup"]


def test_deputy_asks_for_those_who_wait_behind_it(guest: Guest) -> None:
    """cryptomgr_probe, a kernel thread, asks for authencesn, which is marked, on behalf of whoever binds."""
    guest.sh("safe-modprobe -q -- net-pf-38; safe-modprobe -q -- algif_aead")
    name = b"authencesn(hmac(sha256),cbc(aes))"
    guest.run_as(1000, lambda: guest.ask_alg_bind(b"aead", name))
    assert "authencesn" not in guest.modules()
    assert guest.run_as(0, lambda: guest.ask_alg_bind(b"aead", name)) == 0, guest.log()[-3:]
    assert "authencesn" in guest.modules(), guest.log()[-3:]
    guest.unload("authencesn")
