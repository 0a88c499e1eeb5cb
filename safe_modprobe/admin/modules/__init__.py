"""Every module of a kernel: the scan, the indexes and the surface that users reach."""
