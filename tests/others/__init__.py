"""Tests with other programs that read our output: a browser, shells, man, Prometheus' tools, systemd."""
