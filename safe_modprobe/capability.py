"""The kernel's capability names and their bits (include/uapi/linux/capability.h)."""

from safe_modprobe.light_types import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NewType

    Capability = NewType("Capability", int)
else:
    Capability = int
"""A capability's bit number, as in the hexadecimal masks of /proc/TID/status."""

NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

SYS_MODULE = Capability(16)
"""CAP_SYS_MODULE. It always suffices, since its holder may call finit_module(2) directly."""

ALL = (1 << len(NAMES)) - 1
"""The mask of a task that holds every capability of NAMES."""


def parse_capability(name: str) -> Capability | None:
    """Return the capability of this name, spelt as in the kernel's header; None if unknown."""
    return Capability(NAMES.index(name)) if name in NAMES else None


def name_of(capability: Capability) -> str:
    """Return the header's name, or `capability N` for one that is newer than NAMES."""
    return NAMES[capability] if capability < len(NAMES) else f"capability {capability}"


def names_of(mask: int) -> list[str]:
    """Return the names of all capabilities in a mask, without those newer than NAMES."""
    return [name for bit, name in enumerate(NAMES) if mask >> bit & 1]


def holds(mask: int, capability: Capability) -> bool:
    """Return whether the capability is in a mask."""
    return bool(mask >> capability & 1)
