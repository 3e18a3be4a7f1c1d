"""Microbenchmarks of every kernel, each after an assertion that its result is right.

    pytest bench/test_micro.py --benchmark-only [-k resize] [--benchmark-json FILE]

On a GPU every case also runs there: the timed call then ends with a synchronisation, so launch costs are part of it;
``bench/run.py`` has the device's own times. Not among the default tests: timing needs a quiet machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastfid
from fastfid import RaggedImages, resize_normalize
from fastfid.extractors import InceptionV3, inception_extractor, load_weights
from fastfid.runtime.dispatch import function_for, report

pytest.importorskip("pytest_benchmark")
pytestmark = pytest.mark.benchmark(min_rounds=3, max_time=0.5, warmup=False)
Benchmark = Any

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
each_device = pytest.mark.parametrize("device", DEVICES)
OUT = (299, 299)


def timed(benchmark: Benchmark, device: str, run: Callable[[], object]) -> None:
    """Time a call until the device is done."""

    def whole() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark(whole)


def near(got: object, want: object, bound: float) -> None:
    """max|got − want| ≤ bound · max|want|; NaN fails."""
    g, w = (torch.as_tensor(x, dtype=torch.float64).cpu() for x in (got, want))
    assert g.shape == w.shape
    error, scale = (g - w).abs().max().item(), w.abs().max().item()
    assert error <= bound * scale, f"differs by {error:.2e} at a scale of {scale:.2e}; nothing was timed"


# ── resize ────────────────────────────────────────────────────────────────────────────────────────────────────────────

CONTRACTS: dict[str, dict[str, Any]] = {
    name: {
        "filter": one.resize.filter,
        "antialias": one.resize.antialias,
        "a": one.resize.a,
        "coordinates": one.resize.coordinates,
        "precision": one.resize.precision,
        "clamp": one.resize.clamp,
        "quantize": one.resize.quantize,
        "scale": one.normalize.scale,
        "bias": one.normalize.bias,
    }
    for name, one in fastfid.PROTOCOLS.items()
    if one.pre_resize is None and one.resize.size == OUT
}
"""Every different resize and normalisation among the protocols, by the name of the first that has it."""
CONTRACTS = {name: c for i, (name, c) in enumerate(CONTRACTS.items()) if c not in list(CONTRACTS.values())[:i]}


@lru_cache(maxsize=4)
def pixels(n: int, side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(side).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


@each_device
@pytest.mark.parametrize("side", [32, 256, 1024])
@pytest.mark.parametrize("contract", CONTRACTS)
def test_resize(benchmark: Benchmark, contract: str, side: int, device: str) -> None:
    options = CONTRACTS[contract]
    images = pixels(4, side).to(device)
    want = resize_normalize(images[:1].cpu(), OUT, backend="reference", **options)
    near(resize_normalize(images[:1], OUT, **options), want, 1e-5)
    timed(benchmark, device, lambda: resize_normalize(images, OUT, **options))


@each_device
def test_resize_uint8_as_pillow(benchmark: Benchmark, device: str) -> None:
    images, options = pixels(4, 256).to(device), {"quantize": True, "out_dtype": torch.uint8}
    want = np.array(Image.fromarray(images[0].cpu().numpy()).resize(OUT, Image.Resampling.BICUBIC))
    near(resize_normalize(images[:1], OUT, **options)[0].permute(1, 2, 0), want, 0.0)
    timed(benchmark, device, lambda: resize_normalize(images, OUT, **options))


@each_device
def test_resize_ragged(benchmark: Benchmark, device: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((480, 640), (640, 427), (512, 512))]
    ragged = RaggedImages.pack(arrays).to(device)
    near(
        resize_normalize(ragged, OUT),
        torch.cat([resize_normalize(torch.from_numpy(a[None]), OUT) for a in arrays]),
        1e-5,
    )
    timed(benchmark, device, lambda: resize_normalize(ragged, OUT))


# ── the polar iteration's products ────────────────────────────────────────────────────────────────────────────────────

ENGINES = [
    pytest.param(
        device, engine, marks=[] if reason is None else pytest.mark.skip(reason=reason), id=f"{device}-{engine}"
    )
    for device in ("cpu", "cuda")
    for engine, reason in report("polar_products", device).items()
    if device == "cpu" or torch.cuda.is_available()
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("product", ["gram", "quadratic", "step"])
@pytest.mark.parametrize(("device", "engine"), ENGINES)
def test_symmetric_product(benchmark: Benchmark, device: str, engine: str, product: str, dtype: torch.dtype) -> None:
    gram, quadratic, multiply = function_for("polar_products", device, engine)()
    d = 512 if device == "cpu" else 2048
    x = torch.randn(1, d, d, generator=torch.Generator().manual_seed(0), dtype=dtype).to(device) / d**0.5
    exact, eye = x.double(), torch.eye(d, dtype=torch.float64, device=device)
    a = exact.mT @ exact
    polynomial = 8.2 * eye - 22.9 * a + 16.4 * a @ a
    run, want = {
        "gram": (lambda: gram(x), a),
        "quadratic": (lambda: quadratic(a.to(dtype), 8.2, -22.9, 16.4), polynomial),
        "step": (lambda: multiply(x, quadratic(gram(x), 8.2, -22.9, 16.4)), exact @ polynomial),
    }[product]
    near(run(), want, 1e-12 if dtype == torch.float64 else 1e-4)
    timed(benchmark, device, run)


# ── moments ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@each_device
@pytest.mark.parametrize("rows", [50, 256, 2048])
def test_scatter_update(benchmark: Benchmark, rows: int, device: str) -> None:
    d = 512 if device == "cpu" else 2048
    x = (torch.randn(rows, d, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.4).to(device)
    moments = fastfid.Moments(keep_rows=False)
    for _ in range(2):
        moments.update(x)
    near(moments.cov(), np.cov(np.concatenate([x.cpu().numpy()] * 2), rowvar=False, dtype=np.float64), 1e-12)
    timed(benchmark, device, lambda: moments.update(x))


# ── distances ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=4)
def commuting(d: int, count: int, device: str) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[float]]:
    """A reference and candidates whose covariances share eigenvectors, and the exact distances from the first."""
    rng = np.random.default_rng(d)
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    sides, spectra = [], []
    for _ in range(count + 1):
        spectra.append(rng.permutation(np.arange(1, d + 1) ** -0.9))
        sigma = (q * spectra[-1]) @ q.T
        sides.append((torch.zeros(d, dtype=torch.float64), torch.from_numpy((sigma + sigma.T) / 2)))
    exact = [float(((np.sqrt(spectra[0]) - np.sqrt(s)) ** 2).sum()) for s in spectra[1:]]
    return [(mu.to(device), sigma.to(device)) for mu, sigma in sides], exact


@each_device
@pytest.mark.parametrize("certify", [None, True], ids=["auto", "certify"])
def test_frechet(benchmark: Benchmark, certify: bool | None, device: str) -> None:
    (one, two), exact = commuting(512, 1, device)
    near(float(fastfid.frechet(*one, *two, certify=certify)), exact[0], 1e-8)
    timed(benchmark, device, lambda: fastfid.frechet(*one, *two, certify=certify))


@each_device
def test_frechet_many(benchmark: Benchmark, device: str) -> None:
    (first, *candidates), exact = commuting(256, 8, device)
    reference = fastfid.FrechetReference(*first)
    near([float(r) for r in fastfid.frechet_many(reference, candidates)], exact, 1e-8)
    timed(benchmark, device, lambda: fastfid.frechet_many(reference, candidates))


@each_device
def test_low_rank(benchmark: Benchmark, device: str) -> None:
    n, d = 64, 1024
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, d)) + 0.2, rng.standard_normal((n, d)) * 0.7
    one, two = (fastfid.Moments.from_features(torch.from_numpy(z).to(device)) for z in (x, y))
    centred = [(z - z.mean(0)) / (n - 1) ** 0.5 for z in (x, y)]
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    near(float(fastfid.frechet_moments(one, two)), gap + sum((c**2).sum() for c in centred) - 2 * root, 1e-8)
    timed(benchmark, device, lambda: fastfid.frechet_moments(one, two))


# ── network ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NETWORK_BOUNDS = {"fp32": 1e-5, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}


@pytest.fixture(scope="module")
def exact() -> InceptionV3:
    """The plain layers in float64, with random weights."""
    network = InceptionV3().double()
    network.load_state_dict(load_weights("random")[0])
    return network


@each_device
@pytest.mark.parametrize("precision", NETWORK_BOUNDS)
def test_network(benchmark: Benchmark, exact: InceptionV3, precision: str, device: str) -> None:
    try:
        network = inception_extractor(weights="random", device=device, precision=precision)
    except ValueError as error:
        pytest.skip(str(error))
    x = torch.rand(8 if device == "cpu" else 64, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        (want,) = exact(x[:1].double())
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    near(network(x[:1]), want, NETWORK_BOUNDS[precision])
    timed(benchmark, device, lambda: network(x))
