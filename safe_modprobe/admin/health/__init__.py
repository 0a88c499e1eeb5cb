"""What `status` and `enable` check on this machine."""
