"""What other programs make of what we write: a browser, shells, man, Prometheus' tools, systemd. None needs a kernel."""
