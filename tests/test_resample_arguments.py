"""One test per refused argument of resize_normalize and RaggedImages: the message names it and what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastfid import RaggedImages, resize_normalize
from fastfid.errors import BackendUnavailableError

IMAGES = torch.zeros(2, 8, 9, 3, dtype=torch.uint8)

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "images is an array": ({"images": IMAGES.numpy()}, TypeError, "a tensor, RaggedImages, or a list .* got ndarray"),
    "images is a list of batches": ({"images": [IMAGES]}, ValueError, r"images\[0\] must be uint8 \[height, width"),
    "images is a list of floats": ({"images": [IMAGES[0].float()]}, ValueError, r"images\[0\] must be .* got float32"),
    "images is a list, NCHW": ({"images": [IMAGES[0]], "input_layout": "NCHW"}, ValueError, "is for a tensor"),
    "images has 3 dimensions": ({"images": IMAGES[0]}, ValueError, r"images must have 4 dimensions .*\[8, 9, 3\]"),
    "images is int64": ({"images": IMAGES.long()}, ValueError, "images must be uint8 or float32, got torch.int64"),
    "images has 5 channels": ({"images": torch.zeros(1, 8, 8, 5)}, ValueError, "1, 3 or 4 channels, got 5"),
    "images is sparse": ({"images": IMAGES.to_sparse()}, TypeError, "images: sparse_coo tensor; accepted: dense"),
    "images is on meta": ({"images": IMAGES.to("meta")}, TypeError, "images: meta tensor; accepted: dense"),
    "images is NCHW": ({"images": IMAGES.permute(0, 3, 1, 2)}, ValueError, "got 9 in .* is input_layout right"),
    "images has no rows": ({"images": IMAGES[:, :0]}, ValueError, "images have no pixels"),
    "images wants a gradient": (
        {"images": torch.zeros(1, 8, 8, 3, requires_grad=True)},
        ValueError,
        "not differentiable",
    ),
    "size is a number": ({"size": 299}, TypeError, r"size must be \(height, width\), got 299"),
    "size has a zero": ({"size": (0, 299)}, ValueError, r"size\[0\] \(height\) must be at least 1, got 0"),
    "size has a fraction": ({"size": (299, 1.5)}, TypeError, r"size\[1\] \(width\) must be a whole number"),
    "filter": ({"filter": "cubic"}, ValueError, "filter='cubic' is not known; accepted: nearest, box"),
    **{
        f"{name} {kind}": ({name: value}, ValueError, f"^{name}=.* is not known; accepted")
        for name in ("filter", "coordinates", "precision", "passes", "layout", "input_layout")
        for kind, value in (("array", np.array(["box", "auto"])), ("list", ["auto"]), ("None", None), ("bytes", b"box"))
    },
    "antialias": ({"antialias": 1}, TypeError, "antialias must be True or False, got 1"),
    "a": ({"a": 0.5}, ValueError, r"a must be a number in \[-1, 0\], got 0.5"),
    "coordinates": ({"coordinates": "tf2"}, ValueError, "coordinates='tf2' is not known"),
    "coordinates with antialias": ({"coordinates": "tf1-legacy"}, ValueError, "no antialiased form"),
    "precision": ({"precision": "half"}, ValueError, "precision='half' is not known"),
    "crop word": ({"crop": "middle"}, ValueError, "crop='middle' is not known"),
    "crop array": ({"crop": np.array(["none", "center"])}, ValueError, "crop=array.* is not known"),
    "crop outside": ({"crop": (0, 0, 9, 9)}, ValueError, "reaches outside image 0 of 8×9 pixels"),
    "crop negative": ({"crop": (-1, 0, 4, 4)}, ValueError, r"crop \(top\) must be at least 0, got -1"),
    "crop empty": ({"crop": (0, 0, 4, 0)}, ValueError, r"crop \(width\) must be at least 1, got 0"),
    "box of three": ({"box": (0, 0, 4)}, ValueError, "box must be four finite numbers"),
    "box with NaN": ({"box": (0, 0, float("nan"), 4)}, ValueError, "box must be four finite numbers"),
    "box outside": ({"box": (0, 0, 9.5, 8)}, ValueError, "does not lie within an image with an axis of 9"),
    "box empty": ({"box": (3, 0, 3, 8)}, ValueError, "does not lie within"),
    "box with single precision": ({"box": (0, 0, 4, 4), "antialias": False}, ValueError, "box is Pillow's"),
    "clamp reversed": ({"clamp": (255, 0)}, ValueError, "clamp must be .*low ≤ high"),
    "clamp NaN": ({"clamp": (float("nan"), 1.0)}, ValueError, r"clamp \(low\) must be a number, got nan"),
    "clamp a number": ({"clamp": 255}, ValueError, "clamp must be"),
    "quantize": ({"quantize": 1}, TypeError, "quantize must be True or False"),
    "quantize floats": ({"images": IMAGES.float(), "quantize": True}, ValueError, "images are torch.float32"),
    "quantize without antialias": ({"quantize": True, "antialias": False}, ValueError, "quantize=True is Pillow's"),
    "quantize with another a": ({"quantize": True, "a": -0.75}, ValueError, "a=-0.5; got .* a=-0.75"),
    "quantize in single": ({"quantize": True, "precision": "single"}, ValueError, "precision='single'"),
    "passes": ({"passes": "vertical"}, ValueError, "passes='vertical' is not known"),
    "scale of two": ({"scale": (1.0, 2.0)}, ValueError, "scale must be a number or 3 numbers"),
    "scale infinite": ({"scale": float("inf")}, ValueError, "scale must be finite"),
    "bias a word": ({"bias": "0"}, ValueError, "bias must be"),
    "out_channels": ({"out_channels": 4}, ValueError, "out_channels=4 cannot be made of 3"),
    "out_dtype": ({"out_dtype": torch.float64}, ValueError, "out_dtype must be one of .* got torch.float64"),
    "out_dtype array": ({"out_dtype": np.array(["a", "b"])}, ValueError, "out_dtype must be one of"),
    "uint8 of floats": ({"out_dtype": torch.uint8}, ValueError, "needs quantize=True"),
    "uint8 with scale": ({"out_dtype": torch.uint8, "quantize": True, "scale": 2.0}, ValueError, "neither scale"),
    "input_layout": ({"input_layout": "HWC"}, ValueError, "input_layout='HWC' is not known"),
    "layout": ({"layout": "NHWC"}, ValueError, "layout='NHWC' is not known; accepted: channels_last, NCHW"),
    "out a list": ({"out": []}, TypeError, "out must be a tensor, got list"),
    "out of another shape": ({"out": torch.empty(2, 3, 5, 5)}, ValueError, r"out must be .*\[2, 3, 6, 7\]"),
    "out of another dtype": ({"out": torch.empty(2, 3, 6, 7).half()}, ValueError, "got torch.float16"),
    "out of the other layout": ({"out": torch.empty(2, 3, 6, 7)}, ValueError, "dense in channels_last"),
    "out overlapping": (
        {"out": torch.empty(1, 6, 7, 3).permute(0, 3, 1, 2).expand(2, -1, -1, -1)},
        ValueError,
        "images of out overlap: stride 0",
    ),
    "backend unknown": ({"backend": "magic"}, ValueError, "backend='magic' is not a backend of resize_normalize"),
    "backend empty": ({"backend": ""}, ValueError, "backend='' is not a backend of resize_normalize"),
    "backend array": ({"backend": np.array(["auto", "cpp"])}, ValueError, "is not a backend of resize_normalize"),
    "backend list": ({"backend": ["auto"]}, ValueError, r"backend=\['auto'\] is not a backend of resize_normalize"),
    "backend impossible": ({"backend": "cuda"}, BackendUnavailableError, "works on CUDA tensors, not on cpu"),
    "num_threads is a bool": ({"num_threads": True}, TypeError, "num_threads must be a whole number, got bool True"),
    "num_threads": ({"num_threads": 0}, ValueError, "num_threads must be at least 1, got 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    changes, kind, message = REFUSED[name]
    arguments = {"images": IMAGES, "size": (6, 7)} | changes
    with pytest.raises(kind, match=message):
        resize_normalize(arguments.pop("images"), arguments.pop("size"), **arguments)


def array(*shape: int) -> Any:
    return np.zeros(shape, dtype=np.uint8)


def test_pack_refuses() -> None:
    with pytest.raises(ValueError, match=r"images\[1\] has 1 channels, images\[0\] has 3"):
        RaggedImages.pack([array(4, 5, 3), array(4, 5)])
    with pytest.raises(ValueError, match=r"images\[0\] must be uint8 .* got float64 \[4, 5, 3\]"):
        RaggedImages.pack([np.zeros((4, 5, 3))])
    with pytest.raises(ValueError, match="every height and width must be at least 1"):
        RaggedImages.pack([array(0, 5, 3)])
    with pytest.raises(ValueError, match="channels must be 1, 3 or 4, got 2"):
        RaggedImages.pack([array(4, 5, 2)])


def test_ragged_images_refuse() -> None:
    flat = torch.zeros(60, dtype=torch.uint8)
    with pytest.raises(ValueError, match="pixels has 60 values, the sizes ask for 75"):
        RaggedImages(flat, ((5, 5),), 3)
    with pytest.raises(ValueError, match=r"pixels must be a flat uint8 tensor, got torch\.float32"):
        RaggedImages(flat.float(), ((4, 5),), 3)
    with pytest.raises(ValueError, match="pixels must be a flat uint8 tensor, got a list"):
        RaggedImages([1, 2, 3], ((1, 1),), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pixels must be contiguous"):
        RaggedImages(torch.zeros(120, dtype=torch.uint8)[::2], ((4, 5),), 3)


def test_ragged_images_hold_what_was_packed(rng: np.random.Generator) -> None:
    arrays = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((3, 4, 3), (1, 1, 3), (5, 2, 3))]
    frozen = arrays[1].copy()
    frozen.flags.writeable = False  # as Pillow's arrays are
    ragged = RaggedImages.pack([torch.from_numpy(arrays[0]), frozen, arrays[2][::-1]])
    assert len(ragged) == 3
    assert ragged.sizes == ((3, 4), (1, 1), (5, 2))
    assert ragged.offsets == (0, 36, 39)
    assert np.array_equal(ragged[0], arrays[0])
    assert np.array_equal(ragged[2], arrays[2][::-1])
    assert np.array_equal(ragged[-1], arrays[2][::-1])
    assert ragged[1].data_ptr() == ragged.pixels[36:].data_ptr()
    assert ragged.to("cpu").pixels.data_ptr() == ragged.pixels.data_ptr()
    with pytest.raises(IndexError):
        _ = ragged[3]
