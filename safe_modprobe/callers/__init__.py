"""Question 1: who called? Nothing in here decides about the caller."""
