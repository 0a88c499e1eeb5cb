"""Run in the guest the scenarios named in /job, each test in its own process, and report results to the host."""

import importlib
import json
import os
import signal
import sys
import time
import traceback

from guest import LIBC, Guest

PORT = "/dev/ttyS1"
SECONDS = 120
"""Time limit of a test."""
SYSRQ = "/proc/sysrq-trigger"
RB_AUTOBOOT = 0x01234567


def main() -> None:
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    with open("/job") as file:
        scenarios = file.read().split()
    guest = Guest()
    guest.sh("modprobe -q smp_ask")
    if scenarios == ["--demo"]:
        say({"rows": importlib.import_module("demo").main(guest)})
        scenarios = []
    for name in scenarios:
        try:
            scenario = importlib.import_module(name)
        except Exception:
            say({"scenario": name, "error": traceback.format_exc()})
            continue
        for test, run in tests_of(scenario):
            started = time.monotonic()
            if not getattr(scenario, "COUNTS_LAST", False):
                forget_counts()
            error = run_isolated(lambda scenario=scenario, run=run: (scenario.setup(guest), run(guest)))
            say({"scenario": name, "test": test, "error": error, "seconds": round(time.monotonic() - started, 2)})
    say({"done": True})
    if "--end" in sys.argv:
        end()


def end() -> None:
    """Stop the guest by a reboot; QEMU exits instead of restarting it.

    SysRq reboots at once, and the disk is not read again. reboot(2) would wait for helpers, and users may start more.
    """
    if os.path.exists(SYSRQ):
        with open(SYSRQ, "w") as file:
            file.write("b")
    LIBC.reboot(RB_AUTOBOOT)


def forget_counts() -> None:
    """Reset the limit of records per user and minute, so that each test sees all its records in the log."""
    try:
        os.unlink("/run/safe-modprobe/counts")
    except OSError:  # The file does not exist yet, or a test made /run full or read-only.
        pass


def tests_of(scenario):
    """Yield (name, function that takes the guest): the test_* functions, and for each of ROWS a call of row()."""
    for name, value in vars(scenario).items():
        if name.startswith("test_"):
            yield name, value
    for name, values in getattr(scenario, "ROWS", {}).items():
        yield name, lambda guest, values=values: scenario.row(guest, *values)


def say(line: dict) -> None:
    """Write one JSON object on a line of its own to the host's serial port."""
    with open(PORT, "w") as port:
        port.write("\n" + json.dumps(line) + "\n")


def run_isolated(test) -> str:
    """Run the test in a child process, so that the agent survives a crash or a hang. Return the error or ""."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setsid()
        try:
            test()
        except BaseException:
            os.write(writer, traceback.format_exc()[-6000:].encode())
        os._exit(0)
    os.close(writer)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(pid, signal.SIGKILL))
    signal.alarm(SECONDS)
    text = b""
    while chunk := os.read(reader, 65536):
        text += chunk
    remaining = signal.alarm(0)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if remaining == 0 or status:
        text += f"\nthe test ended with wait status {status} after {SECONDS - remaining} s".encode()
    return text.decode(errors="replace")


sys.dont_write_bytecode = True
if __name__ == "__main__":
    main()
