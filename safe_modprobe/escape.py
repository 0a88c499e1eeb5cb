"""Untrusted text made fit for one line of a log or a terminal."""


def escape(text: str) -> str:
    r"""Untrusted text for one line that people and parsers read: ASCII, with \xNN for the rest."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"\\\"'" else f"\\x{byte:02x}"
        for byte in text.encode(errors="surrogateescape")
    )
