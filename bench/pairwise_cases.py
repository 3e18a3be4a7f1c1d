"""Cases of precision, recall, density and coverage, with a twentieth of the generated rows copied from the reference.

The floor, predicted: two sets of n rows of d columns need the distances of n²/2 pairs within either and of n² between
them, one multiplication and one addition a column and pair: 4·n²·d operations in float32, where three full products are
6·n²·d. At 50 GF/s a core's worth of AVX2 (two cores: 100), d = 2048: 1.3 s for n = 4,000, 8.2 s for n = 10,000; a plain
float32 product is the roof that the shares are of. What comes on top, per row and not per pair: centring (one pass over
the features per 4,096 rows of the other side), direct sums of one or two pairs a row (8 KiB each), four comparisons of
every tile. faiss computes three full products, prdc three full products in parts of float64 and three n × n matrices
that are partitioned and compared several times.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from cases import Case
from references import package

from fastfid import metrics

GATE = "tests/test_pairwise.py"
K = 5
TIES = 2e-3  # share of rows whose flag a float32 distance may get wrong: copies tie with radii
_ROWS = 1024  # of a block of distances in the variants that go by blocks


@lru_cache(maxsize=1)
def _features(n: int, d: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Means near 0.4 and a power-law spectrum, as Inception features have."""
    generator = torch.Generator(device).manual_seed(n + d)
    spread = torch.arange(1, d + 1, device=device) ** -0.5
    x, y = (torch.randn(n, d, generator=generator, device=device).mul_(spread).add_(0.4) for _ in range(2))
    y[: n // 20] = x[: n // 20]
    return x, y


def _ours(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(metrics.prdc(x, y, nearest_k=K).values()), dtype=torch.float64)


def _prdc(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with contextlib.redirect_stdout(io.StringIO()):
        found = package("prdc").compute_prdc(x.numpy(), y.numpy(), K)  # type: ignore[union-attr]
    return torch.tensor([float(found[name]) for name in ("precision", "recall", "density", "coverage")])


def _faiss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Exact search for the radii, and blocks of exact distances between the sets: no n × n matrix either."""
    faiss = package("faiss")
    radii, sides = [], (x.numpy(), y.numpy())
    for side in sides:
        index = faiss.IndexFlatL2(side.shape[1])  # type: ignore[union-attr]
        index.add(side)
        radii.append(index.search(side, K + 1)[0][:, K])
    inside_x, inside_y, balls_x = np.zeros(len(y), bool), np.zeros(len(x), bool), np.zeros(len(x), np.int64)
    for start in range(0, len(y), _ROWS):
        block = slice(start, start + _ROWS)
        distances = faiss.pairwise_distances(sides[1][block], sides[0])  # type: ignore[union-attr]
        in_x = distances < radii[0]
        inside_x[block] = in_x.any(1)
        balls_x += in_x.sum(0)
        inside_y |= (distances < radii[1][block, None]).any(0)
    shares = inside_x.mean(), inside_y.mean(), balls_x.sum() / (K * len(y)), (balls_x > 0).mean()
    return torch.tensor([float(share) for share in shares])


def _cdist(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """torch.cdist and torch.topk by blocks, on the features' device."""
    radii = [
        torch.cat([torch.cdist(rows, side).topk(K + 1, largest=False).values[:, K] for rows in side.split(_ROWS)])
        for side in (x, y)
    ]
    inside_x, inside_y, balls = [], torch.zeros(len(x), dtype=torch.bool, device=x.device), 0
    for rows, radius in zip(y.split(_ROWS), radii[1].split(_ROWS), strict=True):
        distances = torch.cdist(rows, x)
        in_x = distances < radii[0]
        inside_x.append(in_x.any(1))
        balls = balls + in_x.sum(0)
        inside_y |= (distances < radius[:, None]).any(0)
    density = balls.sum() / (K * len(y))  # type: ignore[union-attr]
    shares = torch.cat(inside_x).double().mean(), inside_y.double().mean(), density, (balls > 0).double().mean()
    return torch.stack([share.cpu().double() for share in shares])


def prdc(n: int, d: int, device: torch.device) -> Case:
    """n rows against n rows."""
    where = str(device)

    def of(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        return lambda: function(*_features(n, d, where))

    variants = {"fastfid": of(_ours), "torch.cdist by blocks": of(_cdist)}
    missing = {}
    if device.type == "cpu":
        for name, module, function in (("prdc", "prdc", _prdc), ("faiss-cpu, exact search", "faiss", _faiss)):
            found = package(module)
            if isinstance(found, str):
                missing[name] = found
            else:
                variants[name] = of(function)
    return Case(
        op="pairwise",
        name=f"PRDC, {n} × {n} × {d}",
        origin="density and coverage at 10,000 rows, ADM's sets (M1, M17)",
        gate=GATE,
        items=1,
        bytes=2 * 4 * n * d,
        flops=4 * n * n * d,
        dtype="float64",
        threads=0,
        variants=variants,
        bounds=dict.fromkeys(variants.keys() - {"fastfid"}, TIES),
        missing=missing,
        arithmetic="float32",
        rounds=3,
        inputs=lambda: _features(n, d, where),
    )


def cases(device: torch.device) -> list[Case]:
    """All cases that make sense on a device."""
    return [prdc(n, 2048, device) for n in ((10_000, 50_000) if device.type == "cuda" else (4_000, 10_000))]
