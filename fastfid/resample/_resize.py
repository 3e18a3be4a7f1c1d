"""The public resize: checks every argument once, makes the tables, calls one engine."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import PIL
import torch

from fastfid.resample._filters import (
    COORDINATES,
    FILTERS,
    PASSES,
    PRECISIONS,
    Rule,
    passes_of,
    table,
    vertical_first,
)
from fastfid.resample._ragged import RaggedImages
from fastfid.resample._request import Request
from fastfid.runtime import native as _native
from fastfid.runtime.checks import LONGEST, dense, real_number, whole_number
from fastfid.runtime.dispatch import function_for

Crop = str | tuple[int, int, int, int]
Box = tuple[float, float, float, float]
_OUT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


def resize_normalize(
    images: torch.Tensor | RaggedImages | Sequence[Any],
    size: tuple[int, int],
    *,
    filter: str = "bicubic",
    antialias: bool = True,
    a: float = -0.5,
    coordinates: str = "half-pixel",
    precision: Literal["auto", "single", "double"] = "auto",
    crop: Crop = "none",
    box: Box | None = None,
    clamp: tuple[float, float] | None = None,
    quantize: bool = False,
    passes: Literal["auto", "horizontal-first", "pillow-12.2", "pillow-13"] = "auto",
    scale: float | Sequence[float] = 1.0,
    bias: float | Sequence[float] = 0.0,
    out_channels: int | None = None,
    out_dtype: torch.dtype = torch.float32,
    input_layout: Literal["NHWC", "NCHW"] = "NHWC",
    layout: Literal["channels_last", "NCHW"] = "channels_last",
    out: torch.Tensor | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> torch.Tensor:
    """Resample a batch of images and apply one affine map per channel, in one pass over the pixels.

    With weight tables A_x, A_y (see ``fastfid/resample/_filters.py``):

        v = A_y · image · A_xᵀ,    out[:, c] = clamp(v[:, c]) · scale_c + bias_c

    Values stay on the input's own scale (0–255 for uint8) until the affine map. Which package a call equals is decided
    by its arguments alone:

    ===================================  ================================================================
    Pillow on mode "F", clean-fid        filter, antialias=True (clean-fid: bicubic, clamp=(0, 255))
    Pillow on 8-bit modes                filter, antialias=True, quantize=True
    torch ``interpolate``                "bilinear", antialias=False; "bicubic" with a=-0.75
    torch ``interpolate(antialias)``     antialias=True, precision="single"
    TensorFlow 1, torch-fidelity         "bilinear", antialias=False, coordinates="tf1-legacy"
    NVIDIA's Inception (StyleGAN, EDM)   "bilinear", antialias=False, coordinates="nvidia-grid"
    ===================================  ================================================================

    Args:
        images: uint8 or float32 [n, H, W, C] ([n, C, H, W] with ``input_layout="NCHW"``), any strides, or RaggedImages,
            or a list or tuple of uint8 arrays or CPU tensors [H, W, C] of any sizes, which RaggedImages.pack copies; C
            is 1, 3 or 4. Channels are independent: alpha is not premultiplied. Float pixels must be finite.
        size: output (height, width) in pixels.
        filter: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos3".
        antialias: widen the filter when shrinking, cut it at the border and normalise (as Pillow). Without it the
            filter is sampled as it is and the border pixel repeated (as torch and TensorFlow).
        a: the cubic's parameter; only "bicubic" reads it. Pillow uses -0.5, torch without antialias -0.75.
        coordinates: where output pixel i lies in the source, with s = in/out, pixel centres at whole numbers:
            "half-pixel" (i + ½)·s − ½; "tf1-legacy" i·s; "align-corners" i·(in − 1)/(out − 1); "nvidia-grid" i·s with
            the rounding of affine_grid and grid_sample. The last three know no antialias.
        precision: arithmetic of coordinates and weights: "double" as Pillow, "single" as torch and TensorFlow; "auto"
            is "double" with antialias and for Pillow's "nearest", else "single".
        crop: "none", "center" (the largest centred square, rounded towards the top left) or (top, left, height, width)
            in whole pixels. What is cut off is not seen by the filter.
        box: (left, upper, right, lower), the part of the (cropped) image to resize, in pixels and fractions, as
            Pillow's ``box``: the filter still sees pixels outside it.
        clamp: (low, high) for the resampled values, before the affine map.
        quantize: resample in Pillow's 8-bit fixed point, rounded to uint8 between and after the passes: every value
            equals Pillow's. Needs uint8 images and antialias (or "nearest"), a = -0.5.
        passes: the order of the passes, which shows in quantized values of tall images only. Pillow changed it:
            "horizontal-first" up to 12.1, "pillow-12.2", "pillow-13"; "auto" does as the installed Pillow does.
        scale, bias: a number, or one per output channel.
        out_channels: 3 repeats a single input channel three times; else the input's number.
        out_dtype: float32, float16, bfloat16, or uint8 (with quantize and neither scale nor bias).
        layout: memory format of the result.
        out: a tensor of the result's shape, dtype, device and layout to write into; a slice of a larger batch will do.
        backend: "cuda", "cpp" or "reference"; None chooses (``fastfid info`` shows what runs).
        num_threads: CPU threads; None is ``torch.get_num_threads()``, and one inside a DataLoader worker.

    Returns:
        [n, out_channels, height, width] of ``out_dtype`` on the images' device, in ``layout``. Not differentiable.

    Raises:
        ValueError, TypeError: an argument is not as described; the message names it.
        BackendUnavailableError: ``backend`` can't run here.

    Numerics:
        quantize: bit for bit Pillow (tests/test_resample_pillow.py). Otherwise within 1e-5 of the largest value of the
        float64 reference (4e-7 at the protocols' ratios; tests/test_resample.py), the same bits for every CPU, thread
        count, batch and layout. Within 1e-4 of the packages, of 255 (tests/oracles/test_resample_oracles.py).

    Source: see ``fastfid/resample/_filters.py``.
    """
    height, width = _size(size)
    rule = _rule(filter, antialias, a, coordinates, precision, quantize)
    base, geometry, channels = _geometry(images, input_layout)
    if quantize and base.dtype != torch.uint8:
        raise ValueError(f"quantize=True is Pillow's arithmetic on 8-bit images; images are {base.dtype}")
    channels = _repeat_channel(geometry, channels, out_channels)
    _apply_crop(geometry, crop)
    affine = _per_channel("scale", scale, channels), _per_channel("bias", bias, channels)
    _check_out_dtype(out_dtype, quantize, affine, clamp)
    result = _output(out, (len(geometry), channels, height, width), out_dtype, base.device, layout)
    tables, x, y = _tables(geometry, height, width, rule, box)  # behind the result: no table without memory for that
    if num_threads is None:
        num_threads = _native.default_threads()
    request = Request(
        base=base,
        images=geometry,
        channels=channels,
        tables=tables,
        x=x,
        y=y,
        out=result,
        quantize=quantize,
        clamp=_clamp(clamp),
        scale=affine[0],
        bias=affine[1],
        num_threads=whole_number("num_threads", num_threads, least=1, most=LONGEST),
    )
    run = function_for("resize_normalize", base.device.type, backend)
    _run(request, run, _vertical_first(geometry, height, width, passes) & quantize)
    return result


def _run(request: Request, run: Callable[[Request], None], vertical: npt.NDArray[np.bool_]) -> None:
    """One launch, or two where some images want the vertical pass first: those are run transposed."""
    if not vertical.any():
        if len(request.images):
            run(request)
        return
    _, channels, height, width = request.out.shape
    for turned in (False, True):
        index = np.nonzero(vertical == turned)[0]
        shape = (len(index), channels, width, height) if turned else (len(index), channels, height, width)
        part = replace(
            request,
            images=request.images[index][:, [0, 2, 1, 4, 3, 5]] if turned else request.images[index],
            x=(request.y if turned else request.x)[index],
            y=(request.x if turned else request.y)[index],
            out=torch.empty(shape, dtype=request.out.dtype, device=request.out.device),
        )
        if len(index):
            run(part)
            request.out[torch.from_numpy(index)] = part.out.transpose(2, 3) if turned else part.out


def _vertical_first(geometry: npt.NDArray[np.int64], height: int, width: int, passes: str) -> npt.NDArray[np.bool_]:
    _one_of("passes", passes, PASSES)
    if passes == "auto":
        passes = passes_of(PIL.__version__)
    return np.asarray(vertical_first(geometry[:, 1], geometry[:, 2], height, width, passes))


def _size(size: Any) -> tuple[int, int]:
    if not isinstance(size, Sequence) or len(size) != 2:
        raise TypeError(f"size must be (height, width), got {size!r}")
    names = ("size[0] (height)", "size[1] (width)")
    height, width = (whole_number(name, side, least=1, most=LONGEST) for name, side in zip(names, size, strict=True))
    return height, width


def _one_of(name: str, value: Any, accepted: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name}={value!r} is not known; accepted: {', '.join(accepted)}")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def _rule(filter: str, antialias: bool, a: float, coordinates: str, precision: str, quantize: bool) -> Rule:
    _one_of("filter", filter, FILTERS)
    _one_of("coordinates", coordinates, COORDINATES)
    _one_of("precision", precision, PRECISIONS)
    _flag("antialias", antialias)
    _flag("quantize", quantize)
    if not isinstance(a, (int, float)) or not -1.0 <= a <= 0.0:
        raise ValueError(f"a must be a number in [-1, 0], got {a!r}")
    nearest = filter == "nearest"
    if antialias and not nearest and coordinates != "half-pixel":
        raise ValueError(
            f"coordinates={coordinates!r} has no antialiased form; pass antialias=False or coordinates='half-pixel'"
        )
    pillow = coordinates == "half-pixel" and (antialias or nearest)
    chosen = ("double" if pillow else "single") if precision == "auto" else precision
    if quantize and not (pillow and chosen == "double" and (filter != "bicubic" or a == -0.5)):
        raise ValueError(
            "quantize=True is Pillow's arithmetic: it needs antialias=True (or filter='nearest'), "
            f"coordinates='half-pixel', precision 'auto' or 'double' and a=-0.5; got antialias={antialias}, "
            f"coordinates={coordinates!r}, precision={precision!r}, a={a}"
        )
    return Rule(filter, antialias, float(a) if filter == "bicubic" else 0.0, coordinates, chosen)


def _geometry(images: Any, input_layout: str) -> tuple[torch.Tensor, npt.NDArray[np.int64], int]:
    """The base tensor, (offset, height, width, stride_h, stride_w, stride_c) per image, and the channels."""
    _one_of("input_layout", input_layout, ("NHWC", "NCHW"))
    if isinstance(images, (list, tuple)):
        if input_layout != "NHWC":
            raise ValueError(f"input_layout={input_layout!r} is for a tensor; a list holds images [H, W, C]")
        images = RaggedImages.pack(images)
    if isinstance(images, RaggedImages):
        heights_widths = np.array(images.sizes, dtype=np.int64).reshape(-1, 2)
        geometry = np.empty((len(images), 6), dtype=np.int64)
        geometry[:, 0] = images.offsets
        geometry[:, 1:3] = heights_widths
        geometry[:, 3] = heights_widths[:, 1] * images.channels
        geometry[:, 4], geometry[:, 5] = images.channels, 1
        return images.pixels, geometry, images.channels
    if not isinstance(images, torch.Tensor):
        raise TypeError(
            f"images must be a tensor, RaggedImages, or a list of uint8 images [H, W, C], got {type(images).__name__}"
        )
    dense("images", images)
    if images.ndim != 4:
        raise ValueError(f"images must have 4 dimensions ({input_layout}), got {list(images.shape)}")
    if images.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"images must be uint8 or float32, got {images.dtype}")
    if images.requires_grad:
        raise ValueError("images requires a gradient, but resize_normalize is not differentiable; pass .detach()")
    view = images if input_layout == "NHWC" else images.permute(0, 2, 3, 1)
    n, height, width, channels = view.shape
    if channels not in (1, 3, 4):
        raise ValueError(
            f"images must have 1, 3 or 4 channels, got {channels} in {list(images.shape)} as {input_layout}; "
            "is input_layout right?"
        )
    if height < 1 or width < 1:
        raise ValueError(f"images have no pixels: {list(images.shape)}")
    if height > LONGEST or width > LONGEST:
        raise ValueError(f"images must have at most {LONGEST} rows and columns, got {list(images.shape)}")
    geometry = np.empty((n, 6), dtype=np.int64)
    geometry[:, 0] = np.arange(n, dtype=np.int64) * view.stride(0)
    geometry[:, 1:] = (height, width, view.stride(1), view.stride(2), view.stride(3))
    return images, geometry, channels


def _repeat_channel(geometry: npt.NDArray[np.int64], channels: int, out_channels: int | None) -> int:
    if out_channels is None or whole_number("out_channels", out_channels, least=1) == channels:
        return channels
    if channels != 1 or out_channels != 3:
        raise ValueError(f"out_channels={out_channels!r} cannot be made of {channels}; only 1 channel can become 3")
    geometry[:, 5] = 0
    return 3


def _apply_crop(geometry: npt.NDArray[np.int64], crop: Any) -> None:
    """Move offsets and sizes to the part that is kept."""
    named = crop if isinstance(crop, str) else None
    if named == "none":
        return
    heights, widths = geometry[:, 1].copy(), geometry[:, 2].copy()
    if named == "center":
        side = np.minimum(heights, widths)
        top, left, height, width = (heights - side) // 2, (widths - side) // 2, side, side
    elif named is None and isinstance(crop, Sequence) and len(crop) == 4:
        least = {"top": 0, "left": 0, "height": 1, "width": 1}
        numbers = [
            whole_number(f"crop ({name})", v, least=least[name], most=LONGEST)
            for name, v in zip(least, crop, strict=True)
        ]
        top, left, height, width = (np.full(len(geometry), number, dtype=np.int64) for number in numbers)
        wrong = (top > heights - height) | (left > widths - width)
        if wrong.any():
            first = int(np.nonzero(wrong)[0][0])
            raise ValueError(
                f"crop={tuple(crop)!r} reaches outside image {first} of {heights[first]}×{widths[first]} pixels"
            )
    else:
        raise ValueError(f"crop={crop!r} is not known; accepted: none, center, or (top, left, height, width)")
    geometry[:, 0] += top * geometry[:, 3] + left * geometry[:, 4]
    geometry[:, 1], geometry[:, 2] = height, width


def _tables(
    geometry: npt.NDArray[np.int64], height: int, width: int, rule: Rule, box: Any
) -> tuple[tuple[Any, ...], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The distinct tables and, per image, which of them serve x and y."""
    if box is not None:
        if not isinstance(box, Sequence) or len(box) != 4 or not all(_is_finite(v) for v in box):
            raise ValueError(f"box must be four finite numbers (left, upper, right, lower), got {box!r}")
        if rule.coordinates != "half-pixel" or rule.precision != "double":
            raise ValueError(
                "box is Pillow's: it needs coordinates='half-pixel' and double precision, got "
                f"coordinates={rule.coordinates!r}, precision={rule.precision!r}"
            )
    numbers: dict[tuple[int, int, float, float], int] = {}

    def number(source: int, out: int, low: float, high: float) -> int:
        if not (0 <= low < high <= source):
            raise ValueError(f"box={tuple(box)!r} does not lie within an image with an axis of {source} pixels")
        return numbers.setdefault((source, out, low, high), len(numbers))

    sizes, inverse = _distinct_sizes(geometry)
    x_of, y_of = np.empty(len(sizes), dtype=np.int64), np.empty(len(sizes), dtype=np.int64)
    for i, (rows, columns) in enumerate(sizes):
        # single precision, as in Pillow
        left, upper, right, lower = (float(np.float32(v)) for v in ((0, 0, columns, rows) if box is None else box))
        x_of[i] = number(columns, width, left, right)
        y_of[i] = number(rows, height, upper, lower)
    return tuple(table(*key, rule) for key in numbers), x_of[inverse], y_of[inverse]


def _distinct_sizes(geometry: npt.NDArray[np.int64]) -> tuple[list[list[int]], npt.NDArray[np.int64]]:
    """Every (height, width) that occurs, and per image which of them it has."""
    keys = geometry[:, 1] << 32 | geometry[:, 2]
    if len(keys) and (keys == keys[0]).all():
        return [geometry[0, 1:3].tolist()], np.zeros(len(keys), dtype=np.int64)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return geometry[first, 1:3].tolist(), inverse


def _per_channel(name: str, value: Any, channels: int) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * channels
    if len(values) != channels:
        raise ValueError(f"{name} must be a number or {channels} numbers, one per output channel; got {value!r}")
    if not all(_is_finite(v) for v in values):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return tuple(float(v) for v in values)


def _clamp(clamp: Any) -> tuple[float, float]:
    if clamp is None:
        return (-math.inf, math.inf)
    if not isinstance(clamp, Sequence) or isinstance(clamp, str) or len(clamp) != 2:
        raise ValueError(f"clamp must be (low, high) with low ≤ high, got {clamp!r}")
    low, high = real_number("clamp (low)", clamp[0]), real_number("clamp (high)", clamp[1])
    if low > high:
        raise ValueError(f"clamp must be (low, high) with low ≤ high, got {clamp!r}")
    return (low, high)


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that single precision can hold."""
    try:
        return bool(abs(real_number("value", value)) <= float(np.finfo(np.float32).max))
    except (TypeError, ValueError):
        return False


def _check_out_dtype(out_dtype: Any, quantize: bool, affine: tuple[tuple[float, ...], ...], clamp: Any) -> None:
    if not isinstance(out_dtype, torch.dtype) or out_dtype not in _OUT_DTYPES:
        raise ValueError(f"out_dtype must be one of {', '.join(map(str, _OUT_DTYPES))}; got {out_dtype!r}")
    plain = all(v == 1.0 for v in affine[0]) and all(v == 0.0 for v in affine[1]) and clamp is None
    if out_dtype == torch.uint8 and not (quantize and plain):
        raise ValueError("out_dtype=torch.uint8 needs quantize=True and neither scale, bias nor clamp")


def _output(out: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, layout: str) -> torch.Tensor:
    """A new tensor, or ``out`` once it has been checked."""
    _one_of("layout", layout, ("channels_last", "NCHW"))
    n, channels, height, width = shape
    if out is None and n * channels * height * width * dtype.itemsize > sys.maxsize:
        raise ValueError(f"size={(height, width)}: {n} such images have more bytes than there are addresses")
    if out is None:
        if layout == "NCHW":
            return torch.empty(shape, dtype=dtype, device=device)
        return torch.empty((n, height, width, channels), dtype=dtype, device=device).permute(0, 3, 1, 2)
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out must be a tensor, got {type(out).__name__}")
    if tuple(out.shape) != shape or out.dtype != dtype or out.device != device:
        raise ValueError(
            f"out must be {dtype} {list(shape)} on {device}, got {out.dtype} {list(out.shape)} on {out.device}"
        )
    dense = out if layout == "NCHW" else out.permute(0, 2, 3, 1)
    if n and not dense[0].is_contiguous():
        raise ValueError(f"out must be dense in {layout} within each image, got strides {tuple(out.stride())}")
    if n > 1 and out.stride(0) < channels * height * width:
        raise ValueError(f"the images of out overlap: stride {out.stride(0)} for {channels * height * width} values")
    return out
