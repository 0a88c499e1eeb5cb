"""Floor 4: safe-modprobectl, one file a subcommand."""
