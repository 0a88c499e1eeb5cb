"""A policy's digest, which tells whether two machines have the same drop-ins. Pure."""

from collections.abc import Iterable
from hashlib import sha256


def digest(files: Iterable[tuple[str, bytes]]) -> str:
    """Return what `cat FILE… | sha256sum` prints for (path, content) in order of precedence; "" for no file."""
    contents = [content for _, content in files]
    return sha256(b"".join(contents)).hexdigest() if contents else ""
