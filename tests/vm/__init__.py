"""Real kernels in QEMU: how they are fetched, put together, booted and asked."""
