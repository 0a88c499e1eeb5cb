"""kernel.yama.ptrace_scope=3 hides every stack, from root too. Nothing takes it back: last on its machine, by name as well."""

import os

from debian_modules import setup as switched_on
from guest import Guest


def setup(guest: Guest) -> None:
    """Before each test: nothing of it in the kernel, and no stack to be seen."""
    switched_on(guest)
    guest.write("/proc/sys/kernel/yama/ptrace_scope", "3")
    assert guest.sh("cat /proc/1/stack /proc/2/stack").returncode != 0


def test_root_keeps_its_modules_and_users_are_refused(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" in guest.modules(), guest.log()[-2:]


def test_a_deputy_asks_for_those_who_wait_behind_it(guest: Guest) -> None:
    guest.sh("safe-modprobe -q -- net-pf-38; safe-modprobe -q -- algif_aead")
    name = b"authencesn(hmac(sha256),cbc(aes))"
    guest.unload("authencesn")
    guest.run_as(1000, lambda: guest.ask_alg_bind(b"aead", name))
    assert "authencesn" not in guest.modules()
    assert guest.run_as(0, lambda: guest.ask_alg_bind(b"aead", name)) == 0, guest.log()[-3:]
    guest.unload("authencesn")


def test_without_tracefs_nobody_is_known(guest: Guest) -> None:
    os.rmdir("/sys/kernel/tracing/instances/safe-modprobe")
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
