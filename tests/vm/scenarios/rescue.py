"""safe_modprobe= on the kernel's command line. A bind mount over /proc/cmdline saves a boot for each test."""

import os

from decisions import MARKED, expect, setup  # noqa: F401  (the agent calls setup)
from guest import Guest
from half_installed import BOOT, CODE, HELPER, SYSCTL, Hidden


class BootParameter:
    """Context manager: add a word to /proc/cmdline, and remove it at the end."""

    def __init__(self, guest: Guest, word: str) -> None:
        self.guest, self.word = guest, word

    def __enter__(self) -> None:
        self.guest.sh(f"(cat /proc/cmdline; echo {self.word}) | tr '\\n' ' ' >/run/cmdline")
        assert self.guest.sh("mount --bind /run/cmdline /proc/cmdline").returncode == 0

    def __exit__(self, *_: object) -> None:
        assert self.guest.sh("umount /proc/cmdline").returncode == 0


def test_log_allows_requests_and_records_what_would_be_refused(guest: Guest) -> None:
    with BootParameter(guest, "safe_modprobe=log"):
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", True)
        assert "it would be denied without the trial" in guest.log()[-1], guest.log()[-1:]
        output = guest.sh("safe-modprobectl status").stdout
        assert "on trial" in output and "safe_modprobe=log on the kernel's command line" in output, output


def test_log_allows_requests_when_the_helper_is_broken(guest: Guest) -> None:
    with BootParameter(guest, "safe_modprobe=log"), Hidden(f"{CODE}/decide.py"):
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", True)
        assert "left to /sbin/modprobe: a trial refuses nothing" in guest.log()[-1], guest.log()[-1:]


def test_off_leaves_requests_to_modprobe(guest: Guest) -> None:
    before = guest.log()
    with BootParameter(guest, "safe_modprobe=off"):
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", True)
        assert guest.log() == before
        output = guest.sh("safe-modprobectl status").stdout
        assert "passes every request to modprobe" in output, output


def test_off_leaves_requests_to_modprobe_when_the_helper_is_broken(guest: Guest) -> None:
    with BootParameter(guest, "safe_modprobe=off"), Hidden(f"{CODE}/decide.py"):
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", True)


def test_off_makes_enable_and_the_boot_command_fail(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    for command in ("safe-modprobectl enable --runtime", BOOT):
        with BootParameter(guest, "safe_modprobe=off"):
            done = guest.sh(command)
        assert done.returncode == 1 and "the kernel's command line says safe_modprobe=off" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"


def test_similar_words_have_no_effect(guest: Guest) -> None:
    for word in ("safe_modprobe=offx", "xsafe_modprobe=off", "safe_modprobe=", "safe-modprobe=log"):
        with BootParameter(guest, word):
            guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
            expect(guest, "smp_marked", False)


def test_a_users_environment_and_process_name_have_no_effect(guest: Guest) -> None:
    """The helper takes nothing from the requester's environment or process name."""

    def ask() -> None:
        os.environ["SAFE_MODPROBE"] = "off"
        guest.rename(b"safe_modprobe=")
        guest.ask_socket(MARKED, 1, 0)

    guest.run_as(1000, ask)
    expect(guest, "smp_marked", False)
