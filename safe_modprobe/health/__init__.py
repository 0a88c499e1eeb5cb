"""Floor 1, pure: whether safe-modprobe protects this machine, from facts that were read elsewhere."""
