"""Requesters that are killed while their helper has not begun: its words are its own, and memory stays whole."""

import os
import signal
import time

from asking import RECORDS, declares, mounts, normal, record, recorded, unharmed, wait_for_helpers
from guest import Guest

TIMES = 40
SLABS = "/sys/kernel/debug/slab"


def setup(guest: Guest) -> None:
    """Before each test: the helper that writes down."""
    guest.sh(f"modprobe -q smp_declare; mount -t debugfs debug {os.path.dirname(SLABS)}")
    record(guest)


def killed(guest: Guest, uid: int, ask, **who: object) -> bool:
    """Whether a task was killed while it asked: before anything else ran, and so before its helper's process did.

    There is one processor, and both are above whatever the kernel does: the task's worker runs once both sleep.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        guest.become(uid, **who)
        os.write(writer, b"x")
        ask()
        os._exit(0)
    os.read(reader, 1)
    os.sched_yield()  # to the task, which gives the processor back when it waits
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    return status == signal.SIGKILL


def test_words_outlive_their_requester(guest: Guest) -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    asks = (
        lambda n: guest.ask_raw(b"smp-%d" % n),
        lambda n: guest.ask_nowait(b"smp-%d" % n),
        lambda n: declares(12, b"smp-", b"smp-%d" % n),
        lambda n: mounts(b"smp-%d" % n),
    )
    count = sum(
        killed(guest, 4_000_000_000 + n, lambda n=n: asks[n % 4](n), caps=("CAP_NET_ADMIN", "CAP_SYS_ADMIN"))
        for n in range(TIMES)
    )
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    assert count >= TIMES // 2, count
    time.sleep(1)  # for the workers to start them all
    found = recorded()
    assert len(found) >= TIMES // 2
    for words in found:
        assert words[:2] == [b"-q", b"--"], words
        n = int(words[2].rpartition(b"-")[2])
        who = normal(4_000_000_000 + n)
        expected = (
            [b"smp-%d" % n, who],
            [b"smp-%d" % n, who],
            [b"smp-%d" % n, who, b"modharden_cap12_"],
            [b"fs-smp-%d" % n, b"grsec_modharden_fs", who, b"modharden_cap21_"],
        )[n % 4]
        assert words[2:] == expected, words
    unharmed(guest)


def test_a_requester_that_is_killed_while_its_helper_runs(guest: Guest) -> None:
    guest.write(
        "/run/slow", f"#!/bin/sh\nsleep 2\nprintf '%s\\0' \"$@\" >{RECORDS}/.$$\nmv {RECORDS}/.$$ {RECORDS}/$$\n"
    )
    os.chmod("/run/slow", 0o755)
    guest.write("/proc/sys/kernel/modprobe", "/run/slow\n")
    pid = os.fork()
    if pid == 0:
        guest.become(1000)
        guest.ask_raw(b"smp-slow")
        os._exit(0)
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert os.listdir(RECORDS) == [".code"], "the helper had ended by then"
    assert recorded() == [[b"-q", b"--", b"smp-slow", normal(1000)]]
    unharmed(guest)


def test_nothing_leaks(guest: Guest) -> None:
    """Every allocation that lives has the function that made it (slub_debug=U)."""
    for n in range(20):
        guest.run_as(1000 + n, lambda: (guest.ask_raw(b"a"), guest.ask_nowait(b"b"), declares(12, b"c", b"c")))
    wait_for_helpers()
    made = guest.sh(f"cat {SLABS}/kmalloc-*/alloc_traces").stdout
    assert len(made.splitlines()) > 20, made
    assert [line for line in made.splitlines() if "modprobe" in line or "request_module" in line] == []
