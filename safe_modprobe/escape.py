"""Escape untrusted text for one line of a log or a terminal."""


def escape(text: str) -> str:
    r"""Return untrusted text as printable ASCII on one line, with \xNN for each other byte, quote and backslash."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"\\\"'" else f"\\x{byte:02x}"
        for byte in text.encode(errors="surrogateescape")
    )
