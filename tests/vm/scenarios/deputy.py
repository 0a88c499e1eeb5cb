"""When a kernel thread requests a module as a deputy, the tasks that wait for it are the callers."""

from debian_modules import setup
from guest import Guest

__all__ = ["setup"]


def test_the_callers_of_a_deputys_request_are_the_tasks_that_wait_for_it(guest: Guest) -> None:
    """The kernel thread cryptomgr_probe requests authencesn, which is marked, for the task in bind(2)."""
    guest.sh("safe-modprobe -q -- net-pf-38; safe-modprobe -q -- algif_aead")
    name = b"authencesn(hmac(sha256),cbc(aes))"
    guest.run_as(1000, lambda: guest.ask_alg_bind(b"aead", name))
    assert "authencesn" not in guest.modules()
    assert guest.run_as(0, lambda: guest.ask_alg_bind(b"aead", name)) == 0, guest.log()[-3:]
    assert "authencesn" in guest.modules(), guest.log()[-3:]
    guest.unload("authencesn")
