"""safe-modprobe: the kernel's module helper that asks who wants a module before it loads it."""

__version__ = "0.1.0"
