"""Before the work: what each rank was given, exchanged and compared."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastfid.agreement.digest import image_of, of_image
from fastfid.distributed import World
from fastfid.extractors import Extractor
from fastfid.moments import Moments
from fastfid.sources import ArraySource, Content, Source

ITEMS = 64
"""Items of a set whose content is compared before the work."""

_SEED = 0x5EED
_FILE_BYTES = 1 << 22  # of a drawn file; the rest is left to the re-reading
_TWICE = 4  # items of a Dataset that a rank reads twice, to tell chance in it from a difference between ranks
_SAME = 1e-2  # largest difference of two devices' features, of their scale; other weights differ by far more

OWN = "If every process has images of its own, pass distributed='own'."
_HINTS = {
    "folder": "All processes need the same files under this path.",
    "statistics": "All processes need the same statistics: save them once, and load that file on every process.",
    "dataset": f"Every process must be given the whole set, which fastfid divides. {OWN}",
    "array": f"Every process must be given the whole array, which fastfid divides. {OWN}",
}


@dataclass(frozen=True)
class Claim:
    """What one rank says of one argument.

    Attributes:
        kind: the source's, or "statistics".
        count: images, or samples; None where only reading tells.
        form: shape and dtype, or the type of the object.
        listing: a digest over names and sizes, or over statistics; "" where there is nothing to list.
        items: (name, checksum) of the drawn items.
    """

    kind: str
    count: int | None
    form: str
    listing: str = ""
    items: tuple[tuple[str, int], ...] = ()


def alike(world: World, what: str, facts: Mapping[str, object], hint: str) -> None:
    """ValueError on every rank unless all have equal ``facts``; it names the first that differs, and ``hint``."""
    first, *others = world.gather(what, dict(facts))
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other.get(name) != value:
                raise ValueError(
                    f"{what}: all processes need the same {name}: rank 0 has {value!r}, rank {rank} has "
                    f"{other.get(name)!r}. {hint}"
                )


def agree_on_network(world: World, extractor: Extractor, facts: Mapping[str, object], size: tuple[int, int]) -> None:
    """Compare the ranks' networks: what they are called, the hash of their weights and their precision.

    Where a callable or a module of the caller's own is the network, of whose code nothing is known, also what it makes
    of two images of noise [2, 3, h, w], within 1 % of the features' scale.

    Raises:
        ValueError: they differ.
    """
    if world.size == 1:
        return
    hint = "Give every process the same network, file by file: copy the weights anew where they differ."
    alike(world, "network", facts, hint)
    if extractor.weights is not None and extractor.weights.origin != "module":
        return
    noise = np.random.default_rng(_SEED).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    with torch.no_grad():
        made = extractor(torch.from_numpy(noise).to(extractor.device)).cpu().double()
    answers = world.gather("network's answer", made)
    scale = float(answers[0].abs().max())
    for rank, answer in enumerate(answers):
        shapes = [list(one.shape) for one in (answers[0], answer)]
        if shapes[0] != shapes[1] or not bool(((answer - answers[0]).abs() <= _SAME * scale).all()):
            raise ValueError(
                f"network: {extractor.name} on rank {rank} is not what it is on rank 0: the same two images of noise "
                f"give features {shapes[1]} that are not those {shapes[0]} of rank 0. Load the same weights on every "
                "process, or draw them with the same seed, and leave no chance in it"
            )


def agree_on_sets(world: World, given: Sequence[tuple[str, str, Source | Moments, bool]]) -> None:
    """Compare what the ranks were given: (role, description, what, whether each rank has its own).

    Raises:
        ValueError: they differ; on every rank, with what each had.
    """
    if world.size == 1:
        return
    listings = [[] if own else _listing(what) for _, _, what, own in given]
    claims = [
        Claim("own", None, "") if own else _claim(what, listing)
        for (_, _, what, own), listing in zip(given, listings, strict=True)
    ]
    by_rank = world.gather("image sets", claims)
    for position, (role, description, _, _) in enumerate(given):
        first, *others = (claims[position] for claims in by_rank)
        if any(other.listing != first.listing for other in others):
            _require_listing(world, f"{role}={description!r}", first.kind, listings[position], first, others)
        for rank, other in enumerate(others, start=1):
            _require_equal(f"{role}={description!r}", rank, first, other)


def _claim(what: Source | Moments, listing: list[str]) -> Claim:
    if isinstance(what, Moments):
        return Claim("statistics", what.n, f"{what.dim} features", _digest_of(what))
    digest = hashlib.sha256("\0".join(listing).encode(errors="surrogateescape")).hexdigest() if listing else ""
    return Claim(what.kind, what.count, _form(what), digest, _items(what))


def _form(source: Source) -> str:
    if isinstance(source, ArraySource):
        return f"{source.layout} {list(source.array.shape)}"
    content = source.content()
    return source.description if content is None else ""


def _listing(what: Source | Moments) -> list[str]:
    """Names and sizes of the files or members, one line each; an archive's with the checksums that it keeps."""
    content = None if isinstance(what, Moments) else what.content()
    if content is None or not content.files:
        return []
    if content.files[0][0] == "":
        return _members(content)
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(_size, (path for _, path in content.files), chunksize=256))
    return [f"{name}: {size}" for (name, _), size in zip(content.files, sizes, strict=True)]


def _members(content: Content) -> list[str]:
    path = content.files[0][1]
    facts = list(map(str, content.facts[1:]))
    if not zipfile.is_zipfile(path):
        return [*facts, f"{_size(path)}"]
    read = set(facts)
    with zipfile.ZipFile(path) as archive:
        return [
            f"{info.filename}: {info.file_size} bytes, CRC {info.CRC:08x}"
            for info in sorted(archive.infolist(), key=lambda info: info.filename)
            if info.filename in read or info.filename.removesuffix(".npy") in read
        ]


def _size(path: str) -> str:
    """In words; what can't be looked at, or is no file, is no image either."""
    try:
        found = os.stat(path)  # noqa: PTH116  # of tens of thousands of files
    except OSError:
        return "missing"
    return f"{found.st_size} bytes" if stat.S_ISREG(found.st_mode) else "no file"


def _items(source: Source) -> tuple[tuple[str, int], ...]:
    """Checksums of up to 64 items; of files their bytes, of arrays and Datasets the pixels."""
    if source.count is None:
        return ()
    rng = np.random.default_rng(_SEED)
    drawn = np.sort(rng.choice(source.count, min(ITEMS, source.count), replace=False))
    if isinstance(source, ArraySource):
        return tuple((str(index), of_image(source.array[index])) for index in drawn.tolist())
    content = source.content()
    if content is None:
        return _read_items(source, drawn)
    if content.files and content.files[0][0]:
        return tuple((content.files[index][0], _of_file(content.files[index][1])) for index in drawn.tolist())
    return ()  # an archive's checksums are in its listing


def _read_items(source: Source, drawn: np.ndarray[Any, Any]) -> tuple[tuple[str, int], ...]:
    """Of a Dataset, whose items must be the same whenever they are read."""
    found = [
        (name, of_image(image_of(batch, position)))
        for batch in source.picked(drawn).batches(ITEMS, skip_bad=True)
        for position, name in enumerate(batch.names)
    ]
    again = dict(found)
    for batch in source.picked(drawn[:_TWICE]).batches(ITEMS, skip_bad=True):
        for position, name in enumerate(batch.names):
            if again.get(name) != of_image(image_of(batch, position)):
                raise ValueError(
                    f"item {name} of {source.description} is another one when it is read a second time (random "
                    "augmentation?), so that nobody can check that all processes have the same set. Have its chance "
                    "depend on the index alone, or give every process a Subset of its own and pass distributed='own'"
                )
    return tuple(found)


def _of_file(path: str) -> int:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return -1
        with Path(path).open("rb") as file:
            return zlib.crc32(file.read(_FILE_BYTES))
    except OSError:
        return -1


def _digest_of(moments: Moments) -> str:
    """Over the numbers that a distance depends on, and what they say of how they were made."""
    whole, state = hashlib.sha256(), moments.state()
    for name in ("rows",) if state["rows"] is not None else ("mean", "scatter", "cov"):
        if state[name] is not None:
            array = state[name].cpu().numpy()
            whole.update(np.ascontiguousarray(np.tril(array) if name == "scatter" else array).data)
    facts = [str(state["metadata"].get(key)) for key in ("fingerprint", "extractor", "weights_sha256")]
    whole.update("\0".join(facts).encode())
    return whole.hexdigest()


def _require_listing(world: World, who: str, kind: str, mine: list[str], first: Claim, others: Sequence[Claim]) -> None:
    """Say where listings differ: the first line that rank 0 has otherwise than another."""
    rank = next(number for number, other in enumerate(others, start=1) if other.listing != first.listing)
    other = others[rank - 1]
    hint = _HINTS.get(kind, "All processes need the same file.")
    if other.kind != first.kind or kind == "statistics":
        return _require_equal(who, rank, first, other)
    parts = [hashlib.sha256("\0".join(mine[at : at + 256]).encode(errors="surrogateescape")).digest() for at in
             range(0, len(mine), 256)]  # fmt: skip
    told = world.gather("listings", parts)
    pairs = enumerate(zip_longest(told[0], told[rank]))
    at = next((part for part, (one, two) in pairs if one != two), 0) * 256
    there = world.gather("listing", mine[at : at + 256])
    one, two = next((a, b) for a, b in zip_longest(there[0], there[rank], fillvalue="nothing") if a != b)
    counts = "" if first.count == other.count else f" ({first.count} and {other.count} images)"
    raise ValueError(f"{who}: rank 0 and rank {rank} have other files{counts}: {one!r} and {two!r}. {hint}")


def _require_equal(who: str, rank: int, first: Claim, other: Claim) -> None:
    hint = _HINTS.get(first.kind, OWN)
    for name, mine, theirs in (
        ("kind of set", first.kind, other.kind),
        ("number of images", first.count, other.count),
        ("form", first.form, other.form),
    ):
        if mine != theirs:
            raise ValueError(f"{who}: rank 0 and rank {rank} have another {name}: {mine!r} and {theirs!r}. {hint}")
    if first.kind == "statistics" and first.listing != other.listing:
        raise ValueError(f"{who}: the statistics of rank 0 and rank {rank} hold other numbers. {hint}")
    for (name, mine_), (name_, theirs_) in zip(first.items, other.items, strict=False):
        if (name, mine_) != (name_, theirs_):
            raise ValueError(
                f"{who}: item {name!r} of rank 0 has other content than item {name_!r} of rank {rank} (CRC "
                f"{mine_ & 0xFFFFFFFF:08x} and {theirs_ & 0xFFFFFFFF:08x}). {hint}"
            )
    if len(first.items) != len(other.items):
        raise ValueError(f"{who}: rank 0 can read {len(first.items)} of the same items, rank {rank} {len(other.items)}")
