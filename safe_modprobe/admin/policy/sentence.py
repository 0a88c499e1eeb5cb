"""Join many names into one sentence."""

from collections.abc import Iterable

_MAX = 6
"""How many names a sentence lists before "and N more"."""


def join_names(names: Iterable[str]) -> str:
    """Return the first names, and the number of the others."""
    every = list(names)
    more = len(every) - _MAX
    return ", ".join(every[:_MAX]) + (f" and {more} more" if more > 0 else "")
