"""Cases of the covariance: all features at once and in batches, beside NumPy's and torch's, with peak memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from cases import Case

import fastfid

GATE = "tests/test_moments.py"
BATCH = 8192
EXACT = 1e-11  # of float64 against float64, entries up to 1
SINGLE = 1e-3  # what float32 sums over 50,000 rows lose: measured and reported, not asked for


@lru_cache(maxsize=1)
def features(n: int, d: int, device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Means near 0.4 and a power-law spectrum, as Inception features have; made in place."""
    generator = torch.Generator(device).manual_seed(n + d)
    made = torch.randn(n, d, generator=generator, device=device)
    made *= torch.arange(1, d + 1, device=device) ** -0.5
    made += 0.4
    return made.to(dtype)


def _ours(make: Callable[[], torch.Tensor], batch: int) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        moments = fastfid.Moments(keep_rows=False)
        for rows in torch.split(make(), batch):
            moments.update(rows)
        return moments.cov()

    return run


def _naive(x: torch.Tensor) -> torch.Tensor:
    """Raw second moments in the features' own dtype (torchmetrics' sums, in float32)."""
    n, mean = len(x), x.mean(0)
    return (x.T @ x - n * torch.outer(mean, mean)) / (n - 1)


def covariance(n: int, d: int, device: torch.device) -> Case:
    """n float32 features of d dimensions → [d, d] float64."""

    def make() -> torch.Tensor:
        return features(n, d, str(device))

    variants: dict[str, Callable[[], object]] = {
        "fastfid": _ours(make, n),
        f"fastfid, batches of {BATCH}": _ours(make, BATCH),
        "np.cov float64": lambda: np.cov(make().cpu().numpy(), rowvar=False, dtype=np.float64),
        "torch.cov float64": lambda: torch.cov(make().double().T),
        "torch.cov float32": lambda: torch.cov(make().T),
        "XᵀX float32": lambda: _naive(make()),
    }
    if device.type == "cuda":
        variants["fastfid, batches of 256"] = _ours(make, 256)
    loose = {"torch.cov float32": SINGLE, "XᵀX float32": SINGLE}
    return Case(
        op="moments",
        name=f"covariance of {n} × {d} float32",
        origin="workload M1: 50,000 images, Inception's pooled layer",
        gate=GATE,
        items=1,
        bytes=4 * n * d + 8 * d * d,
        flops=n * d * d,  # one triangle, a multiplication and an addition each
        dtype="float64",
        threads=0,
        variants=variants,
        bounds={name: loose.get(name, EXACT) for name in variants},
        arithmetic="float64",
        rounds=3,
        inputs=make,
    )


def half_precision(n: int, d: int, device: torch.device, dtype: torch.dtype) -> Case:
    """The same from 16-bit features, as a network in half precision gives them."""
    name = str(dtype).removeprefix("torch.")

    def make() -> torch.Tensor:
        return features(n, d, str(device), dtype)

    return Case(
        op="moments",
        name=f"covariance of {n} × {d} {name}",
        origin="workload M1 with the network in half precision",
        gate=GATE,
        items=1,
        bytes=2 * n * d + 8 * d * d,
        flops=n * d * d,
        dtype="float64",
        threads=0,
        variants={"fastfid": _ours(make, n), "torch.cov float64": lambda: torch.cov(make().double().T)},
        bounds={"torch.cov float64": EXACT},
        arithmetic="float64",
        rounds=3,
        inputs=make,
    )


def grouped(n: int, d: int, groups: int, device: torch.device) -> Case:
    """Covariances of all groups from one pass, beside one Moments a group."""

    def make() -> torch.Tensor:
        return features(n, d, str(device))

    @lru_cache(maxsize=1)
    def labels() -> torch.Tensor:
        return torch.randint(groups, (n,), generator=torch.Generator().manual_seed(0)).to(device)

    def ours() -> torch.Tensor:
        made = fastfid.GroupedMoments(groups)
        made.update(make(), labels())
        return torch.stack([made.moments(group).cov() for group in range(groups)])

    def singly() -> torch.Tensor:
        found = []
        for group in range(groups):
            moments = fastfid.Moments(keep_rows=False)
            moments.update(make()[labels() == group])
            found.append(moments.cov())
        return torch.stack(found)

    return Case(
        op="grouped_moments",
        name=f"{groups} groups of {n} × {d} float32 in all",
        origin="FID by class or view (workloads M12, M16)",
        gate="tests/test_moments_grouped.py",
        items=1,
        bytes=4 * n * d + groups * 8 * d * d,
        flops=n * d * d,
        dtype="float64",
        threads=0,
        variants={"fastfid": ours, "fastfid.Moments, group by group": singly},
        bounds={"fastfid.Moments, group by group": EXACT},
        arithmetic="float64",
        rounds=3,
        inputs=lambda: (make(), labels()),
    )


def cases(device: torch.device) -> list[Case]:
    """All cases that make sense on a device."""
    made = [covariance(50_000, 2048, device)]
    if device.type == "cuda":
        made += [half_precision(50_000, 2048, device, dtype) for dtype in (torch.float16, torch.bfloat16)]
    return [*made, grouped(20_000, 2048 if device.type == "cuda" else 512, 10, device)]
