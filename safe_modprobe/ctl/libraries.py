"""Libraries that one subcommand needs and the rest of the tool does without."""

from collections.abc import Iterator
from contextlib import contextmanager

from safe_modprobe.errors import UsageError


@contextmanager
def library(name: str, what: str) -> Iterator[None]:
    """Around the import of what stands on a library. Raises UsageError where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        package = f"python3-{'pyelftools' if name == 'elftools' else name}"
        raise UsageError(f"{what} needs the Python library {name}, which is not here; install {package}") from None
