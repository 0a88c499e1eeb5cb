"""Switch the kernel to safe-modprobe and back: now, on trial, and at boot."""
