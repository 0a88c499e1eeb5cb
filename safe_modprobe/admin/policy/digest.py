"""A policy's digest: whether two machines, or an image and a page about it, have the same drop-ins. Pure."""

from collections.abc import Iterable
from hashlib import sha256


def digest(files: Iterable[tuple[str, bytes]]) -> str:
    """What `cat FILE… | sha256sum` prints for (path, content) in the order of precedence; "" for no file."""
    contents = [content for _, content in files]
    return sha256(b"".join(contents)).hexdigest() if contents else ""
