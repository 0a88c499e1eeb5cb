"""Machines with a patched kernel, collected and booted as those of tests/vm."""

from tests.vm.conftest import pytest_collect_file, pytest_collection_finish

__all__ = ["pytest_collect_file", "pytest_collection_finish"]
