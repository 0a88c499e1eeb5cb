"""Collect and boot the machines with a patched kernel in the same way as those of tests/vm."""

from tests.vm.conftest import pytest_collect_file, pytest_collection_finish

__all__ = ["pytest_collect_file", "pytest_collection_finish"]
