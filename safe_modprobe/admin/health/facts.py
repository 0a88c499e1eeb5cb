"""What `status` has to know of a machine. Each default is what a machine has on which all is well."""

from collections.abc import Mapping

from safe_modprobe.capability import Capability, holds, parse_capability
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Origin, Policy

ALL_CAPABILITIES = (1 << 64) - 1
"""As kernel.usermodehelper.bset has it when nobody has changed it: bits that no capability has yet, too."""


INSPECTION_CAPABILITIES = tuple(filter(None, map(parse_capability, ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"))))
"""What /proc/TID/stack of another user's task asks of its reader (fs/proc/base.c)."""


class Program(NamedTuple):
    """What a request runs: the helper, the interpreter that it names, or the folder of our code.

    `others` are the files and folders, up to the top, that somebody else than root may change, each with why.
    """

    path: str
    there: bool = True
    executable: bool = True
    noexec: bool = False
    others: tuple[tuple[str, str], ...] = ()

    @property
    def sound(self) -> bool:
        """Whether it can be run, and nobody but root decides what that does."""
        return self.there and self.executable and not self.noexec and not self.others


class Tracing(NamedTuple):
    """Our tracing instance. `refused` is why it could not be read, "" where it could.

    `lost` are the events that the kernel has overwritten since the instance was made; `doubt`: so lately that
    helpers do not trust the ring now.
    """

    tracefs: bool = True
    there: bool = True
    event: bool = True
    recording: bool = True
    clock: bool = True
    lost: int = 0
    doubt: bool = False
    refused: str = ""


class Lkrg(NamedTuple):
    """LKRG's own sysctls (/proc/sys/lkrg)."""

    umh_validate: int = 0
    umh_enforce: int = 0
    block_modules: int = 0


class Selinux(NamedTuple):
    """Whether it enforces, and the helper file's label; None for a file without one."""

    enforcing: bool = False
    label: str | None = None


class Setting(NamedTuple):
    """A line of sysctl.d, which counts from the next boot, or `sysctl --system`, on."""

    origin: Origin
    value: str


class Facts(NamedTuple):
    """The machine as it is now.

    `current` is kernel.modprobe, None where the kernel has no such thing; `own` is our helper's path, and `ours` says
    that both are the same file. `policy` is the one in force: the built-in one if `policy_error` says what is wrong
    with the files; `digest` is of the files, "" where they could not be read. `options` are the kernel's build options
    without CONFIG_, None where nobody can say. `promised`: kernel.modprobe_caller_args says that the kernel names
    everybody without CAP_SYS_MODULE. `stacks`: /proc/TID/stack can be read, and has names.
    `rescue` is the word for us on the kernel's command line (rescue.py); `stood_down`: the watch has put another
    helper in our place; `at_boot`: the unit is enabled.
    `dry_run` is how a dry run of the helper failed, "" where it did not. `built_in` and `loaded` are modules.
    """

    policy: Policy
    own: str = "/usr/sbin/safe-modprobe"
    current: str | None = "/usr/sbin/safe-modprobe"
    ours: bool = True
    rescue: str = ""
    stood_down: bool = False
    at_boot: bool = True
    policy_error: str = ""
    digest: str = ""
    kernel: str = ""
    modules_folder: bool = True
    options: Mapping[str, str] | None = {}
    programs: tuple[Program, ...] = ()
    dry_run: str = ""
    tracing: Tracing = Tracing()
    promised: bool = False
    stacks: bool = True
    lockdown: str | None = None
    selinux: Selinux = Selinux()
    lkrg: Lkrg | None = None
    modules_disabled: bool = False
    bset: int = ALL_CAPABILITIES
    ldisc_autoload: bool | None = None
    sysctl: Setting | None = None
    built_in: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()

    def lacking(self, *needed: Capability) -> list[Capability]:
        """Those of these that the kernel leaves no helper."""
        return [each for each in needed if not holds(self.bset, each)]
