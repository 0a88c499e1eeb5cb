"""MESSAGE_ID= of each kind of record (systemd.journal-fields(7)). They must stay, since administrators search by them.

packaging/journal/safe-modprobe.catalog explains each to `journalctl -x`.
"""

DENIED = "6d1c9cf53cc6459b8a3ad6a2bde3b2a1"
LOGGED = "ac2cce9cbe354a689b174d5974e4b4dc"
ALLOWED = "c2e36c8a33c4475da6738911b4e48f0e"
"""The verdicts. Early versions gave all of them the id of DENIED."""

REPEATED = "c1a56e9f8946483784e10c0a33b4f559"
"""A summary of records that were only counted because of the rate limit (counts.py)."""

NOT_LOADED = "269677ab6876410cb7bf11eb75347847"
"""A module was allowed, but the kernel or libkmod could not load it."""

POLICY_BROKEN = "d6b32a8b9cbc40c58687a874b709e641"
"""The policy files are invalid, and another policy applies instead."""

FAILED = "a8501ff43d4b4b83b67b5fe0d258f846"
"""The helper itself failed."""

VERDICTS = (DENIED, LOGGED, ALLOWED)
