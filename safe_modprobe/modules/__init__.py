"""Find the modules for an alias, read their files and load them."""
