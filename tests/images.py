"""Small images and image files for tests: deterministic, and a maker for each kind that decoders treat apart."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def photo(seed: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Smooth colour with texture on it: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(2 * np.pi * (rng.uniform(0.3, 2) * x + rng.uniform(0.3, 2) * y) + rng.uniform(0, 6)) for _ in "RGB"]
    pixels = 127.5 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 12, (height, width, 3))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def photos(n: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """uint8 [n, height, width, 3]."""
    return np.stack([photo(seed, height, width) for seed in range(n)])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An RGB or greyscale array as the bytes of a PNG file."""
    return encoded(Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A Pillow image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_folder(
    folder: Path, images: NDArray[np.uint8] | list[NDArray[np.uint8]], pattern: str = "{:03d}.png"
) -> Path:
    """One PNG an image, named by ``pattern``."""
    for index, pixels in enumerate(images):
        path = folder / pattern.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels))
    return folder


def write_zip(path: Path, images: NDArray[np.uint8] | list[NDArray[np.uint8]], pattern: str = "{:03d}.png") -> Path:
    """One PNG member an image."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, pixels in enumerate(images):
            archive.writestr(pattern.format(index), png(pixels))
    return path


def rgb16_png(pixels: NDArray[np.uint16]) -> bytes:
    """[H, W, 3] as a PNG of 16 bits a channel, which Pillow can read but not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _palette_image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).quantize(16)


def _animation(pixels: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    frames = [Image.fromarray(np.roll(pixels, 5 * shift, axis=1)) for shift in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, **options)


def _exif_rotated(pixels: NDArray[np.uint8]) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90° to show upright
    return encoded(Image.fromarray(pixels), "JPEG", quality=92, exif=exif.tobytes())


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[:, :, 1])


def _wide_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return _grey(pixels).astype(np.uint16) * 4  # 0 … 1020: clipped in part


def _with_alpha(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([pixels, pixels[:, ::-1, :1]], axis=2)


KINDS: dict[str, tuple[str, Callable[[NDArray[np.uint8]], bytes]]] = {
    "rgb.png": ("png", png),
    "grey.png": ("png", lambda p: png(_grey(p))),
    "one-bit.png": ("png", lambda p: encoded(Image.fromarray(_grey(p)).convert("1"), "PNG")),
    "palette.png": ("png", lambda p: encoded(_palette_image(p), "PNG")),
    "palette-transparent-colour.png": ("png", lambda p: encoded(_palette_image(p), "PNG", transparency=3)),
    "palette-alpha.png": ("png", lambda p: encoded(_palette_image(p), "PNG", transparency=bytes(range(0, 256, 16)))),
    "grey-alpha.png": ("png", lambda p: encoded(Image.fromarray(p[:, :, :2].copy(), "LA"), "PNG")),
    "rgba.png": ("png", lambda p: encoded(Image.fromarray(_with_alpha(p)), "PNG")),
    "rgb-transparent-colour.png": ("png", lambda p: encoded(Image.fromarray(p), "PNG", transparency=(9, 9, 9))),
    "grey16.png": ("png", lambda p: encoded(Image.fromarray(_wide_grey(p)), "PNG")),
    "rgb16.png": ("png", lambda p: rgb16_png(p.astype(np.uint16) * 257 + 100)),
    "interlaced.png": ("png", lambda p: encoded(Image.fromarray(p), "PNG", interlace=1)),
    "grey16.tiff": ("tiff", lambda p: encoded(Image.fromarray(_wide_grey(p)), "TIFF")),
    "int32.tiff": ("tiff", lambda p: encoded(Image.fromarray(_wide_grey(p).astype(np.int32)), "TIFF")),
    "float.tiff": ("tiff", lambda p: encoded(Image.fromarray(_grey(p).astype(np.float32) * 1.5), "TIFF")),
    "cmyk.tif": ("tif", lambda p: encoded(Image.fromarray(_with_alpha(p), "CMYK"), "TIFF")),
    "rgb.jpg": ("jpg", lambda p: encoded(Image.fromarray(p), "JPEG", quality=90)),
    "grey.jpeg": ("jpeg", lambda p: encoded(Image.fromarray(_grey(p)), "JPEG")),
    "cmyk.jpg": ("jpg", lambda p: encoded(Image.fromarray(_with_alpha(p), "CMYK"), "JPEG", quality=95)),
    "progressive.jpg": ("jpg", lambda p: encoded(Image.fromarray(p), "JPEG", progressive=True, subsampling=2)),
    "exif-rotated.jpg": ("jpg", _exif_rotated),
    "rgb.webp": ("webp", lambda p: encoded(Image.fromarray(p), "WEBP", quality=80)),
    "rgba.webp": ("webp", lambda p: encoded(Image.fromarray(_with_alpha(p)), "WEBP", lossless=True)),
    "animated.webp": ("webp", lambda p: _animation(p, "WEBP", lossless=True)),
    "animated-gif-inside.png": ("png", lambda p: _animation(p, "GIF")),  # content counts, not the extension
    "apng.png": ("png", lambda p: _animation(p, "PNG")),
    "rgb.bmp": ("bmp", lambda p: encoded(Image.fromarray(p), "BMP")),
    "grey.pgm": ("pgm", lambda p: encoded(Image.fromarray(_grey(p)), "PPM")),
    "rgb.ppm": ("ppm", lambda p: encoded(Image.fromarray(p), "PPM")),
}
"""name: (extension, maker of the file's bytes from uint8 [H, W, 3]) — one of everything the decoders treat apart."""


def write_kinds(folder: Path, pixels: NDArray[np.uint8]) -> dict[str, Path]:
    """One file of each of KINDS."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, (_, make) in KINDS.items():
        paths[name] = folder / name
        paths[name].write_bytes(make(pixels))
    return paths
