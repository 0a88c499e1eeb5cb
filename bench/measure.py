"""Run commands in turn, and print a line of JSON per round: [[seconds, peak MiB], …].

This program imports little, because a child's peak memory includes that of the process that forked it.
"""

import json
import os
import sys
import time

ENVIRONMENT = {"HOME": "/", "TERM": "linux", "PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}


def measure(command: list[str]) -> tuple[float, float]:
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], command, ENVIRONMENT)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return seconds, usage.ru_maxrss / 1024


for _ in range(int(sys.argv[1])):
    print(json.dumps([measure(command) for command in json.loads(sys.argv[2])]), flush=True)
