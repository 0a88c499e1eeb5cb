"""The program of safe-modprobe.service: prepare the sources of the caller, then set kernel.modprobe.

packaging/watch runs it with `refresh`, which prepares the sources again and leaves kernel.modprobe alone.

A broken policy does not stop it, nor does a broken helper whose last resort answers: root then keeps its modules, and
users are still refused. So this file must not need the extension, tomli or a policy. It must also be fast, since
sysinit.target waits for it.
"""

import os
import sys
from collections.abc import Sequence

from safe_modprobe.admin.switch import switch
from safe_modprobe.admin.switch.switch import HELPER
from safe_modprobe.errors import SafeModprobeError, reason_of
from safe_modprobe.modules.modprobe import ENVIRONMENT
from safe_modprobe.rescue import OFF, rescue_word

_HEALTHY = b"safe-modprobe: no alias was given"
"""What the helper prints if it is run without an alias and all its imports work."""

_LAST_RESORT = b"safe-modprobe failed ("
"""What the last resort prints first, if the helper's own code is broken."""

_MAX_QUOTED = 300
"""Bytes of the helper's output in a message."""


def main(argv: Sequence[str] = ()) -> int:
    """Return 0 if safe-modprobe is now the kernel's helper, and 1 if it is not because the helper does not run.

    With `refresh`, return 0 also if it is off, and leave it off.
    """
    try:
        return _refresh() if list(argv) == ["refresh"] else _switch_on()
    except (OSError, SafeModprobeError) as error:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return _fail(f"{where}{reason_of(error)}")


def _switch_on() -> int:
    if rescue_word() == OFF:
        return _fail("the kernel's command line says safe_modprobe=off, so safe-modprobe stays off")
    if os.path.exists(switch.TRIAL_AT_BOOT):
        from safe_modprobe.admin.switch import trial  # Rarely needed, and slower to import than all the rest.

        trial.start()
    prepare()
    output = _output_without_alias()
    if _HEALTHY not in output and _LAST_RESORT not in output:
        return _fail(
            f"{HELPER} does not run ({output[:_MAX_QUOTED]!a}); kernel.modprobe stays {switch.helper() or 'empty'};"
            " reinstall the package"
        )
    switch.install_helper()
    if _HEALTHY not in output:
        _fail(
            f"{HELPER} is broken ({output[:_MAX_QUOTED]!a}); until it is mended, root's requests are left to modprobe,"
            " and all others are refused"
        )
    return 0


def _refresh() -> int:
    if switch.is_on():
        prepare()
    return 0


def prepare(kernel_passes_caller: bool = False) -> bool:
    """Create the tracing instance, and copy the last resort to /run. Return True if the instance is new.

    `kernel_passes_caller`: the kernel describes the caller itself, so a missing instance is no loss.
    """
    created = False
    try:
        created = switch.make_instance()
    except OSError as error:
        if not kernel_passes_caller:
            _fail(
                f"{error.filename}: {error.strerror}: without tracefs, the helper finds callers by /proc alone, and may"
                " refuse root while users make requests"
            )
    try:
        switch.copy_last_resort()
    except OSError as error:
        _fail(
            f"{error.filename}: {error.strerror}: while an upgrade replaces the package's files, root's requests will"
            " be refused too"
        )
    return created


def _output_without_alias() -> bytes:
    """Return all output of the helper, run without an alias. The unit's time limit covers a helper that hangs."""
    reader, writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writer, fd) for fd in (1, 2)]
    try:
        pid = os.posix_spawn(HELPER, [HELPER, "-n"], ENVIRONMENT, file_actions=actions)
    except OSError as error:
        os.close(reader)
        return str(error).encode()
    finally:
        os.close(writer)
    with open(reader, "rb") as file:
        output = file.read()
    os.waitpid(pid, 0)
    return output


def _fail(message: str) -> int:
    print(f"safe-modprobe: {message}", file=sys.stderr)
    return 1
