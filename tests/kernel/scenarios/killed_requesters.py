"""A requester is killed before its helper starts: the arguments stay valid, and memory is intact."""

import os
import signal
import time

from guest import Guest
from requesters import RECORDS, assert_kernel_healthy, declares, mounts, normal, record, recorded, wait_for_helpers

TIMES = 40
SLABS = "/sys/kernel/debug/slab"


def setup(guest: Guest) -> None:
    """Before each test: install the helper that records its arguments."""
    guest.sh(f"modprobe -q smp_declare; mount -t debugfs debug {os.path.dirname(SLABS)}")
    record(guest)


def kill_in_request(guest: Guest, uid: int, ask, **credentials: object) -> bool:
    """Kill a task inside its request, before the kernel starts the helper. Return whether that succeeded.

    The guest has one processor, and both tasks have real-time priority. So the kernel's worker runs only once both
    sleep.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        guest.become(uid, **credentials)
        os.write(writer, b"x")
        ask()
        os._exit(0)
    os.read(reader, 1)
    os.sched_yield()  # Runs the task until it waits for its helper.
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    return status == signal.SIGKILL


def test_arguments_outlive_their_requester(guest: Guest) -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    requests = (
        lambda n: guest.ask_raw(b"smp-%d" % n),
        lambda n: guest.ask_nowait(b"smp-%d" % n),
        lambda n: declares(12, b"smp-", b"smp-%d" % n),
        lambda n: mounts(b"smp-%d" % n),
    )
    count = sum(
        kill_in_request(
            guest, 4_000_000_000 + n, lambda n=n: requests[n % 4](n), caps=("CAP_NET_ADMIN", "CAP_SYS_ADMIN")
        )
        for n in range(TIMES)
    )
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    assert count >= TIMES // 2, count
    time.sleep(1)  # The workers start all helpers meanwhile.
    found = recorded()
    assert len(found) >= TIMES // 2
    for words in found:
        assert words[:2] == [b"-q", b"--"], words
        n = int(words[2].rpartition(b"-")[2])
        caller = normal(4_000_000_000 + n)
        expected = (
            [b"smp-%d" % n, caller],
            [b"smp-%d" % n, caller],
            [b"smp-%d" % n, caller, b"modharden_cap12_"],
            [b"fs-smp-%d" % n, b"grsec_modharden_fs", caller, b"modharden_cap21_"],
        )[n % 4]
        assert words[2:] == expected, words
    assert_kernel_healthy(guest)


def test_a_helper_finishes_after_its_requester_is_killed(guest: Guest) -> None:
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
    assert os.listdir(RECORDS) == [".code"], "the helper ended before its requester was killed"
    assert recorded() == [[b"-q", b"--", b"smp-slow", normal(1000)]]
    assert_kernel_healthy(guest)


def test_no_memory_leaks(guest: Guest) -> None:
    """With slub_debug=U the kernel lists the function that made each live allocation."""
    for n in range(20):
        guest.run_as(1000 + n, lambda: (guest.ask_raw(b"a"), guest.ask_nowait(b"b"), declares(12, b"c", b"c")))
    wait_for_helpers()
    made = guest.sh(f"cat {SLABS}/kmalloc-*/alloc_traces").stdout
    assert len(made.splitlines()) > 20, made
    assert [line for line in made.splitlines() if "modprobe" in line or "request_module" in line] == []
