"""Inputs for parsers: random bytes, and valid inputs with mutations. They are the same on every run."""

import random
from collections.abc import Callable, Iterator, Sequence

_ODD = [
    b"", b"\0", b"\n", b" ", b":", b"::", b"-", b"-1", b"+1", b"0x", b"_", b"\xff", b"\x80\xfe", b"\r", b"\x0b", b"=",
    b"%s", b")", b"] ", b"+", b"9" * 5000, b"4294967296", b"18446744073709551616", b"\xff" * 8, b"\0" * 8, "١".encode(),
]  # fmt: skip
_MAX_RANDOM_BYTES = 600


def inputs(name: str, valid: Sequence[bytes], count: int) -> Iterator[bytes]:
    """Yield `count` inputs, seeded by `name`: every eighth is random, the others are mutations of `valid` ones."""
    rng = random.Random(name)
    for number in range(count):
        if number % 8 == 0:
            yield rng.randbytes(int(rng.random() ** 3 * _MAX_RANDOM_BYTES))
            continue
        data = rng.choice(valid)
        for _ in range(1 + int(rng.random() ** 2 * 4)):
            data = rng.choice(_MUTATIONS)(rng, data, valid)
        yield data


def _position(rng: random.Random, data: bytes) -> int:
    return int(rng.random() * (len(data) + 1))


def _flip(rng: random.Random, data: bytes, valid: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = _position(rng, data[1:])
    return data[:at] + bytes([data[at] ^ 1 << int(rng.random() * 8)]) + data[at + 1 :]


def _byte(rng: random.Random, data: bytes, valid: Sequence[bytes]) -> bytes:
    at = _position(rng, data)
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, int(rng.random() * 256)))]) + data[at + 1 :]


def _odd(rng: random.Random, data: bytes, valid: Sequence[bytes]) -> bytes:
    at = _position(rng, data)
    return data[:at] + rng.choice(_ODD) + data[at + rng.choice((0, 0, 1, 4, 8)) :]


def _cut(rng: random.Random, data: bytes, valid: Sequence[bytes]) -> bytes:
    return data[: _position(rng, data)]


def _remove(rng: random.Random, data: bytes, valid: Sequence[bytes]) -> bytes:
    at = _position(rng, data)
    return data[:at] + data[at + int(rng.random() * 16) :]


def _repeat(rng: random.Random, data: bytes, valid: Sequence[bytes]) -> bytes:
    at = _position(rng, data)
    return data[: at + int(rng.random() * 64)] + data[at:]


def _splice(rng: random.Random, data: bytes, valid: Sequence[bytes]) -> bytes:
    other = rng.choice(valid)
    return data[: _position(rng, data)] + other[_position(rng, other) :]


def _lines(rng: random.Random, data: bytes, valid: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


_MUTATIONS: Sequence[Callable[[random.Random, bytes, Sequence[bytes]], bytes]] = (
    _flip, _byte, _odd, _cut, _remove, _repeat, _splice, _lines,
)  # fmt: skip
