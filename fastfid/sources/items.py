"""What an item is, and which of its elements are the images: the one rule for all that Python code hands over.

An item is what an iterable yields, what a Dataset returns, or what ``Evaluator.update`` is given. *Image-like* is

- a batch: an array of four axes;
- one image: an array of three axes, or a PIL image;
- a run of images: a list or tuple of single images, or of items that each hold a single image (batches that nobody
  collated).

An item is image-like itself, or a list or tuple with exactly one image-like element; all its other elements are labels
and are ignored: numbers, strings, dicts, arrays of any other number of axes, and, beside a batch or a run, arrays of
three axes (masks [n, H, W], boxes [n, k, 4]). A second image-like element is an error, and so is a tuple of single
images of different kinds (an image and its mask): which one is meant is never guessed, ``key`` says it. dtype decides
nothing here: float images are an error afterwards, not labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from fastfid.sources.arrays import check_images
from fastfid.sources.base import Layout
from fastfid.sources.decode import rgb_pixels

Key: TypeAlias = "str | int | None"
"""Which element of a dict (by its key), or of a list or tuple (by its index), holds the images."""

_ACCEPTED = (
    "a uint8 tensor [n, 3, H, W] or array [n, H, W, 3], one such image without the first axis, a PIL image, a list or "
    "tuple of images, or a list or tuple with one of these and labels"
)
_SHOWN = 6  # elements that a message describes


class _Found(NamedTuple):
    """One image-like thing: where it stands in the item, and its members (a batch or an image has one)."""

    path: str
    members: tuple[tuple[str, Any], ...]
    kind: str  # "batch", "image" or "run"


def image_batches(
    item: Any, layout: Layout | None, what: str, key: Key = None
) -> Iterator[tuple[NDArray[Any] | torch.Tensor, Layout]]:
    """The images of one item as checked arrays of four axes, each with the order of its axes.

    Nothing is yielded of an item that is refused, except where an image of a run has the wrong dtype or axes.

    Args:
        item: see above.
        layout: the order of axes, where it is not NCHW for tensors and NHWC for everything else.
        what: what to call the item in errors.
        key: which element holds the images, where the item alone does not say it.

    Raises:
        TypeError: no image in it, or images that are not uint8.
        ValueError: several image-like elements, wrong axes, or no such key.
    """
    for path, member in _members(item, what, key):
        where = f"element {path} of {what}" if path else what
        value, order = member, layout
        if _is_pil(value):
            value, order = rgb_pixels(value), "NHWC"
        elif not isinstance(value, (np.ndarray, torch.Tensor)):
            value, order = from_dlpack(value), layout or "NHWC"
        order = order or ("NCHW" if isinstance(value, torch.Tensor) else "NHWC")
        images = value[None] if value.ndim == 3 else value
        check_images(images.shape, images.dtype, order, where)
        yield images, order


def checked_key(key: Key) -> Key:
    """A key of the right type."""
    if key is not None and (isinstance(key, bool) or not isinstance(key, (str, int))):
        raise TypeError(
            f"key={key!r} is {type(key).__name__}; accepted: a dict's key, or an index into a tuple or list"
        )
    return key


def is_item(x: Any) -> bool:
    """Whether ``x`` is an item rather than a set of them: images, or a list, tuple or dict that holds some."""
    return isinstance(x, (list, tuple, Mapping)) or _axes(x) is not None


def _members(item: Any, what: str, key: Key) -> tuple[tuple[str, Any], ...]:
    """(path, value) of the images of an item."""
    prefix, item = ("", item) if key is None else _at(item, what, key)
    if _axes(item) is not None:
        return ((prefix, item),)  # whatever its axes: the check says what is wrong with them
    found = _found(item, prefix)
    if isinstance(item, tuple) and len(found) == 1 and found[0].kind == "run":
        _require_one_kind(found[0], what, item)
    if len(found) == 1:
        return found[0].members
    shown = described(item)
    if found:
        first, second = (one.path for one in found[:2])
        raise ValueError(
            f"{what} is {shown}: elements {first} and {second} are both images. Pass key={first.split('.')[0]} or "
            f"key={second.split('.')[0]} to say which is meant, or hand over the images alone, one batch at a time"
        )
    raise TypeError(f"{what} is {shown}; accepted: {_ACCEPTED}.{_key_hint(item)}")


def _found(x: Any, path: str) -> list[_Found]:
    """The image-like things in ``x``, itself or its elements."""
    axes = _axes(x)
    if axes in (3, 4):
        return [_Found(path, ((path, x),), "image" if axes == 3 else "batch")]
    if not isinstance(x, (list, tuple)):
        return []
    parts = [_found(element, f"{path}.{index}" if path else str(index)) for index, element in enumerate(x)]
    if parts and all(len(part) == 1 and part[0].kind == "image" for part in parts):
        return [_Found(path, tuple(part[0].members[0] for part in parts), "run")]
    found = [one for part in parts for one in part]
    if any(one.kind != "image" for one in found):
        found = [one for one in found if one.kind != "image" or _is_pil(one.members[0][1])]
    return found


def _require_one_kind(run: _Found, what: str, item: Any) -> None:
    """An image and its mask are not two images."""
    (first, one), *rest = run.members
    for path, other in rest:
        if _sort(other) != _sort(one):
            raise ValueError(
                f"{what} is {described(item)}: element {first} is {described(one)} and element {path} is "
                f"{described(other)}. Are these an image and what belongs to it? Pass key={first.split('.')[0]} or "
                f"key={path.split('.')[0]} to say which is meant; a list of images may mix kinds"
            )


def _sort(image: Any) -> tuple[Any, ...]:
    """What two single images of one set have in common: how they are stored, and their number of channels."""
    if _is_pil(image):
        return ("PIL", image.mode)
    channels = {n for n in (image.shape[0], image.shape[-1]) if n in (1, 3, 4)}
    return (type(image).__name__, str(image.dtype), min(channels, default=0))


def _at(item: Any, what: str, key: str | int) -> tuple[str, Any]:
    """(path, value) of what ``key`` selects; an item that has no elements is the images itself."""
    if isinstance(item, Mapping):
        if key not in item:
            raise ValueError(f"{what} is {described(item)}, which has no key={key!r}")
        return str(key), item[key]
    if not isinstance(item, (list, tuple)):
        return "", item
    if isinstance(key, str):
        if item and all(isinstance(element, Mapping) for element in item):
            missing = next((i for i, element in enumerate(item) if key not in element), None)
            if missing is not None:
                raise ValueError(f"element {missing} of {what} is {described(item[missing])}: no key={key!r}")
            return "", [element[key] for element in item]
        return "", item
    if not -len(item) <= key < len(item):
        raise ValueError(f"{what} is {described(item)}, which has no element key={key}")
    if isinstance(item, list) and all(_axes(element) == 3 or isinstance(element, (list, tuple)) for element in item):
        raise ValueError(
            f"{what} is {described(item)}: key={key} would take only one of a run of images. Collate the items into a "
            "tuple (images, …), or hand over the images alone"
        )
    return str(key), item[key]


def _key_hint(item: Any) -> str:
    """The line that says which entry of a dict holds the images."""
    inside: Sequence[Any] = item if isinstance(item, (list, tuple)) else [item]
    mapping = next((one for one in inside if isinstance(one, Mapping)), None)
    if mapping is None:
        return ""
    likely = [name for name, value in mapping.items() if _found(value, "")]
    return f" Say which entry holds the images: key={likely[0] if likely else next(iter(mapping), 'image')!r}."


def described(x: Any) -> str:
    """An item in a few words: its type, and the shapes and dtypes of what it holds."""
    if _is_pil(x):
        return f"a PIL image ({x.mode}, {x.size[0]}×{x.size[1]})"
    if _axes(x) is not None:
        shape, dtype = list(x.shape), str(getattr(x, "dtype", "")).removeprefix("torch.")
        return f"{dtype} {'tensor' if isinstance(x, torch.Tensor) else 'array'} {shape}"
    if isinstance(x, Mapping):
        listed = [f"{name!r}: {described(value)}" for name, value in list(x.items())[:_SHOWN]]
        return f"{type(x).__name__} {{{', '.join(listed)}{', …' if len(x) > _SHOWN else ''}}}"
    if isinstance(x, (list, tuple)):
        listed = [described(value) for value in x[:_SHOWN]]
        inside = f" ({', '.join(listed)}{', …' if len(x) > _SHOWN else ''})" if listed else ""
        return f"{type(x).__name__} of {len(x)}{inside}"
    return type(x).__name__


def _is_pil(x: Any) -> bool:
    """Whether this is a PIL image; Pillow need not be loaded to say so."""
    return hasattr(x, "convert") and hasattr(x, "getbands")


def _axes(x: Any) -> int | None:
    """The number of axes of an array or image, None of anything else."""
    if _is_pil(x):
        return 3
    if isinstance(x, (np.ndarray, torch.Tensor)):
        return x.ndim
    if hasattr(x, "__dlpack__"):
        return int(x.ndim) if hasattr(x, "ndim") else from_dlpack(x).ndim
    return None
