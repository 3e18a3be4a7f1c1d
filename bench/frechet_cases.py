"""Cases of the Fréchet distance: covariances, samples, many candidates; beside every way other packages take."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from cases import Case

import fastfid

GATE = "tests/test_frechet_accuracy.py"
GATE_MANY = "tests/test_frechet_many.py"
Pair = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@lru_cache(maxsize=40)
def _statistics(d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a power-law spectrum like Inception's, full rank (n = 2d + 100), means near 0.4."""
    rng = np.random.default_rng([seed, d])
    x = rng.standard_normal((2 * d + 100, d)) * np.arange(1, d + 1) ** -(0.75 + 0.01 * (seed % 5))
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    return 0.4 + 0.05 * rng.standard_normal(d), np.cov((x @ q.T).T)


@lru_cache(maxsize=8)
def _samples(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, n, d])
    return rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.75 + 0.4


@lru_cache(maxsize=4)
def _pair(d: int, device: str) -> Pair:
    one, two = _statistics(d, 0), _statistics(d, 1)
    mu1, s1, mu2, s2 = (torch.from_numpy(a).to(device) for a in (*one, *two))
    return mu1, s1, mu2, s2


def _with_root(root: float, mu1: object, s1: object, mu2: object, s2: object) -> float:
    m1, c1, m2, c2 = (np.asarray(a.cpu() if isinstance(a, torch.Tensor) else a) for a in (mu1, s1, mu2, s2))
    return float((m1 - m2) @ (m1 - m2) + np.trace(c1) + np.trace(c2) - 2 * root)


def _scipy(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
    """pytorch-fid, clean-fid, ADM, EDM: the real part of the trace of scipy.linalg.sqrtm(Σ₁Σ₂)."""
    sqrtm = importlib.import_module("scipy.linalg").sqrtm
    return _with_root(float(np.trace(sqrtm(s1 @ s2)).real), mu1, s1, mu2, s2)


def _numpy_eigvals(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
    """torch-fidelity 0.4."""
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).astype(np.complex128)).real.sum()
    return _with_root(float(root), mu1, s1, mu2, s2)


def _torch_eigvals(mu1: torch.Tensor, s1: torch.Tensor, mu2: torch.Tensor, s2: torch.Tensor) -> float:
    """torchmetrics 1.9."""
    gap, traces = (mu1 - mu2).square().sum(), s1.trace() + s2.trace()
    return float(gap + traces - 2 * torch.linalg.eigvals(s1 @ s2).sqrt().real.sum())


def _torch_eigvalsh(mu1: torch.Tensor, s1: torch.Tensor, mu2: torch.Tensor, s2: torch.Tensor) -> float:
    """Cholesky and eigvalsh on the tensors' device: the plain form of the formula that fastfid uses."""
    factor = torch.linalg.cholesky(s1)
    root = torch.linalg.eigvalsh(factor.T @ s2 @ factor).clamp_min(0).sqrt().sum()
    return float((mu1 - mu2).square().sum() + s1.trace() + s2.trace() - 2 * root)


def _coupled(dtype: torch.dtype, steps: int) -> Callable[..., float]:
    """The classical coupled Newton–Schulz iteration for (Σ₁Σ₂)^½ with a fixed number of steps (BigGAN-PyTorch, piq)."""

    def run(mu1: torch.Tensor, s1: torch.Tensor, mu2: torch.Tensor, s2: torch.Tensor) -> float:
        a = (s1 @ s2).to(dtype)
        norm = torch.linalg.matrix_norm(a)
        y, eye = a / norm, torch.eye(a.shape[0], dtype=dtype, device=a.device)
        z = eye
        for _ in range(steps):
            t = 1.5 * eye - 0.5 * (z @ y)
            y, z = y @ t, t @ z
        root = float(y.double().trace() * norm.double().sqrt())
        return _with_root(root if math.isfinite(root) else 0.0, mu1, s1, mu2, s2)

    return run


def _flops(d: int) -> int:
    """Two Cholesky factors, a product of triangles, half a Gram product, a tridiagonal reduction."""
    return int((2 / 3 + 2 / 3 + 1 + 4 / 3) * d**3)


def _of_pair(d: int, device: str, function: Callable[..., float], **options: object) -> Callable[[], float]:
    def run() -> float:
        return function(*_pair(d, device), **options)

    return run


def _on_host(d: int, function: Callable[..., float]) -> Callable[[], float]:
    def run() -> float:
        return function(*_statistics(d, 0), *_statistics(d, 1))

    return run


def _covariances(d: int, device: torch.device) -> Case:
    where = str(device)
    variants: dict[str, Callable[[], object]] = {"fastfid": _of_pair(d, where, fastfid.frechet)}
    loose = {
        "torch eigvals (torchmetrics)": 1e-6,
        "coupled float32, 20 steps": math.inf,
        "coupled float64, 30 steps": 1e-2,
    }
    if device.type == "cuda":
        variants["fastfid on the CPU"] = _on_host(d, fastfid.frechet)
        variants["torch Cholesky + eigvalsh"] = _of_pair(d, where, _torch_eigvalsh)
        variants["coupled float32, 20 steps"] = _of_pair(d, where, _coupled(torch.float32, 20))
        variants["coupled float64, 30 steps"] = _of_pair(d, where, _coupled(torch.float64, 30))
        variants["torch eigvals (torchmetrics)"] = _of_pair(d, where, _torch_eigvals)
    else:
        variants["fastfid, certify=True"] = _of_pair(d, where, fastfid.frechet, certify=True)
        variants["numpy eigvals (torch-fidelity)"] = _on_host(d, _numpy_eigvals)
    variants["scipy sqrtm (pytorch-fid, …)"] = _on_host(d, _scipy)
    return Case(
        op="frechet",
        name=f"d={d}, covariances",
        origin="Inception features" if d == 2048 else "HumanML3D features",
        gate=GATE,
        items=1,
        bytes=2 * 8 * d * d,
        flops=_flops(d),
        dtype="float64",
        threads=0,
        variants=variants,
        bounds={name: loose.get(name, 1e-7) for name in variants},
        arithmetic="float64",
        # On the CPU the making of the inputs takes more memory than the distance, which would hide it.
        inputs=(lambda: _pair(d, where)) if device.type == "cuda" else None,
    )


def _low_rank(n: int, d: int) -> Case:
    def ours() -> float:
        return fastfid.frechet_moments(_moments(n, d, 0), _moments(n, d, 1))

    def against_covariance() -> float:
        x = fastfid.frechet_moments(_full(d), _moments(n, d, 1))
        return float(x)

    def scipy_route() -> float:
        x, y = _samples(n, d, 0), _samples(n, d, 1)
        return _scipy(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))

    return Case(
        op="frechet_moments",
        name=f"n={n}, d={d}, samples on both sides",
        origin="search loops and small sets (M4, M8, M11)",
        gate=GATE_MANY,
        items=1,
        bytes=2 * 8 * n * d,
        flops=2 * n * n * d,
        dtype="float64",
        threads=0,
        variants={
            "fastfid": ours,
            "fastfid, full-rank reference": against_covariance,
            "scipy sqrtm (pytorch-fid, …)": scipy_route,
        },
        bounds={"fastfid, full-rank reference": math.inf, "scipy sqrtm (pytorch-fid, …)": 1e-3},
    )


@lru_cache(maxsize=8)
def _moments(n: int, d: int, seed: int) -> fastfid.Moments:
    return fastfid.Moments.from_features(_samples(n, d, seed))


@lru_cache(maxsize=2)
def _full(d: int) -> fastfid.Moments:
    return fastfid.Moments.from_features(_samples(2 * d, d, 2))


@lru_cache(maxsize=2)
def _candidates(
    count: int, d: int, device: str
) -> tuple[fastfid.FrechetReference, list[tuple[torch.Tensor, torch.Tensor]]]:
    sides = [tuple(torch.from_numpy(a).to(device) for a in _statistics(d, seed)) for seed in range(count + 1)]
    return fastfid.FrechetReference(*sides[0]), [(mu, sigma) for mu, sigma in sides[1:]]


def _many(count: int, d: int, device: torch.device) -> Case:
    where = str(device)

    def ours() -> torch.Tensor:
        reference, candidates = _candidates(count, d, where)
        return torch.tensor([float(r) for r in fastfid.frechet_many(reference, candidates)], dtype=torch.float64)

    def singly() -> torch.Tensor:
        reference, candidates = _candidates(count, d, where)
        found = [fastfid.frechet(reference.mean, reference.matrix, mu, sigma) for mu, sigma in candidates]
        return torch.tensor([float(r) for r in found], dtype=torch.float64)

    return Case(
        op="frechet_many",
        name=f"{count} candidates, d={d}",
        origin="checkpoints, FID∞, views (M4, M10, M12, M16)",
        gate=GATE_MANY,
        items=count,
        bytes=8 * (count + 1) * d * d,
        flops=count * _flops(d),
        dtype="float64",
        threads=0,
        variants={"fastfid": ours, "fastfid.frechet, one by one": singly},
        bounds={"fastfid.frechet, one by one": 1e-7},
        arithmetic="float64",
    )


def cases(device: torch.device) -> list[Case]:
    """All cases that make sense on a device."""
    found = [_covariances(2048, device), _covariances(512, device)]
    if device.type == "cuda":
        return [*found, _many(16, 2048, device), _many(64, 512, device)]
    return [*found, _low_rank(500, 2048), _low_rank(64, 2048), _many(16, 512, device)]
