"""Tests on real kernels in QEMU: fetch kernels, build disks, boot guests and run scenarios in them."""
