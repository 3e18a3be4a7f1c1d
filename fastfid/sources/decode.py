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

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np

from fastfid.errors import BadImageError
from fastfid.runtime.files import is_own, named, open_regular, reason
from fastfid.runtime.npz import read_header
from fastfid.sources import base
from fastfid.sources.base import MAX_PIXELS, Pixels

if TYPE_CHECKING:
    from PIL import Image

IMAGE_EXTENSIONS = frozenset({"bmp", "jpg", "jpeg", "pgm", "png", "ppm", "tif", "tiff", "webp"})
"""The extensions that pytorch-fid and clean-fid look for."""

LOOKS_LIKE_IMAGE = IMAGE_EXTENSIONS.union(
    ("apng", "avif", "dds", "exr", "gif", "hdr", "heic", "heif", "ico", "j2k", "jfif", "jp2", "jpe", "jxl"),
    ("pbm", "pcx", "pfm", "pnm", "qoi", "svg", "tga"),
)
"""Extensions of files that people call images; leaving such a file unread is worth a warning."""

__all__ = ["IMAGE_EXTENSIONS", "LOOKS_LIKE_IMAGE", "MAX_PIXELS", "Decode", "bad_image", "decode_image", "rgb_pixels"]


@dataclass(frozen=True)
class Decode:
    """Which files of a folder or archive are images, and what becomes of them; part of a protocol.

    Attributes:
        recursive: read the folders below, too. Archives are always read whole.
        extensions: what counts as an image, without the dot.
        npy_files: read ``.npy`` files as images, uint8 [H, W, 3] (clean-fid does).
        hidden: read files whose name begins with a dot and, with ``recursive``, folders whose name does
            (clean-fid's glob passes over both, the others read them).
        follow_links: with ``recursive``, go into symbolic links to folders, each real folder once per path. Links to
            files are always read. (clean-fid follows links to folders, torch-fidelity and EDM do not.)
        convert: the pixel format; Pillow's ``convert("RGB")`` is what every package uses.
        any_case: extensions are lower case, and a name's is compared with them in lower case, as ``splitext`` gives it.
            Where false, a name must end in a dot and one of them exactly, as in ``glob("*.png")``.
        pillow: what the installed Pillow has a name for counts, too (EDM, StyleGAN).
        open_archives: in archives names match in any case, and hidden ones count, whatever the rule for folders
            (clean-fid).
    """

    recursive: bool = False
    extensions: frozenset[str] = IMAGE_EXTENSIONS
    npy_files: bool = False
    hidden: bool = True
    follow_links: bool = False
    convert: Literal["RGB"] = "RGB"
    any_case: bool = True
    pillow: bool = False
    open_archives: bool = False

    def __post_init__(self) -> None:
        wrong = sorted(e for e in self.extensions if e.startswith(".") or (self.any_case and e != e.lower()))
        if wrong:
            raise ValueError(f"extensions must be lower case without a dot, got {wrong}")
        if self.convert != "RGB":
            raise ValueError(f"convert={self.convert!r} is not known; accepted: 'RGB'")

    def known(self) -> frozenset[str]:
        """Every extension that counts, as this installation has it."""
        more = {"npy"} if self.npy_files else set()
        return self.extensions | more | (_pillow_extensions() if self.pillow else frozenset())

    def accepts(self, name: str) -> bool:
        """Whether a file of this name (its last component counts) is taken for an image."""
        return self.rule()(name)

    def rule(self) -> Callable[[str], bool]:
        """``accepts`` for many names."""
        known, any_case = self.known(), self.any_case

        def accepts(name: str) -> bool:
            last = name.rpartition("/")[2]
            if any_case:
                return os.path.splitext(last)[1][1:].lower() in known  # noqa: PTH122  # Path.suffix knows ".png" otherwise
            return "." in last and last.rpartition(".")[2] in known

        return accepts

    def in_archives(self) -> Decode:
        """The rules for the members of an archive."""
        if not self.open_archives:
            return self
        lower = frozenset(extension.lower() for extension in self.extensions)
        return replace(self, extensions=lower, any_case=True, hidden=True)

    def looked_for(self) -> str:
        """The accepted extensions, for messages."""
        case = "in any case" if self.any_case else "exactly so"
        return f"{', '.join('.' + kind for kind in sorted(self.known()))} ({case})"

    def describe(self) -> str:
        """The rules in a few words, for the table of protocols."""
        kinds = [*sorted(self.extensions), *(["npy"] if self.npy_files else []), *(["what Pillow knows"] * self.pillow)]
        words = ["recursive" if self.recursive else "flat", " ".join(kinds)]
        words.append("in any case" if self.any_case else "exactly so")
        words += ([] if self.hidden else ["not hidden"]) + (["links to folders"] if self.follow_links else [])
        return ", ".join(words) + ("; in zips in any case and hidden, too" if self.open_archives else "")


def _pillow_extensions() -> frozenset[str]:
    """The extensions that Pillow, with the plugins it finds, has registered."""
    from PIL import Image

    Image.init()
    return frozenset(extension[1:].lower() for extension in Image.EXTENSION)


def decode_image(file: Path | IO[bytes], name: str, where: str) -> tuple[Pixels, bool]:
    """The pixels of one image file, by its path or content, and whether they were wide (more than 8 bits, clipped).

    Args:
        file: a path, or the file's bytes, which can be sought.
        name: what to call it in errors; ``.npy`` at its end means an array file.
        where: the set it belongs to, for errors.

    Returns:
        uint8 [H, W, 3], possibly read-only; and whether the file was greyscale of 16 or 32 bits or float.

    Raises:
        BadImageError: not an image, truncated, damaged, unreadable, no regular file, or larger than MAX_PIXELS.
        OSError: this process has no memory or descriptors left; names the file.
    """
    with bad_image(name, where, file if isinstance(file, Path) else None):
        if not isinstance(file, Path):
            return _decoded(file, name)
        with open_regular(file) as content:
            return _decoded(content, name)


@contextmanager
def bad_image(name: str, where: str, path: Path | None = None) -> Iterator[None]:
    """Whatever reading an image raises is that image's fault, except what is the process's own trouble."""
    try:
        yield
    except BadImageError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them stumble over
        if is_own(error):
            raise named(error, f"{name} in {where}" if where else name) from error
        broken = isinstance(error, FileNotFoundError) and path is not None and path.is_symlink()
        why = "a symbolic link to a file that does not exist" if broken else reason(error)
        raise BadImageError(name, why, where) from error


def _decoded(file: IO[bytes], name: str) -> tuple[Pixels, bool]:
    if name.lower().endswith(".npy"):
        return _load_npy(file), False
    from PIL import UnidentifiedImageError

    from fastfid.sources._pillow import opened

    try:
        with opened(file) as image:
            return rgb_pixels(image), image.mode[0] in "IF"
    except UnidentifiedImageError as error:
        file.seek(0)
        empty = not file.read(1)
        raise ValueError(
            "the file is empty" if empty else "not an image, or of a format that the installed Pillow can't read"
        ) from error


def rgb_pixels(image: Image.Image) -> Pixels:
    """``image.convert("RGB")`` as an array."""
    width, height = image.size
    if width * height > base.MAX_PIXELS:
        raise ValueError(f"{width}×{height} pixels are more than fastfid reads ({base.MAX_PIXELS} a file)")
    if image.mode != "RGB":
        image.load()
        # Pixels do not depend on this entry, but with it Pillow warns that transparency is lost: it is, see above.
        image.info.pop("transparency", None)
    from fastfid.sources._pillow import rgb_array

    return rgb_array(image)


def _load_npy(file: IO[bytes]) -> Pixels:
    """An image stored as an array: its first three channels, or its only one three times."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = read_header(file, size)
    if header.dtype != np.uint8:
        raise ValueError(f"holds {header.dtype}; an image in a .npy file must be uint8 [height, width, channels]")
    shape = header.shape if len(header.shape) != 2 else (*header.shape, 1)
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
        raise ValueError(f"has shape {list(header.shape)}; an image is [height, width] or [height, width, 1, 3 or 4]")
    if shape[0] * shape[1] > base.MAX_PIXELS:
        raise ValueError(f"{shape[1]}×{shape[0]} pixels are more than fastfid reads ({base.MAX_PIXELS} a file)")
    content = file.read(header.size)
    if len(content) != header.size:
        raise ValueError(f"it ends after {len(content)} of {header.size} bytes of pixels")
    array: Pixels = np.ndarray(shape, np.uint8, content, order="F" if header.fortran else "C")
    return np.repeat(array, 3, axis=2) if shape[2] == 1 else np.ascontiguousarray(array[:, :, :3])
