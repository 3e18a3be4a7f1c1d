"""Image sets: each is a ``Source`` that yields batches of decoded uint8 images with their names.

``open_source`` makes one from whatever the user has: a folder, a zip, an ``.npz`` or ``.npy`` file, an array, a tensor,
a Dataset, a DataLoader or any iterable of batches. How files are found and decoded is the protocol's ``Decode``.
"""

from fastfid.sources.arrays import ArraySource
from fastfid.sources.base import WHOLE, Batches, Content, ImageBatch, Layout, Order, Shard, Source
from fastfid.sources.decode import IMAGE_EXTENSIONS, MAX_PIXELS, Decode
from fastfid.sources.items import Key
from fastfid.sources.opening import is_statistics, open_item, open_source
from fastfid.sources.stream import BatchesSource

__all__ = [
    "IMAGE_EXTENSIONS",
    "MAX_PIXELS",
    "WHOLE",
    "ArraySource",
    "Batches",
    "BatchesSource",
    "Content",
    "Decode",
    "ImageBatch",
    "Key",
    "Layout",
    "Order",
    "Shard",
    "Source",
    "is_statistics",
    "open_item",
    "open_source",
]
