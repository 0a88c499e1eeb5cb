"""The kernel threads that build and test algorithms: they ask as who wants one, and nobody is refused with another."""

import errno
import os
import signal

from asking import MODULE, RECORDER, RECORDS, normal, record, recorded, unharmed, wait_for_helpers
from guest import Guest, wait_for

AESN = b"authencesn(hmac(sha256),cbc(aes))"
PARTS = (
    "authencesn", "authenc", "hmac", "sha256_generic", "sha256", "cbc", "aes_ti", "aes_generic", "aes",
)  # fmt: skip
_REFUSES_1000 = f"""#!/bin/sh
name=$3
[ "$name" != crypto-authencesn ] || sleep 1
printf '%s\\0' "$@" >{RECORDS}/.$$ && mv {RECORDS}/.$$ {RECORDS}/$$
[ "$4" != grsec_modharden_normal1000_ ] || exit 1
exec /sbin/modprobe -q -- "$name"
"""


def setup(guest: Guest) -> None:
    """Before each test: sockets can ask, and none of the algorithms is there."""
    guest.write("/proc/sys/kernel/modprobe", "/sbin/modprobe\n")
    guest.sh("modprobe -a af_alg algif_aead algif_hash")
    guest.unload(*PARTS)
    record(guest)


def test_the_deputy_asks_as_who_wants_the_algorithm(guest: Guest) -> None:
    """cryptomgr_probe is a kernel thread. The parts of the name are asked for by it, and by probes that it starts."""
    for uid, words in ((1000, [normal(1000)]), (0, []), (1001, [normal(1001)])):
        record(guest)
        done = guest.run_as(uid, lambda uid=uid: guest.ask_alg_bind(b"aead", b"nosuch%d(nosuch(x),y)" % uid))
        assert done == errno.ENOENT
        found = recorded()
        names = [each[2] for each in found]
        assert b"crypto-nosuch%d(nosuch(x),y)" % uid in names, names  # the task itself
        assert b"crypto-nosuch%d" % uid in names, names  # the thread, for the template
        assert [each[3:] for each in found] == [words] * len(found)


def test_a_capability_that_was_dropped_for_the_deputy_is_not_its_own(guest: Guest) -> None:
    for who, words in (
        (dict(caps=()), [normal(0)]),
        (dict(caps=MODULE), []),
        (dict(user_namespace=True), [normal(0)]),
    ):
        record(guest)
        guest.run_as(0, lambda: guest.ask_alg_bind(b"aead", b"nosuch(nosuch)"), **who)
        found = recorded()
        assert found and [each[3:] for each in found] == [words] * len(found)


def test_a_self_test_asks_as_who_wants_the_algorithm(guest: Guest) -> None:
    """cryptomgr_test compares with a generic implementation of the same: with aes_ti or, on 7.2, hmac's template."""
    guest.sh("/sbin/modprobe -aq authenc hmac crypto-sha256 cbc aes_ti")
    if "aes_ti" in guest.modules():
        name = b"authenc(hmac(sha256-generic),cbc(aes-fixed-time))"
        compared = b"authenc(hmac(sha256-generic),cbc(aes-generic))"
    else:
        guest.sh("/sbin/modprobe -q aes")
        name, compared = b"authenc(hmac(sha256-lib),cbc(aes-lib))", b"authenc(hmac-sha256-lib,cbc(aes-lib))"
    for uid, words in ((1000, [normal(1000)]), (0, [])):
        record(guest)
        done = guest.run_as(uid, lambda: guest.ask_alg_bind(b"aead", name))
        found = recorded()
        assert done == 0, (uid, errno.errorcode.get(done), found)
        assert b"crypto-" + compared in [each[2] for each in found], found
        assert [each[3:] for each in found] == [words] * len(found), found
        guest.unload("authenc", "cbc", "hmac")
        guest.sh("/sbin/modprobe -aq authenc cbc hmac")
    unharmed(guest)


def refusing(guest: Guest) -> None:
    """From now on a slow helper that refuses uid 1000, and gives everybody else what they ask for."""
    guest.write(RECORDER, _REFUSES_1000)


def begins(guest: Guest, uid: int, **who: object):
    """This user asks in a process of its own, and the template's helper is at work; a function that tells the errno."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        guest.become(uid, **who)
        os.write(writer, b"%d" % guest.ask_alg_bind(b"aead", AESN))
        os._exit(0)
    os.close(writer)
    wait_for(lambda: b"crypto-authencesn" in asked_for())

    def ends() -> int:
        with os.fdopen(reader, "rb") as file:
            done = int(file.read())
        os.waitpid(pid, 0)
        return done

    return ends


def asked_for() -> list[bytes]:
    """What is asked for right now."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found += file.read().partition(b"\0-q\0--\0")[2].split(b"\0")[:1]
        except OSError:
            continue
    return found


# name: (who is second, the errno)
SECOND = {
    "root": (dict(uid=0), 0),
    "another user": (dict(uid=1001), 0),
    "a user with CAP_SYS_MODULE": (dict(uid=1000, caps=MODULE), 0),
    "the same user": (dict(uid=1000), errno.ENOENT),
    "root's user namespace": (dict(uid=0, user_namespace=True), 0),
}


def test_who_is_first_and_refused_takes_nothing_from_who_is_second(guest: Guest) -> None:
    """A probe for the first is under way when the second wants the same algorithm."""
    for second, (who, expected) in SECOND.items():
        guest.unload(*PARTS)
        refusing(guest)
        first = begins(guest, 1000)
        done = guest.run_as(func=lambda: guest.ask_alg_bind(b"aead", AESN), **who)
        assert (first(), done) == (errno.ENOENT, expected), second
    unharmed(guest)


def test_who_is_first_and_given_it_gives_it_to_nobody(guest: Guest) -> None:
    refusing(guest)
    first = begins(guest, 0)
    second = guest.run_as(1000, lambda: guest.ask_alg_bind(b"aead", AESN))
    assert first() == 0
    asked = [words[3:] for words in recorded() if words[2] == b"crypto-authencesn"]
    assert sorted(asked) == [[], [normal(1000)]], asked
    assert second in (0, errno.ENOENT)  # whether root's was there once the user was refused


def test_a_user_who_asks_all_the_time_keeps_nobody_from_it(guest: Guest) -> None:
    for uid in (0, 1001, 0):
        guest.unload(*PARTS)
        refusing(guest)
        pids = [asks_on(guest, 1000) for _ in range(4)]
        try:
            wait_for(lambda: asked_for().count(b"crypto-authencesn") > 1)
            assert guest.run_as(uid, lambda: guest.ask_alg_bind(b"aead", AESN)) == 0, uid
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        wait_for_helpers()
    unharmed(guest)


def asks_on(guest: Guest, uid: int) -> int:
    """A process of this user's that asks and asks."""
    pid = os.fork()
    if pid == 0:
        guest.become(uid)
        while True:
            guest.ask_alg_bind(b"aead", AESN)
    return pid


def test_several_who_may_have_it_all_get_it(guest: Guest) -> None:
    """Each has a probe; one registers what it made first, and the others find it, though its self-test is not over."""
    for _ in range(4):
        guest.unload(*PARTS)
        refusing(guest)
        askers = [begins(guest, uid) for uid in (0, 1001, 1002)]
        assert [ends() for ends in askers] == [0, 0, 0]
    unharmed(guest)
