"""Facts about a machine that the checks judge. The defaults describe a machine without problems."""

from collections.abc import Mapping

from safe_modprobe.capability import Capability, holds, parse_capability
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Origin, Policy

ALL_CAPABILITIES = (1 << 64) - 1
"""The unchanged kernel.usermodehelper.bset: every bit, including those without a capability yet."""

INSPECTION_CAPABILITIES = tuple(filter(None, map(parse_capability, ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"))))
"""Capabilities that a reader of another user's /proc/TID/stack needs (fs/proc/base.c)."""


class Program(NamedTuple):
    """What a request runs: the helper, the interpreter in its first line, or the folder of our code.

    `others` are (path, reason) of files and parent folders that a user other than root can change.
    """

    path: str
    there: bool = True
    executable: bool = True
    noexec: bool = False
    others: tuple[tuple[str, str], ...] = ()

    @property
    def sound(self) -> bool:
        """Whether the kernel can run it and only root can change it."""
        return self.there and self.executable and not self.noexec and not self.others


class Tracing(NamedTuple):
    """Our tracing instance. `refused` is why it could not be read, "" if it could.

    `lost` counts the events that the kernel overwrote since the instance was created. `doubt`: events were lost so
    recently that helpers do not trust the ring now.
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
    """Sysctls of the Linux Kernel Runtime Guard (/proc/sys/lkrg)."""

    umh_validate: int = 0
    umh_enforce: int = 0
    block_modules: int = 0


class Selinux(NamedTuple):
    """Whether SELinux is enforcing, and the label of the helper's file, None without one."""

    enforcing: bool = False
    label: str | None = None


class Setting(NamedTuple):
    """A line of sysctl.d. It takes effect at the next boot, or when `sysctl --system` runs."""

    origin: Origin
    value: str


class Facts(NamedTuple):
    """The present state of the machine.

    - `own`: the path of our helper. `current`: kernel.modprobe, None in a kernel without that sysctl. `ours`: both
      are the same file.
    - `rescue`: the value of safe_modprobe= on the kernel command line (rescue.py). `stood_down`: the watch has set
      kernel.modprobe to another helper. `at_boot`: the systemd unit is enabled.
    - `policy`: the policy in force, the built-in one if the files have an error, `policy_error`. `digest`: the
      SHA-256 of the files, "" if they could not be read.
    - `options`: the kernel's build options without the prefix CONFIG_, None if unknown.
    - `dry_run`: how a dry run of the helper failed, "" if it succeeded.
    - `names_unprivileged`: kernel.modprobe_caller_args is 1, so the kernel names every caller without CAP_SYS_MODULE.
    - `stacks`: /proc/TID/stack can be read and has symbol names.
    - `built_in`, `loaded`: names of modules.
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
    names_unprivileged: bool = False
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
        """Return the needed capabilities that are missing in kernel.usermodehelper.bset."""
        return [each for each in needed if not holds(self.bset, each)]
