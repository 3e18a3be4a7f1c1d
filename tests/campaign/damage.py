"""Ways in which bytes are damaged on their way: bits, cuts, zeros, swaps, repeats, fields, tails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from campaign.trial import pick

Generator = np.random.Generator


def _span(rng: Generator, size: int) -> tuple[int, int]:
    begin = int(rng.integers(size))
    return begin, min(size, begin + int(2 ** rng.uniform(0, 10)))


def flipped(rng: Generator, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(int(2 ** rng.integers(0, 4))):
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut(rng: Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(len(data)))]


def zeroed(rng: Generator, data: bytes) -> bytes:
    begin, end = _span(rng, len(data))
    return data[:begin] + bytes(end - begin) + data[end:]


def swapped(rng: Generator, data: bytes) -> bytes:
    length = int(2 ** rng.uniform(0, 8))
    first, second = sorted(int(v) for v in rng.integers(max(len(data) - length, 1), size=2))
    if second - first < length:
        return data
    one, other = data[first : first + length], data[second : second + length]
    return data[:first] + other + data[first + length : second] + one + data[second + length :]


def repeated(rng: Generator, data: bytes) -> bytes:
    begin, end = _span(rng, len(data))
    return data[:end] + data[begin:end] + data[end:]


def removed(rng: Generator, data: bytes) -> bytes:
    begin, end = _span(rng, len(data))
    return data[:begin] + data[end:]


def field(rng: Generator, data: bytes) -> bytes:
    """Two to eight bytes near the beginning or the end, where formats keep sizes and offsets, become an extreme."""
    width = int(2 ** rng.integers(0, 4))
    reach = min(len(data), 256)
    at = int(rng.integers(reach)) if rng.integers(3) else len(data) - 1 - int(rng.integers(reach))
    value = pick(rng, (0, 1, 2**7, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1, 65535, 2**31))
    written = (value % 2 ** (8 * width)).to_bytes(width, pick(rng, ("little", "big")))
    return (data[:at] + written + data[at + width :])[: len(data)]


def longer(rng: Generator, data: bytes) -> bytes:
    return data + (rng.bytes(int(rng.integers(1, 400))) if rng.integers(2) else data)


WAYS: tuple[Callable[[Generator, bytes], bytes], ...] = (
    flipped, flipped, flipped, cut, zeroed, swapped, repeated, removed, field, field, longer,
)  # fmt: skip


def damaged(rng: Generator, data: bytes) -> bytes:
    """The bytes, damaged in one of the ways."""
    return WAYS[int(rng.integers(len(WAYS)))](rng, data)
