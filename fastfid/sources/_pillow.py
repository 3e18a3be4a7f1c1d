"""Pillow without the switches that a program may have set in it: what a file becomes does not depend on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from fastfid.sources import base
from fastfid.sources.base import Pixels

STRIPS_FROM = 1 << 24
"""Images of more pixels are taken over strip by strip: Pillow's own way holds them three times."""

_lock = threading.Lock()


class _Limit(int):
    """For Pillow's MAX_IMAGE_PIXELS, above which it warns, and above whose double it raises; here these are one."""

    def __rmul__(self, _two: object) -> int:
        return int(self)


class Held:
    """A global of Pillow's, at our value while any thread is inside, and put back by the last one that leaves.

    Args:
        module, name: which.
        make: gives our value, or the present one where that will do.
    """

    def __init__(self, module: Any, name: str, make: Callable[[Any], Any]) -> None:
        self.module, self.name, self.make = module, name, make
        self.inside = 0
        self.before: Any = None
        self.ours: Any = None

    def __enter__(self) -> None:
        with _lock:
            if self.inside == 0:
                self.before = getattr(self.module, self.name)
                self.ours = self.make(self.before)
                setattr(self.module, self.name, self.ours)
            self.inside += 1

    def __exit__(self, *_error: object) -> None:
        with _lock:
            self.inside -= 1
            if self.inside == 0:
                self.put_back()

    def put_back(self) -> None:
        """Unless somebody else has set it meanwhile."""
        if getattr(self.module, self.name) is self.ours:
            setattr(self.module, self.name, self.before)


@contextmanager
def opened(file: IO[bytes]) -> Generator[Image.Image, None, None]:
    """``Image.open`` with MAX_PIXELS in place of Pillow's own limit, and no truncated file passed off as whole.

    The limit holds while plugins open the file, where some of them already decode it, and for images above Pillow's own
    limit until they are decoded; it is a global, so other threads see it for as long as that takes. Whether truncated
    files are errors is touched only where a program has said that they are not.
    """
    with _whole_files:
        with _pixels:
            image = Image.open(file)
        width, height = image.size
        large = width * height > (Image.MAX_IMAGE_PIXELS or base.MAX_PIXELS)
        with image, _pixels if large else nullcontext():  # some ask again when they decode
            yield image


def rgb_array(image: Image.Image) -> Pixels:
    """``np.asarray(image.convert("RGB"))``; of a large image in strips of rows, with the same pixels."""
    width, height = image.size
    if width * height <= STRIPS_FROM:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    image.load()
    pixels = np.empty((height, width, 3), np.uint8)
    step = max(1, STRIPS_FROM // 4 // width)
    with _pixels:  # crop asks as well
        for top in range(0, height, step):
            bottom = min(top + step, height)
            pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)).convert("RGB"))
    return pixels


_pixels = Held(Image, "MAX_IMAGE_PIXELS", lambda _before: _Limit(base.MAX_PIXELS))
_whole_files = Held(ImageFile, "LOAD_TRUNCATED_IMAGES", lambda before: False if before else before)


def _after_fork() -> None:
    """In a child, the threads that were inside are no more."""
    for held in (_pixels, _whole_files):
        if held.inside:
            held.put_back()
            held.inside = 0
    _lock.release()


if hasattr(os, "register_at_fork"):  # a process forked while a thread holds the lock would wait for it for ever
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)
