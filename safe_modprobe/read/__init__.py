"""Floor 2: what looks at the machine and never changes it."""
