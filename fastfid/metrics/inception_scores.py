"""The Inception score of class logits, by the convention of whoever is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fastfid.metrics.features import feature_set, seed_number
from fastfid.metrics.result import Result
from fastfid.runtime.checks import whole_number


@dataclass(frozen=True)
class ScoreConvention:
    """How a package orders and splits samples, and what its ± is.

    Attributes:
        order: of n samples by seed: None keeps it; "numpy" is RandomState(seed).permutation; "torch" is torch.randperm.
        cut: "even": split i is [i·n // splits, (i+1)·n // splits); "chunk": splits of ⌈n / splits⌉, of which there
            may be fewer; "size": splits of 5,000, whatever ``splits`` says.
        ddof: of the standard deviation over splits; None where the package gives none (0 is used).
        source: where the rule is from.
    """

    order: str | None
    cut: str
    ddof: int | None
    source: str


SCORE_CONVENTIONS = {
    "torch-fidelity": ScoreConvention("numpy", "even", 0, "torch-fidelity 0.4, metric_isc.py; its seed is 2020"),
    "adm": ScoreConvention(None, "size", None, "openai/guided-diffusion, evaluations/evaluator.py, split_size=5000"),
    "stylegan": ScoreConvention(None, "even", 0, "NVlabs/stylegan3, metrics/inception_score.py"),
    "torchmetrics": ScoreConvention(
        "torch", "chunk", 1, "torchmetrics 1.9, image/inception.py; its seed is torch's own"
    ),
}
"""All of them take logits without the last layer's bias; that is the caller's to see to."""

ADM_SPLIT = 5000


def inception_score(
    logits: object, splits: int = 10, convention: str = "torch-fidelity", *, seed: int = 2020
) -> Result:
    """The Inception score: how surely each sample is of a class, and how many classes there are.

        IS = mean over splits of  exp( H(mean of p) − mean of H(p) ),   p = softmax(logits),  H(p) = −Σ p log p

    which is exp(mean KL(p ‖ mean of p)); between 1 and the number of classes.

    Args:
        logits: [n, classes], NumPy or torch, 16, 32 or 64-bit floats, any device. A package's own scores need the
            logits without bias that it uses.
        splits: number of splits; not used by "adm", whose splits have 5,000 samples.
        convention: "torch-fidelity" (shuffles by seed), "adm", "stylegan" or "torchmetrics" (shuffles by seed).
        seed: of the shuffle; 2020 is torch-fidelity's.

    Returns:
        Result "is"; ``extra`` has std (over the splits, by the convention's ddof; None where one split leaves it
        undefined), per_split, splits.

    Raises:
        TypeError: not an array or tensor of floats.
        ValueError: NaN or infinity, an empty set, an unknown convention, splits below 1 or above n.

    Numerics:
        Entropies in float64 from softmax; a probability that underflows adds 0, as its limit does, so there is no NaN.
        Within 1e-12 of the sum written out (tests/test_metrics_scores.py::test_score_is_the_formula).

    Source: Salimans et al. 2016, arXiv:1606.03498; ``SCORE_CONVENTIONS``.
    """
    rule = SCORE_CONVENTIONS.get(convention) if isinstance(convention, str) else None
    if rule is None:
        raise ValueError(f"convention: {convention!r}; accepted: {', '.join(SCORE_CONVENTIONS)}")
    x, splits, seed = feature_set(logits, "logits"), whole_number("splits", splits, least=1), seed_number(seed)
    if rule.cut != "size" and splits > len(x):
        raise ValueError(f"splits: {splits}; accepted: at most {len(x)}, one sample in each")
    order = None if rule.order is None else _ORDERS[rule.order](len(x), seed).to(x.device)
    bounds = _cuts(rule.cut, len(x), splits)
    found = [math.exp(_information(x[a:b] if order is None else x[order[a:b]])) for a, b in bounds]
    ddof = rule.ddof or 0
    notes = [] if len(found) == splits else [f"{len(found)} splits, where {splits} were asked for, by the convention"]
    std = float(np.std(found, ddof=ddof)) if len(found) > ddof else None
    if std is None:
        notes.append("one split has no standard deviation by this convention")
    extra = {"std": std, "per_split": tuple(found), "splits": len(found)}
    return Result(
        float(np.mean(found)), "is", display_name="IS", convention=convention, extra=extra, notes=tuple(notes)
    )


_ORDERS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "numpy": lambda n, seed: torch.from_numpy(np.random.RandomState(seed).permutation(n)),
    "torch": lambda n, seed: torch.randperm(n, generator=torch.Generator().manual_seed(seed)),
}


def _cuts(cut: str, n: int, splits: int) -> list[tuple[int, int]]:
    """First row and end of every split."""
    if cut == "even":
        return [(i * n // splits, (i + 1) * n // splits) for i in range(splits)]
    size = ADM_SPLIT if cut == "size" else -(-n // splits)
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def _information(logits: torch.Tensor) -> float:
    """H(mean of p) − mean of H(p) of [n ≥ 1, classes], in nats."""
    p = logits.to(torch.float64).softmax(dim=1)
    of_all, of_each = torch.special.entr(p.mean(dim=0)).sum(), torch.special.entr(p).sum(dim=1).mean()
    return float(of_all - of_each)
