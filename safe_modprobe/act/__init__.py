"""Floor 3: the only code that changes the machine: load, record, refuse."""
