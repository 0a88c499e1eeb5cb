"""modprobe(8), the kernel's usual helper: it serves everybody."""

import os
from _collections_abc import Sequence

MODPROBE = "/sbin/modprobe"
ENVIRONMENT = {"HOME": "/", "TERM": "linux", "PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}
"""The kernel's own for its helpers (kernel/module/kmod.c); a caller's MODPROBE_OPTIONS must not count."""


def looks_like_path(alias: str) -> bool:
    """Whether modprobe would load it as a file (kmod 29 and later), which no request of the kernel means."""
    return alias.startswith(("/", "."))


def exec_modprobe(alias: str, words: Sequence[str] = ()) -> None:
    """Serve the kernel's request as modprobe does, a patched kernel's words included. Never returns; raises OSError."""
    os.execve(MODPROBE, [MODPROBE, "-q", "--", alias, *words], ENVIRONMENT)
