"""safe-modprobe: the kernel's module helper that checks the caller before it loads a module."""

__version__ = "0.1.0"
