"""What one checkpoint of a training loop costs beyond its network: features in, a distance out, the reference kept."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from cases import Case

import fastfid
from fastfid.errors import FastFIDWarning

GATE = "tests/test_evaluator.py"
N, D, BATCH = 5000, 2048, 250


@lru_cache(maxsize=2)
def _features(seed: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, D + 1) ** -0.75
    return (torch.randn(N, D, generator=generator) * spread + 0.4).to(device)


def _unused(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


@lru_cache(maxsize=1)
def _evaluator(device: str) -> fastfid.Evaluator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FastFIDWarning)
        return fastfid.Evaluator(_reference(device), extractor=_unused, device=device)


@lru_cache(maxsize=1)
def _reference(device: str) -> fastfid.Moments:
    return fastfid.Moments.from_features(_features(0, device))


def cases(device: torch.device) -> list[Case]:
    """All cases that make sense on a device."""
    where = str(device)

    def ours() -> float:
        evaluator = _evaluator(where)
        evaluator.reset()
        for batch in _features(1, where).split(BATCH):
            evaluator.update_features(batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FastFIDWarning)
            return evaluator.compute().value

    def anew() -> float:
        moments = fastfid.Moments()
        for batch in _features(1, where).split(BATCH):
            moments.update(batch)
        return fastfid.frechet_moments(_reference(where), moments).value

    return [
        Case(
            op="evaluator",
            name=f"{N} features of d={D}, batches of {BATCH}, reset to distance",
            origin="FID in training and search loops (M4, M8)",
            gate=GATE,
            items=1,
            bytes=4 * N * D,
            flops=N * D * D + int(4 * D**3),
            dtype="float64",
            threads=0,
            variants={"fastfid.Evaluator": ours, "without a kept reference": anew},
            bounds={"without a kept reference": 1e-9},
        )
    ]
