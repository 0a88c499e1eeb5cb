"""Crypto's kernel threads make requests with their requester's credentials, and a refusal hits only that requester."""

import errno
import os
import signal

from guest import Guest, wait_for
from requesters import MODULE, RECORDER, RECORDS, assert_kernel_healthy, normal, record, recorded, wait_for_helpers

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
    """Before each test: load AF_ALG and unload the algorithms, so that a bind(2) requests them."""
    guest.write("/proc/sys/kernel/modprobe", "/sbin/modprobe\n")
    guest.sh("modprobe -a af_alg algif_aead algif_hash")
    guest.unload(*PARTS)
    record(guest)


def test_a_probe_requests_with_its_requesters_credentials(guest: Guest) -> None:
    """The kernel thread cryptomgr_probe, and probes that it starts, request the parts of the name."""
    for uid, words in ((1000, [normal(1000)]), (0, []), (1001, [normal(1001)])):
        record(guest)
        error = guest.run_as(uid, lambda uid=uid: guest.ask_alg_bind(b"aead", b"nosuch%d(nosuch(x),y)" % uid))
        assert error == errno.ENOENT
        found = recorded()
        names = [each[2] for each in found]
        assert b"crypto-nosuch%d(nosuch(x),y)" % uid in names, names  # the task itself
        assert b"crypto-nosuch%d" % uid in names, names  # the thread, for the template
        assert [each[3:] for each in found] == [words] * len(found)


def test_a_probe_has_only_the_capabilities_of_its_requester(guest: Guest) -> None:
    for credentials, words in (
        (dict(caps=()), [normal(0)]),
        (dict(caps=MODULE), []),
        (dict(user_namespace=True), [normal(0)]),
    ):
        record(guest)
        guest.run_as(0, lambda: guest.ask_alg_bind(b"aead", b"nosuch(nosuch)"), **credentials)
        found = recorded()
        assert found and [each[3:] for each in found] == [words] * len(found)


def test_a_self_test_requests_with_its_requesters_credentials(guest: Guest) -> None:
    """cryptomgr_test requests a generic implementation to compare with: that of aes_ti or, on 7.2, of hmac."""
    guest.sh("/sbin/modprobe -aq authenc hmac crypto-sha256 cbc aes_ti")
    if "aes_ti" in guest.modules():
        name = b"authenc(hmac(sha256-generic),cbc(aes-fixed-time))"
        compared = b"authenc(hmac(sha256-generic),cbc(aes-generic))"
    else:
        guest.sh("/sbin/modprobe -q aes")
        name, compared = b"authenc(hmac(sha256-lib),cbc(aes-lib))", b"authenc(hmac-sha256-lib,cbc(aes-lib))"
    for uid, words in ((1000, [normal(1000)]), (0, [])):
        record(guest)
        error = guest.run_as(uid, lambda: guest.ask_alg_bind(b"aead", name))
        found = recorded()
        assert error == 0, (uid, errno.errorcode.get(error), found)
        assert b"crypto-" + compared in [each[2] for each in found], found
        assert [each[3:] for each in found] == [words] * len(found), found
        guest.unload("authenc", "cbc", "hmac")
        guest.sh("/sbin/modprobe -aq authenc cbc hmac")
    assert_kernel_healthy(guest)


def refuse_uid_1000(guest: Guest) -> None:
    """Make the kernel's helper a slow script that refuses uid 1000, and runs modprobe for all other callers."""
    guest.write(RECORDER, _REFUSES_1000)


def start_bind(guest: Guest, uid: int, **credentials: object):
    """Start a bind(2) in a new process, and wait for the template's helper. Return a function that returns the errno."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        guest.become(uid, **credentials)
        os.write(writer, b"%d" % guest.ask_alg_bind(b"aead", AESN))
        os._exit(0)
    os.close(writer)
    wait_for(lambda: b"crypto-authencesn" in running_requests())

    def finish() -> int:
        with os.fdopen(reader, "rb") as file:
            error = int(file.read())
        os.waitpid(pid, 0)
        return error

    return finish


def running_requests() -> list[bytes]:
    """Return the names that helpers handle right now."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found += file.read().partition(b"\0-q\0--\0")[2].split(b"\0")[:1]
        except OSError:
            continue
    return found


# name: (credentials of the second requester, its errno)
SECOND = {
    "root": (dict(uid=0), 0),
    "another user": (dict(uid=1001), 0),
    "a user with CAP_SYS_MODULE": (dict(uid=1000, caps=MODULE), 0),
    "the same user": (dict(uid=1000), errno.ENOENT),
    "root's user namespace": (dict(uid=0, user_namespace=True), 0),
}


def test_a_refusal_does_not_hit_a_second_requester(guest: Guest) -> None:
    """A probe for the first requester is running when the second needs the same algorithm."""
    for second, (credentials, expected) in SECOND.items():
        guest.unload(*PARTS)
        refuse_uid_1000(guest)
        first = start_bind(guest, 1000)
        error = guest.run_as(func=lambda: guest.ask_alg_bind(b"aead", AESN), **credentials)
        assert (first(), error) == (errno.ENOENT, expected), second
    assert_kernel_healthy(guest)


def test_a_grant_does_not_extend_to_a_second_requester(guest: Guest) -> None:
    refuse_uid_1000(guest)
    first = start_bind(guest, 0)
    second = guest.run_as(1000, lambda: guest.ask_alg_bind(b"aead", AESN))
    assert first() == 0
    callers = [words[3:] for words in recorded() if words[2] == b"crypto-authencesn"]
    assert sorted(callers) == [[], [normal(1000)]], callers
    assert second in (0, errno.ENOENT)  # 0 if root's module was registered before the user's refusal.


def test_a_user_cannot_block_others_by_continuous_requests(guest: Guest) -> None:
    for uid in (0, 1001, 0):
        guest.unload(*PARTS)
        refuse_uid_1000(guest)
        pids = [bind_forever(guest, 1000) for _ in range(4)]
        try:
            wait_for(lambda: running_requests().count(b"crypto-authencesn") > 1)
            assert guest.run_as(uid, lambda: guest.ask_alg_bind(b"aead", AESN)) == 0, uid
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        wait_for_helpers()
    assert_kernel_healthy(guest)


def bind_forever(guest: Guest, uid: int) -> int:
    """Start a process of this user that calls bind(2) in an endless loop, and return its pid."""
    pid = os.fork()
    if pid == 0:
        guest.become(uid)
        while True:
            guest.ask_alg_bind(b"aead", AESN)
    return pid


def test_several_permitted_requesters_all_succeed(guest: Guest) -> None:
    """Each has a probe. The first to finish registers the algorithm, and the others find it during its self-test."""
    for _ in range(4):
        guest.unload(*PARTS)
        refuse_uid_1000(guest)
        requesters = [start_bind(guest, uid) for uid in (0, 1001, 1002)]
        assert [finish() for finish in requesters] == [0, 0, 0]
    assert_kernel_healthy(guest)
