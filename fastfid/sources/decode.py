"""From the bytes of one image file to RGB uint8 pixels, as the reference packages get them.

pytorch-fid, clean-fid and torch-fidelity all call Pillow's ``Image.open(file).convert("RGB")``; so does this file. It
follows (held by tests/test_sources_decode.py, and against the packages by tests/oracles/test_decode_oracles.py):

- greyscale and 1-bit images repeat their channel; palettes are looked up;
- alpha, and a palette's transparent entry, are dropped, not composited;
- EXIF orientation is ignored: a rotated photograph stays as it is stored. No package turns it;
- an animation gives its first frame;
- 16-bit RGB keeps the high byte, but 16-bit, 32-bit and float greyscale is *clipped* at 255, so that a 16-bit
  greyscale photograph comes out nearly white. That is what the packages measure; rescale such images yourself;
- CMYK becomes RGB by (255 − C)·(255 − K)/255, without a colour profile; embedded profiles are ignored everywhere.

NVIDIA's reader (EDM, StyleGAN) does not convert: it takes 8-bit greyscale and RGB alone, whose pixels are the same.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastfid.errors import BadImageError
from fastfid.sources.base import Pixels

if TYPE_CHECKING:
    from PIL import Image

IMAGE_EXTENSIONS = frozenset({"bmp", "jpg", "jpeg", "pgm", "png", "ppm", "tif", "tiff", "webp"})
"""The extensions that pytorch-fid and clean-fid look for."""

MAX_PIXELS = 2**30
"""Images of more pixels (3 GB as RGB) are refused. Pillow's own limit, a sixth of this, is set aside: whoever measures
a set of images made or chose them, and 16384×16384 maps are evaluated as they are."""

_pillow_limit = threading.Lock()
if hasattr(os, "register_at_fork"):  # a process forked while a thread holds the lock would wait for it for ever
    os.register_at_fork(
        before=_pillow_limit.acquire, after_in_parent=_pillow_limit.release, after_in_child=_pillow_limit.release
    )

# What the operating system says of a file; anything else it may say (out of memory, of descriptors) is not the file's.
_FILE_ERRORS = {None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG}


@dataclass(frozen=True)
class Decode:
    """Which files of a folder or archive are images, and what becomes of them; part of a protocol.

    Attributes:
        recursive: read the folders below, too. Archives are always read whole.
        extensions: what counts as an image: lower case, no dot; files match in any case.
        npy_files: read ``.npy`` files as images, uint8 [H, W, 3] (clean-fid does).
        hidden: read files whose name begins with a dot and, with ``recursive``, folders whose name does
            (clean-fid's glob passes over both, the others read them).
        follow_links: with ``recursive``, go into symbolic links to folders, each real folder once per path. Links to
            files are always read. (clean-fid follows links to folders, torch-fidelity and EDM do not.)
        convert: the pixel format; Pillow's ``convert("RGB")`` is what every package uses.
    """

    recursive: bool = False
    extensions: frozenset[str] = IMAGE_EXTENSIONS
    npy_files: bool = False
    hidden: bool = True
    follow_links: bool = False
    convert: Literal["RGB"] = "RGB"

    def __post_init__(self) -> None:
        wrong = sorted(e for e in self.extensions if e.startswith(".") or e != e.lower())
        if wrong:
            raise ValueError(f"extensions must be lower case without a dot, got {wrong}")
        if self.convert != "RGB":
            raise ValueError(f"convert={self.convert!r} is not known; accepted: 'RGB'")

    def accepts(self, name: str) -> bool:
        """Whether a file or archive member of this name (its last component counts) is taken for an image."""
        extension = PurePosixPath(name).suffix[1:].lower()
        return extension in self.extensions or (self.npy_files and extension == "npy")

    def looked_for(self) -> str:
        """The accepted extensions, for messages."""
        kinds = sorted(self.extensions | ({"npy"} if self.npy_files else set()))
        return ", ".join("." + kind for kind in kinds) + " (in any case)"


def decode_image(file: Path | BytesIO, name: str, where: str) -> tuple[Pixels, bool]:
    """The pixels of one image file, by its path or content, and whether they were wide (more than 8 bits, clipped).

    Args:
        file: a path, or the file's bytes.
        name: what to call it in errors; ``.npy`` at its end means an array file.
        where: the set it belongs to, for errors.

    Returns:
        uint8 [H, W, 3], possibly read-only; and whether the file was greyscale of 16 or 32 bits or float.

    Raises:
        BadImageError: not an image, truncated, damaged, unreadable, or larger than MAX_PIXELS.
    """
    try:
        if name.lower().endswith(".npy"):
            return _load_npy(file), False
        with _opened(file) as image:
            return rgb_pixels(image), image.mode[0] in "IF"
    except MemoryError:
        raise
    except OSError as error:
        if error.errno not in _FILE_ERRORS:
            raise
        raise BadImageError(name, _reason(error, file), where) from error
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them stumble over
        raise BadImageError(name, _reason(error, file), where) from error


@contextmanager
def _opened(file: Path | BytesIO) -> Generator[Image.Image, None, None]:
    """Image.open without Pillow's limit on pixels, which is a global, hence the lock; it guards opening alone."""
    from PIL import Image

    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def rgb_pixels(image: Image.Image) -> Pixels:
    """``image.convert("RGB")`` as an array."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}×{height} pixels are more than fastfid reads ({MAX_PIXELS} a file)")
    if image.mode == "RGB":
        return np.asarray(image)
    image.load()
    # Pixels do not depend on this entry, but with it Pillow warns that transparency is lost: it is, see above.
    image.info.pop("transparency", None)
    return np.asarray(image.convert("RGB"))


def _load_npy(file: Path | BytesIO) -> Pixels:
    """An image stored as an array: its first three channels, or its only one three times."""
    array = np.load(file, allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = array.dtype if isinstance(array, np.ndarray) else "an archive"
        raise ValueError(f"holds {kind}; an image in a .npy file must be uint8 [height, width, channels]")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"has shape {list(array.shape)}; an image is [height, width] or [height, width, 1, 3 or 4]")
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array[:, :, :3])


def _reason(error: Exception, file: Path | BytesIO) -> str:
    """What the decoder said, made readable where Pillow speaks of Python objects."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        size = file.stat().st_size if isinstance(file, Path) else len(file.getvalue())
        return "the file is empty" if size == 0 else "not an image, or of a format that the installed Pillow can't read"
    if isinstance(error, FileNotFoundError) and isinstance(file, Path) and file.is_symlink():
        return "a symbolic link to a file that does not exist"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
