"""resize_normalize against torch, which computes its own weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tolerances
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from test_resample import pixels
from tolerances import check

from fastfid import resize_normalize
from fastfid.resample._filters import Rule, table


def matrix(size: int, out: int, **options: Any) -> NDArray[np.float32]:
    """The weights that torch's interpolate uses along one axis, float32 [out, size]."""
    basis = torch.eye(size).view(size, 1, 1, size)
    return F.interpolate(basis, size=(1, out), align_corners=False, **options)[:, 0, 0].T.numpy()


def coordinate_rounding(size: int) -> float:
    """What a source coordinate is off by where the compiler of this torch did not fuse its multiply-add (2.6 to 2.9).

    It is below the size, and rounded once more.
    """
    return float(np.spacing(np.float32(size - 0.5))) / 2.0


FUSED = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 10)


@pytest.mark.parametrize("out", [299, 64, 2])
@pytest.mark.parametrize("size", [3, 32, 64, 256, 512, 611, 1024])
def test_single_precision_weights_are_those_of_torch(size: int, out: int) -> None:
    def ours(filter: str, antialias: bool, a: float) -> NDArray[np.float64]:
        return table(size, out, 0.0, float(size), Rule(filter, antialias, a, "half-pixel", "single")).dense()

    rounding = max(tolerances.RESAMPLE_WEIGHTS * max(size / out, 1.0), coordinate_rounding(size))
    check(ours("bilinear", False, 0.0), matrix(size, out, mode="bilinear"), absolute=rounding, what="bilinear")
    check(ours("bilinear", True, 0.0), matrix(size, out, mode="bilinear", antialias=True), absolute=rounding, what="AA")
    check(ours("bicubic", False, -0.75), matrix(size, out, mode="bicubic"), absolute=rounding, what="bicubic")
    check(ours("bicubic", True, -0.5), matrix(size, out, mode="bicubic", antialias=True), absolute=rounding, what="AA")


TORCH: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "bilinear": (
        {"filter": "bilinear", "antialias": False},
        {"mode": "bilinear", "align_corners": False},
        tolerances.RESAMPLE_TORCH,
    ),
    "bilinear-antialias": (
        {"filter": "bilinear", "precision": "single"},
        {"mode": "bilinear", "align_corners": False, "antialias": True},
        tolerances.RESAMPLE_TORCH,
    ),
    "bilinear-align-corners": (
        {"filter": "bilinear", "antialias": False, "coordinates": "align-corners"},
        {"mode": "bilinear", "align_corners": True},
        tolerances.RESAMPLE_TORCH,
    ),
    "bicubic": (
        {"filter": "bicubic", "antialias": False, "a": -0.75},
        {"mode": "bicubic", "align_corners": False},
        tolerances.RESAMPLE_TORCH_CUBIC,
    ),
    "bicubic-antialias": (
        {"filter": "bicubic", "precision": "single"},
        {"mode": "bicubic", "align_corners": False, "antialias": True},
        tolerances.RESAMPLE_TORCH,
    ),
    "nearest": ({"filter": "nearest", "coordinates": "tf1-legacy"}, {"mode": "nearest"}, 0.0),
    "nearest-exact": ({"filter": "nearest", "precision": "single"}, {"mode": "nearest-exact"}, 0.0),
}


@pytest.mark.parametrize("case", TORCH)
@pytest.mark.parametrize("source", [(32, 32), (64, 64), (256, 256), (299, 299), (512, 512), (1024, 1024), (37, 611)])
def test_equals_interpolate(source: tuple[int, int], case: str, rng: np.random.Generator) -> None:
    ours, theirs, bound = TORCH[case]
    images = pixels(rng, 1, source)
    got = resize_normalize(images, (299, 299), **ours)
    want = F.interpolate(images.permute(0, 3, 1, 2).contiguous().float(), size=(299, 299), **theirs)
    if case == "bilinear" and not FUSED:  # neighbouring pixels differ by at most 255
        bound += 255.0 * sum(map(coordinate_rounding, source))
    check(got, want, absolute=bound, what=case)


def test_nvidia_grid_is_affine_grid_with_grid_sample(rng: np.random.Generator) -> None:
    """The in-network resize of NVIDIA's Inception file: identity plus a shift of 1/in − 1/out, border padding."""
    for height, width in ((32, 32), (256, 256), (1024, 1024), (37, 611), (299, 299)):
        images = pixels(rng, 1, (height, width))
        theta = torch.eye(2, 3)
        theta[0, 2] += theta[0, 0] / width - theta[0, 0] / 299
        theta[1, 2] += theta[1, 1] / height - theta[1, 1] / 299
        grid = F.affine_grid(theta[None], [1, 3, 299, 299], align_corners=False)
        source = images.permute(0, 3, 1, 2).float()
        want = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
        got = resize_normalize(images, (299, 299), filter="bilinear", antialias=False, coordinates="nvidia-grid")
        check(got, want, absolute=tolerances.RESAMPLE_TORCH, what=f"{height}x{width}")
