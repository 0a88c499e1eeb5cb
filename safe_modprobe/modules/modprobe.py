"""Run modprobe(8), the kernel's usual helper, which loads modules for any caller."""

import os
from _collections_abc import Sequence

MODPROBE = "/sbin/modprobe"
ENVIRONMENT = {"HOME": "/", "TERM": "linux", "PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}
"""The environment that the kernel gives its helpers (kernel/module/kmod.c), without a caller's MODPROBE_OPTIONS."""


def looks_like_path(alias: str) -> bool:
    """Return whether modprobe (kmod 29 and later) would load the alias as a file. The kernel never requests a file."""
    return alias.startswith(("/", "."))


def exec_modprobe(alias: str, kernel_args: Sequence[str] = ()) -> None:
    """Replace this process by modprobe with the kernel's request. Raises OSError; otherwise it does not return."""
    os.execve(MODPROBE, [MODPROBE, "-q", "--", alias, *kernel_args], ENVIRONMENT)
