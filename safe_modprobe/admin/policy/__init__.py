"""Checking, testing and editing policy files."""
