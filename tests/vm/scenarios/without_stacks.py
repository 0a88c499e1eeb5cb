"""With kernel.yama.ptrace_scope=3 even root cannot read stacks. It lasts until reboot, so this scenario runs last."""

import os

from debian_modules import setup as switch_on
from guest import Guest


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on, unload the modules of these tests and hide all stacks, before each test."""
    switch_on(guest)
    guest.write("/proc/sys/kernel/yama/ptrace_scope", "3")
    assert guest.sh("cat /proc/1/stack /proc/2/stack").returncode != 0


def test_user_is_refused_af_alg_and_root_gets_it(guest: Guest) -> None:
    guest.run_as(1000, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" in guest.modules(), guest.log()[-2:]


def test_the_callers_of_a_deputys_request_are_the_tasks_that_wait_for_it(guest: Guest) -> None:
    guest.sh("safe-modprobe -q -- net-pf-38; safe-modprobe -q -- algif_aead")
    name = b"authencesn(hmac(sha256),cbc(aes))"
    guest.unload("authencesn")
    guest.run_as(1000, lambda: guest.ask_alg_bind(b"aead", name))
    assert "authencesn" not in guest.modules()
    assert guest.run_as(0, lambda: guest.ask_alg_bind(b"aead", name)) == 0, guest.log()[-3:]
    guest.unload("authencesn")


def test_without_tracefs_root_is_unknown_and_refused(guest: Guest) -> None:
    os.rmdir("/sys/kernel/tracing/instances/safe-modprobe")
    guest.run_as(0, lambda: guest.ask_socket(38, 5))
    assert "af_alg" not in guest.modules()
