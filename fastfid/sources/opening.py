"""From whatever the user gave to a ``Source``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from torch.utils.dlpack import from_dlpack

from fastfid.runtime.checks import dense, plain_array
from fastfid.sources.archive import ZipSource
from fastfid.sources.arrays import ArraySource, NpySource
from fastfid.sources.base import Layout, Source
from fastfid.sources.decode import Decode
from fastfid.sources.folder import FolderSource
from fastfid.sources.items import Key, checked_key, is_item
from fastfid.sources.npz import NpzSource, npz_headers
from fastfid.sources.stream import BatchesSource, DatasetSource

_ACCEPTED = (
    "a folder of images, a .zip of images, a .npz (uint8 arr_0) or a .npy file; from Python also a uint8 array or "
    "tensor, a Dataset, or an iterable of batches"
)


def open_source(x: Any, *, decode: Decode | None = None, layout: Layout | None = None, key: Key = None) -> Source:
    """The image set that ``x`` is.

    ======================================  =========================================================================
    ``x``                                   read as
    ======================================  =========================================================================
    path of a folder                        its image files, as ``decode`` says, sorted by relative path
    path of a ``.zip``                      its image members at any depth, sorted by name
    path of a ``.npz``                      ``arr_0`` (or its only uint8 member of four axes), streamed
    path of a ``.npy``                      memory-mapped
    NumPy array                             uint8 [n, H, W, C]
    torch tensor                            uint8 [n, C, H, W], on any device (batches stay on it)
    other array with ``__dlpack__``         uint8 [n, H, W, C] (CuPy, JAX)
    map-style torch Dataset                 one image per item, or (image, label); see ``DatasetSource``
    DataLoader, generator, other iterable   batches, (batch, labels) or images; see ``BatchesSource``
    a Source                                itself
    ======================================  =========================================================================

    Args:
        x: see the table. Statistics (``is_statistics``) are no images and are refused.
        decode: which files are images and how they are read; the protocol's. Only folders and zips look at it.
        layout: the axes of arrays, where they differ from the table: "NHWC" or "NCHW". Axes are never guessed from
            lengths: [n, 3, H, 3] is NCHW as a tensor and NHWC as an array. C must be 1 (repeated to 3) or 3.

        key: which element of the items of a Dataset, DataLoader or iterable holds the images, where the items alone do
            not say it: a dict's key, or an index into a tuple or list. What has no elements is not looked into.

    Raises:
        FileNotFoundError: no such path.
        EmptySourceError: nothing in it that counts as an image.
        TypeError: images that are not uint8 (the message says how to convert), or an ``x`` of an unknown kind.
        ValueError: a file of an unknown kind, a damaged archive, wrong axes.
    """
    if layout not in (None, "NHWC", "NCHW"):
        raise ValueError(f"layout must be 'NHWC' or 'NCHW', got {layout!r}")
    checked_key(key)
    if isinstance(x, Source):
        return x
    if isinstance(x, (str, bytes, os.PathLike)):
        return _open_path(os.fsdecode(x), decode or Decode(), layout)
    if isinstance(x, np.ndarray):
        return ArraySource(plain_array("images", x), layout or "NHWC")
    if isinstance(x, torch.Tensor):
        return ArraySource(dense("images", x), layout or "NCHW")
    if hasattr(x, "__dlpack__"):
        return ArraySource(from_dlpack(x), layout or "NHWC")
    if isinstance(x, Dataset) and not isinstance(x, IterableDataset) and hasattr(x, "__len__"):
        return DatasetSource(x, layout, key)
    if is_statistics(x):
        raise TypeError("x is Moments: statistics of features, not images")
    if isinstance(x, Iterable) and not isinstance(x, (bytearray, dict)):
        return BatchesSource(x, layout, key)
    raise TypeError(f"cannot read images from {type(x).__name__}; accepted: {_ACCEPTED}")


def open_item(x: Any, *, decode: Decode | None = None, key: Key = None) -> Source:
    """What ``Evaluator.update`` is given: one item (fastfid.sources.items), or else a set as for ``open_source``."""
    if not is_item(x) or getattr(x, "ndim", 0) == 4:
        return open_source(x, decode=decode, key=key)
    source = BatchesSource([x], None, checked_key(key), what="images")
    source.description = "images"
    return source


def is_statistics(x: Any) -> bool:
    """Whether ``x`` is feature statistics: a ``Moments``, or the path of an ``.npz`` with ``mu`` and ``sigma``.

    Only the archive's directory is read. A file with images *and* statistics (ADM's ``VIRTUAL_*.npz`` have a sample of
    10,000 in ``arr_0`` beside the statistics of the whole set) is statistics, as it is to ADM's evaluator;
    ``open_source`` on it reads the images.
    """
    if isinstance(x, (str, bytes, os.PathLike)):
        path = os.fsdecode(x)
        if not path.lower().endswith(".npz") or not Path(path).is_file():
            return False
        return {"mu", "sigma"} <= npz_headers(path).keys()
    from fastfid.moments import Moments

    return isinstance(x, Moments)


def _open_path(path: str, decode: Decode, layout: Layout | None) -> Source:
    if Path(path).is_dir():
        return FolderSource(path, decode)
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file or folder: {path!r}; accepted: {_ACCEPTED}")
    extension = Path(path).suffix.lower()
    if extension == ".zip":
        return ZipSource(path, decode)
    if extension == ".npz":
        return NpzSource(path, layout or "NHWC")
    if extension == ".npy":
        return NpySource(path, layout or "NHWC")
    if not Path(path).is_file():
        raise ValueError(f"{path!r} is a pipe, a socket or a device, which is never read; accepted: {_ACCEPTED}")
    if decode.accepts(path):
        raise ValueError(f"{path!r} is a single image; a distance needs a set of them: name its folder")
    hint = " Unpack it, or repack it as .zip." if extension in (".tar", ".gz", ".tgz", ".7z", ".rar") else ""
    hint = " Pickled statistics can't be loaded safely; save mu and sigma as .npz." if extension == ".pkl" else hint
    raise ValueError(f"cannot read images from {path!r} ({extension or 'no extension'}); accepted: {_ACCEPTED}.{hint}")
