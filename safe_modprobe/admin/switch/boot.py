"""What safe-modprobe.service runs: prepare the sources, and only then point the kernel at the helper.

The watch runs it with `refresh`, which prepares anew and points the kernel nowhere.

What is wrong with the policy, or with the helper as long as its last resort answers, is no reason to leave users
unrefused until somebody looks: the helper keeps root's modules by itself. So nothing here needs the extension, tomli
or a policy; and since sysinit.target waits for it, nothing that costs.
"""

import os
import sys
from collections.abc import Sequence

from safe_modprobe.admin.switch import switch
from safe_modprobe.admin.switch.switch import HELPER
from safe_modprobe.errors import SafeModprobeError, reason_of
from safe_modprobe.modules.modprobe import ENVIRONMENT
from safe_modprobe.rescue import OFF, rescue_word

_WHOLE = b"safe-modprobe: no alias was given"
"""What the helper says without one, when all that it imports is there."""

_LAST_RESORT = b"safe-modprobe failed ("
_SHOWN = 300


def main(argv: Sequence[str] = ()) -> int:
    """0: it is the kernel's helper, whether it was before or not. 1, and it is not, where it does not run.

    With `refresh`: 0 also where it is off, and stays so.
    """
    try:
        return _refresh() if list(argv) == ["refresh"] else _switch_on()
    except (OSError, SafeModprobeError) as error:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return _fail(f"{where}{reason_of(error)}")


def _switch_on() -> int:
    if rescue_word() == OFF:
        return _fail("the kernel's command line says safe_modprobe=off, so it stays off")
    if os.path.exists(switch.TRIAL_AT_BOOT):
        from safe_modprobe.admin.switch import trial  # it writes a drop-in, which takes more than all the rest

        trial.start()
    prepare()
    words = _without_an_alias()
    if _WHOLE not in words and _LAST_RESORT not in words:
        return _fail(
            f"{HELPER} does not run ({words[:_SHOWN]!a}); kernel.modprobe stays {switch.helper() or 'empty'};"
            " install the package anew"
        )
    switch.install_helper()
    if _WHOLE not in words:
        _fail(
            f"{HELPER} is broken ({words[:_SHOWN]!a}); until it is mended, root's modules are left to modprobe and"
            " everybody else is refused"
        )
    return 0


def _refresh() -> int:
    if switch.is_on():
        prepare()
    return 0


def prepare(told: bool = False) -> bool:
    """Make the tracing instance, and put the last resort aside. True if the instance was not there before.

    `told`: the kernel itself says who asks, so that without the instance nothing is lost.
    """
    made = False
    try:
        made = switch.make_instance()
    except OSError as error:
        if not told:
            _fail(
                f"{error.filename}: {error.strerror}: without tracefs, who asks is learnt by /proc alone, and root may"
                " be refused while users ask"
            )
    try:
        switch.copy_last_resort()
    except OSError as error:
        _fail(
            f"{error.filename}: {error.strerror}: while an upgrade takes the package's files away, root's requests will"
            " be refused, too"
        )
    return made


def _without_an_alias() -> bytes:
    """All that the helper says when it is run with none: by itself it cannot last, and the unit has its time limit."""
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
        words = file.read()
    os.waitpid(pid, 0)
    return words


def _fail(message: str) -> int:
    print(f"safe-modprobe: {message}", file=sys.stderr)
    return 1
