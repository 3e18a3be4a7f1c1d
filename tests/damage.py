"""Ways in which files are damaged, drawn by seed: for every reader of files there is."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

Rng = np.random.Generator

_NUMBERS = [
    struct.pack(code, value)
    for code, values in (
        ("<I", (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)),
        (">I", (1, 2**16, 2**31 - 1)),
        ("<Q", (2**62, 2**63, 2**64 - 1)),
        ("<H", (0, 0xFFFF)),
    )
    for value in values
]


def _span(rng: Rng, content: bytes, longest: int = 64) -> tuple[int, int]:
    begin = int(rng.integers(0, len(content)))
    return begin, min(len(content), begin + int(rng.integers(1, longest + 1)))


def _place(rng: Rng, content: bytes) -> int:
    """Anywhere; every other time among the first or last 200 bytes, where headers and directories are."""
    if rng.integers(2):
        return int(rng.integers(0, len(content)))
    near = int(rng.integers(0, min(200, len(content))))
    return near if rng.integers(2) else len(content) - 1 - near


def flip_bit(rng: Rng, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


def set_byte(rng: Rng, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + bytes([int(rng.integers(256))]) + content[at + 1 :]


def set_number(rng: Rng, content: bytes) -> bytes:
    at, number = _place(rng, content), _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    return (content[:at] + number + content[at + len(number) :])[: len(content)]


def truncate(rng: Rng, content: bytes) -> bytes:
    return content[: int(rng.integers(0, len(content)))]


def zero(rng: Rng, content: bytes) -> bytes:
    begin, end = _span(rng, content)
    return content[:begin] + bytes(end - begin) + content[end:]


def delete(rng: Rng, content: bytes) -> bytes:
    begin, end = _span(rng, content)
    return content[:begin] + content[end:]


def duplicate(rng: Rng, content: bytes) -> bytes:
    begin, end = _span(rng, content)
    return content[:end] + content[begin:]


def insert(rng: Rng, content: bytes) -> bytes:
    begin, end = _span(rng, content)
    return content[:begin] + rng.bytes(end - begin) + content[begin:]


def swap(rng: Rng, content: bytes) -> bytes:
    """Two neighbouring spans."""
    begin, middle = _span(rng, content)
    end = min(len(content), 2 * middle - begin)
    return content[:begin] + content[middle:end] + content[begin:middle] + content[end:]


def append(rng: Rng, content: bytes) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 64)))


WAYS: tuple[Callable[[Rng, bytes], bytes], ...] = (
    flip_bit,
    flip_bit,
    set_byte,
    set_number,
    set_number,
    truncate,
    zero,
    delete,
    duplicate,
    insert,
    swap,
    append,
)


def damaged(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged copies of a file, each with a name to find it again by; none equals the original."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        way = WAYS[int(rng.integers(len(WAYS)))]
        changed = way(rng, content)
        if changed != content:
            yield f"{seed}-{made}-{way.__name__}", changed
            made += 1
