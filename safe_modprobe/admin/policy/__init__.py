"""Check, test and edit policy files."""
