"""The subcommands of safe-modprobectl, one file each, and what they share."""
