"""What answers the alias: the plan, module files, and loading them."""
