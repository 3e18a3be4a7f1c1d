"""What one image file becomes: values worked out by hand, for every kind of file that decoders treat apart."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from images import KINDS, encoded, photo, png, rgb16_png
from PIL import Image

from fastfid.errors import BadImageError
from fastfid.sources import Decode, base
from fastfid.sources.decode import decode_image


def decoded(content: bytes, name: str = "x.png") -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no Pillow warning may reach the user
        return decode_image(io.BytesIO(content), name, "set")[0]


def test_rgb_png_is_exact() -> None:
    pixels = photo(1)
    np.testing.assert_array_equal(decoded(png(pixels)), pixels)


def test_greyscale_repeats_its_channel() -> None:
    grey = np.array([[0, 1, 128, 255]], np.uint8)
    np.testing.assert_array_equal(decoded(png(grey)), np.stack([grey] * 3, axis=-1))


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.fromarray(np.array([[255, 0, 0]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decoded(encoded(image, "PNG"))[0, :, 0], [255, 0, 0])


@pytest.mark.parametrize(
    "transparency", [None, 1, bytes([0, 128, 255])], ids=["opaque", "one-colour", "alpha-per-entry"]
)
def test_palette_is_looked_up_and_its_transparency_dropped(transparency: object) -> None:
    image = Image.fromarray(np.array([[2, 0, 1]], np.uint8), "P")
    image.putpalette([1, 2, 3, 40, 50, 60, 255, 0, 7])
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decoded(encoded(image, "PNG", **options)), [[[255, 0, 7], [1, 2, 3], [40, 50, 60]]])


def test_alpha_is_dropped_not_composited() -> None:
    rgba = np.array([[[10, 20, 30, 0], [200, 100, 50, 128]]], np.uint8)
    np.testing.assert_array_equal(decoded(png(rgba)), rgba[:, :, :3])
    la = encoded(Image.fromarray(np.array([[[10, 0], [200, 128]]], np.uint8), "LA"), "PNG")
    np.testing.assert_array_equal(decoded(la), [[[10] * 3, [200] * 3]])


def test_transparent_colour_of_rgb_is_dropped() -> None:
    pixels = np.array([[[9, 9, 9], [8, 9, 9]]], np.uint8)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(pixels), "PNG", transparency=(9, 9, 9))), pixels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_wide_greyscale_is_clipped_at_255(kind: str) -> None:
    wide = np.array([[0, 255, 256, 1000, 32768, 65535]], np.uint16)
    content = encoded(Image.fromarray(wide), kind)
    np.testing.assert_array_equal(decoded(content, "x.tiff")[0, :, 0], [0, 255, 255, 255, 255, 255])


def test_float_greyscale_is_clipped_and_cut() -> None:
    content = encoded(Image.fromarray(np.array([[-5, 0.5, 128.7, 300]], np.float32)), "TIFF")
    np.testing.assert_array_equal(decoded(content, "x.tiff")[0, :, 2], [0, 0, 128, 255])


def test_rgb16_keeps_the_high_byte() -> None:
    pixels = np.array([[[0, 255, 256], [0x1234, 0xABCD, 0xFFFF]]], np.uint16)
    np.testing.assert_array_equal(decoded(rgb16_png(pixels)), [[[0, 0, 1], [0x12, 0xAB, 0xFF]]])


def test_cmyk_is_multiplied_out() -> None:
    cmyk = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 128, 0, 64], [255, 255, 255, 255]]], np.uint8)
    content = encoded(Image.fromarray(cmyk, "CMYK"), "TIFF")
    # (255 − C)(255 − K)/255, rounded: (127 · 191)/255 = 95.1
    want = [[[255, 255, 255], [0, 255, 255], [191, 95, 191], [0, 0, 0]]]
    np.testing.assert_array_equal(decoded(content, "x.tif"), want)


def test_cmyk_jpeg_is_not_inverted() -> None:
    """Adobe stores CMYK JPEGs inverted; Pillow writes and reads them so, and a red patch stays red."""
    red = np.zeros((16, 16, 4), np.uint8)
    red[..., 1:3] = 255  # full magenta and yellow
    rgb = decoded(encoded(Image.fromarray(red, "CMYK"), "JPEG", quality=100), "x.jpg")
    assert np.abs(rgb.astype(int) - [255, 0, 0]).max() <= 2


def test_exif_orientation_is_ignored() -> None:
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :8, 0] = 255  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = decoded(encoded(Image.fromarray(wide), "JPEG", quality=100, subsampling=0, exif=exif.tobytes()), "x.jpg")
    assert rgb.shape == (8, 16, 3)
    assert np.abs(rgb.astype(int) - wide).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decoded(content), np.broadcast_to(np.array([255, 0, 0], np.uint8), (4, 5, 3)))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_uint8_rgb_and_no_warning(name: str) -> None:
    pixels = decoded(KINDS[name][1](photo(3)), name)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (24, 32, 3)
    assert pixels.std() > 5  # something is on it


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (611, 1)])
def test_thin_images(shape: tuple[int, int]) -> None:
    pixels = photo(5, *shape)
    np.testing.assert_array_equal(decoded(png(pixels)), pixels)


def test_npy_image() -> None:
    def stored(array: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array)
        return stream.getvalue()

    pixels = photo(2)
    np.testing.assert_array_equal(decoded(stored(pixels), "a.npy"), pixels)
    np.testing.assert_array_equal(decoded(stored(np.asfortranarray(pixels)), "a.NPY"), pixels)
    np.testing.assert_array_equal(decoded(stored(np.dstack([pixels, pixels[..., 0]])), "a.npy"), pixels)
    np.testing.assert_array_equal(decoded(stored(pixels[..., 0]), "a.npy"), np.stack([pixels[..., 0]] * 3, axis=-1))
    for wrong, reason in (
        (pixels / 255, "holds float64"),
        (pixels[None], r"shape \[1, 24, 32, 3\]"),
        (pixels[..., :2], r"shape \[24, 32, 2\]"),
        (np.array([{}], dtype=object), "holds pickled Python objects"),
    ):
        with pytest.raises(BadImageError, match=reason):
            decoded(stored(wrong), "a.npy")
    with pytest.raises(BadImageError, match=r"a\.npy"):
        decoded(stored(pixels)[:-5], "a.npy")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_a_truncated_file_is_named(kind: str, share: float) -> None:
    content = encoded(Image.fromarray(photo(4, 64, 64)), kind)
    with pytest.raises(BadImageError, match=r"cannot read image 'cut\.img' in set: .+\. Remove or repair"):
        decoded(content[: int(len(content) * share)], "cut.img")


def test_a_damaged_png_is_named() -> None:
    content = bytearray(png(photo(4, 64, 64)))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(BadImageError, match=r"broken\.png"):
        decoded(bytes(content), "broken.png")


def test_reasons_are_readable(tmp_path: Path) -> None:
    with pytest.raises(BadImageError) as empty:
        decoded(b"", "empty.png")
    assert empty.value.reason == "the file is empty"
    with pytest.raises(BadImageError) as text:
        decoded(b"this is no image", "notes.png")
    assert text.value.reason.startswith("not an image")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(BadImageError) as link:
        decode_image(tmp_path / "link.png", "link.png", "set")
    assert link.value.reason == "a symbolic link to a file that does not exist"
    with pytest.raises(BadImageError) as folder:
        decode_image(tmp_path, "folder.png", "set")
    assert folder.value.reason == "is a directory"
    copy = pickle.loads(pickle.dumps(link.value))
    assert (str(copy), copy.name, copy.reason) == (str(link.value), "link.png", link.value.reason)


def test_trouble_of_the_machine_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(OSError, match="Too many open files") as error:
        decoded(png(photo(0)))
    assert not isinstance(error.value, BadImageError)


def test_pillows_pixel_limit_is_set_aside_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # 24 × 32 is 38 times more: Pillow alone would refuse
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(png(photo(0))))
    np.testing.assert_array_equal(decoded(png(photo(0))), photo(0))
    assert Image.MAX_IMAGE_PIXELS == 10


def test_our_pixel_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_PIXELS", 24 * 32 - 1)
    with pytest.raises(BadImageError, match=r"\(768 pixels\) exceeds limit of 767 pixels"):
        decoded(png(photo(0)))


@pytest.mark.slow
def test_16384_squared_is_read() -> None:
    pixels = np.zeros((16384, 16384), np.uint8)
    pixels[-1, -1] = 7
    rgb = decoded(png(pixels))
    assert rgb.shape == (16384, 16384, 3)
    assert rgb[-1, -1].tolist() == [7, 7, 7]
    assert not rgb[:-1].any()


def test_decode_is_checked() -> None:
    with pytest.raises(ValueError, match="lower case without a dot"):
        Decode(extensions=frozenset({".png"}))
    with pytest.raises(ValueError, match="lower case without a dot"):
        Decode(extensions=frozenset({"PNG"}))
    with pytest.raises(ValueError, match="convert"):
        Decode(convert="L")  # type: ignore[arg-type]


def test_decode_accepts_by_extension_in_any_case() -> None:
    plain = Decode()
    for name in ("a.png", "A.PNG", "b.JpEg", "x/y.z/c.tif", "d.e.webp"):
        assert plain.accepts(name), name
    for name in ("a.gif", "png", ".png", "a.png.txt", "a.npy", "x.png/readme"):
        assert not plain.accepts(name), name
    assert Decode(npy_files=True).accepts("a.NPY")
    assert Decode(extensions=frozenset({"gif"})).accepts("a.gif")
