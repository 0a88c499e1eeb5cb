"""The rescue on the kernel's command line, by a file in its place: a boot of its own each would say no more."""

import os

from decisions import MARKED, expect, setup  # noqa: F401  (setup is the machine's)
from guest import Guest
from halves import BOOT, CODE, HELPER, SYSCTL, Away


class Said:
    """The kernel's command line, with a word more."""

    def __init__(self, guest: Guest, word: str) -> None:
        self.guest, self.word = guest, word

    def __enter__(self) -> None:
        self.guest.sh(f"(cat /proc/cmdline; echo {self.word}) | tr '\\n' ' ' >/run/cmdline")
        assert self.guest.sh("mount --bind /run/cmdline /proc/cmdline").returncode == 0

    def __exit__(self, *_: object) -> None:
        assert self.guest.sh("umount /proc/cmdline").returncode == 0


def test_log_refuses_nothing_and_says_what_it_would(guest: Guest) -> None:
    with Said(guest, "safe_modprobe=log"):
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", True)
        assert "it would be denied without the trial" in guest.log()[-1], guest.log()[-1:]
        said = guest.sh("safe-modprobectl status").stdout
        assert "on trial" in said and "safe_modprobe=log on the kernel's command line" in said, said


def test_log_holds_where_the_helper_is_broken(guest: Guest) -> None:
    with Said(guest, "safe_modprobe=log"), Away(f"{CODE}/decide.py"):
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", True)
        assert "any request of a trial is left to /sbin/modprobe" in guest.log()[-1], guest.log()[-1:]


def test_off_is_plain_modprobe(guest: Guest) -> None:
    before = guest.log()
    with Said(guest, "safe_modprobe=off"):
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", True)
        assert guest.log() == before
        said = guest.sh("safe-modprobectl status").stdout
        assert "leaves every request to modprobe" in said, said


def test_off_holds_where_the_helper_is_broken(guest: Guest) -> None:
    with Said(guest, "safe_modprobe=off"), Away(f"{CODE}/decide.py"):
        guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
        expect(guest, "smp_marked", True)


def test_off_keeps_enable_from_it(guest: Guest) -> None:
    guest.sh("safe-modprobectl disable")
    for command in ("safe-modprobectl enable --runtime", BOOT):
        with Said(guest, "safe_modprobe=off"):
            done = guest.sh(command)
        assert done.returncode == 1 and "the kernel's command line says safe_modprobe=off" in done.stderr, done
        assert guest.sh(f"cat {SYSCTL}").stdout != f"{HELPER}\n"


def test_other_words_are_none(guest: Guest) -> None:
    for word in ("safe_modprobe=offx", "xsafe_modprobe=off", "safe_modprobe=", "safe-modprobe=log"):
        with Said(guest, word):
            guest.run_as(1000, lambda: guest.ask_socket(MARKED, 1, 0))
            expect(guest, "smp_marked", False)


def test_a_users_own_line_is_none(guest: Guest) -> None:
    """Whoever asks has no say: neither its environment nor its name is looked at."""

    def ask() -> None:
        os.environ["SAFE_MODPROBE"] = "off"
        guest.rename(b"safe_modprobe=")
        guest.ask_socket(MARKED, 1, 0)

    guest.run_as(1000, ask)
    expect(guest, "smp_marked", False)
