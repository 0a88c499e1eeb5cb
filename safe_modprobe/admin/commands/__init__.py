"""The subcommands of safe-modprobectl, one file each, and the code that they share."""
