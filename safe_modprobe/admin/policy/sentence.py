"""Many names in one sentence."""

from collections.abc import Iterable

_MAX = 6
"""How many names a sentence holds."""


def join_names(names: Iterable[str]) -> str:
    """As many as a sentence can hold."""
    every = list(names)
    more = len(every) - _MAX
    return ", ".join(every[:_MAX]) + (f" and {more} more" if more > 0 else "")
