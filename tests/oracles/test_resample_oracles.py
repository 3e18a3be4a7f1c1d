"""The same pixels as the real packages' resizers, through the protocols' own settings.

``pytest -m oracle -s tests/oracles/test_resample_oracles.py`` prints the largest difference per package and size class.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tolerances
import torch
import torch.nn.functional as F
from tolerances import check

from fastfid import resize_normalize

pytestmark = pytest.mark.oracle

Reference = Callable[[str], ModuleType]
SIZES = [(32, 32), (64, 64), (256, 256), (299, 299), (512, 512), (1024, 1024), (37, 611), (300, 1), (2048, 1500)]
TO_NETWORK = 2.0 / 255.0
NETWORK_INPUT = 1e-6
"""In units of the network's input, −1…1: the packages round three times where fastfid rounds once (4e-7)."""


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def images(request: pytest.FixtureRequest) -> torch.Tensor:
    """Noise: the worst case for every filter. uint8 [1, H, W, 3]."""
    rng = np.random.default_rng(sum(request.param))
    return torch.from_numpy(rng.integers(0, 256, (1, *request.param, 3), dtype=np.uint8))


def same(got: torch.Tensor, want: torch.Tensor, bound: float, what: str) -> None:
    difference = (got.double() - want.double()).abs().max().item()
    sys.stdout.write(f"\n{what}: {difference:.1e}")
    check(got, want, absolute=bound, what=what)


def planar(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).contiguous()


def name(images: torch.Tensor, package: str) -> str:
    return f"{package} {images.shape[1]}x{images.shape[2]}"


def test_clean_fid(reference: Reference, images: torch.Tensor) -> None:
    resizer = reference("cleanfid.resize").build_resizer("clean")
    want = torch.from_numpy(resizer(images[0].numpy())).permute(2, 0, 1)[None]
    got = resize_normalize(images, (299, 299), filter="bicubic", a=-0.5, clamp=(0.0, 255.0))
    same(got, want, tolerances.RESAMPLE_TORCH, name(images, "clean-fid clean"))


def test_clean_fid_legacy_pytorch(reference: Reference, images: torch.Tensor) -> None:
    resizer = reference("cleanfid.resize").build_resizer("legacy_pytorch")
    want = torch.from_numpy(resizer(images[0].numpy())).permute(2, 0, 1)[None]
    got = resize_normalize(images, (299, 299), filter="bilinear", antialias=False, clamp=(0.0, 255.0))
    same(got, want, tolerances.RESAMPLE_TORCH, name(images, "clean-fid legacy_pytorch"))


@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "lanczos", "box", "nearest"])
def test_clean_fid_quantized(reference: Reference, images: torch.Tensor, filter: str) -> None:
    resizer = reference("cleanfid.resize").make_resizer("PIL", True, filter, (299, 299))
    want = resizer(images[0].numpy()).transpose(2, 0, 1)
    ours = "lanczos3" if filter == "lanczos" else filter
    got = resize_normalize(images, (299, 299), filter=ours, quantize=True, out_dtype=torch.uint8)
    assert np.array_equal(got[0], want)


def test_torch_fidelity(reference: Reference, images: torch.Tensor) -> None:
    module = reference("torch_fidelity.interpolate_compat_tensorflow")
    resize = module.interpolate_bilinear_2d_like_tensorflow1x
    want = resize(planar(images).float(), size=(299, 299), align_corners=False)
    options: dict[str, Any] = {"filter": "bilinear", "antialias": False, "coordinates": "tf1-legacy"}
    same(
        resize_normalize(images, (299, 299), **options), want, tolerances.RESAMPLE_TORCH, name(images, "torch-fidelity")
    )
    normalised = resize_normalize(images, (299, 299), scale=1 / 128, bias=-1.0, **options)
    same(normalised, (want - 128) / 128, NETWORK_INPUT, name(images, "torch-fidelity, network input"))


def test_torch_fidelity_upwards_to_224(reference: Reference, images: torch.Tensor) -> None:
    """Its CLIP and DINOv2 extractors use the same resize to 224."""
    module = reference("torch_fidelity.interpolate_compat_tensorflow")
    resize = module.interpolate_bilinear_2d_like_tensorflow1x
    want = resize(planar(images).float(), size=(224, 224), align_corners=False)
    got = resize_normalize(images, (224, 224), filter="bilinear", antialias=False, coordinates="tf1-legacy")
    same(got, want, tolerances.RESAMPLE_TORCH, name(images, "torch-fidelity 224"))


def test_pytorch_fid(reference: Reference, images: torch.Tensor) -> None:
    """Its network resizes x/255 and then maps to −1…1; the module itself is run with its layers taken out."""
    inception = reference("pytorch_fid.inception").InceptionV3
    network = inception.__new__(inception)
    torch.nn.Module.__init__(network)
    network.resize_input, network.normalize_input, network.last_needed_block, network.output_blocks = True, True, 0, [0]
    network.blocks = torch.nn.ModuleList([torch.nn.Identity()])
    (want,) = network.forward(planar(images).float() / 255)
    got = resize_normalize(images, (299, 299), filter="bilinear", antialias=False, scale=TO_NETWORK, bias=-1.0)
    same(got, want, NETWORK_INPUT, name(images, "pytorch-fid, network input"))


def test_torchmetrics(images: torch.Tensor) -> None:
    """torchmetrics 1.8 and later calls torch's interpolate with antialias=True (src/torchmetrics/image/fid.py)."""
    source = planar(images).float()
    want = F.interpolate(source, size=(299, 299), mode="bilinear", align_corners=False, antialias=True)
    got = resize_normalize(images, (299, 299), filter="bilinear", precision="single")
    same(got, want, tolerances.RESAMPLE_TORCH, name(images, "torchmetrics"))
