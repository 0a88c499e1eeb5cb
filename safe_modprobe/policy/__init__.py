"""The policy: find, parse and cache its files, match its rows, and write rows as text."""
