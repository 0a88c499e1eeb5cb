"""Read all modules of a kernel: the scan, depmod's indexes, and the modules that users can load."""
