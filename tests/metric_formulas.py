"""The formulas of ``fastfid.metrics`` written out in float64, N×N matrices and all; nothing of fastfid in them."""

from __future__ import annotations

import itertools

import numpy as np
import torch

Array = np.ndarray
DRAWN_FIRST = {"torch-fidelity": "ref", "torchmetrics": "ref", "clean-fid": "gen", "stylegan": "gen"}


def exact(x: object) -> Array:
    """Anything as float64, bfloat16 included."""
    return (x.double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=np.float64)).copy()


def polynomial(x: Array, y: Array) -> Array:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def gaussian(x: Array, y: Array, sigma: float) -> Array:
    return np.exp(-((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2) / (2 * sigma**2))


def off_diagonal(k: Array) -> float:
    return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))


def unbiased_mmd(x: Array, y: Array) -> float:
    return off_diagonal(polynomial(x, x)) + off_diagonal(polynomial(y, y)) - 2 * float(polynomial(x, y).mean())


def draws(convention: str, n: int, m: int, subsets: int, size: int, seed: int) -> list[tuple[Array, Array]]:
    """The subsets as each package takes them after ``np.random.seed(seed)`` or ``torch.manual_seed(seed)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = np.random.RandomState(seed)

        def one(count: int) -> Array:
            if convention == "torchmetrics":
                return torch.randperm(count)[:size].numpy()
            return state.choice(count, size, replace=False)

        found = []
        for _ in range(subsets):
            if DRAWN_FIRST[convention] == "ref":
                a = one(n)
                found.append((a, one(m)))
            else:
                b = one(m)
                found.append((one(n), b))
        return found


def kid(x: Array, y: Array, subsets: int, size: int, seed: int, convention: str) -> tuple[float, float]:
    """(mean, standard deviation) over the subsets."""
    drawn = draws(convention, len(x), len(y), subsets, size, seed)
    values = [unbiased_mmd(x[a], y[b]) for a, b in drawn]
    return float(np.mean(values)), float(np.std(values))


def mmd_variance(kxx: Array, kyy: Array, kxy: Array) -> float:
    """The unbiased estimate of the variance of the unbiased squared MMD, every expectation over tuples one by one."""
    n, m = kxy.shape

    def over(value: object, count_x: int, count_y: int) -> float:
        xs, ys = itertools.permutations(range(n), count_x), list(itertools.permutations(range(m), count_y))
        return float(np.mean([value(*a, *b) for a in xs for b in ys]))  # type: ignore[operator]

    def own(k: Array) -> float:
        size = len(k)
        square = np.mean([k[a, b] * k[c, d] for a, b, c, d in itertools.permutations(range(size), 4)])
        first = np.mean([k[a, b] * k[a, c] for a, b, c in itertools.permutations(range(size), 3)]) - square
        second = np.mean([k[a, b] ** 2 for a, b in itertools.permutations(range(size), 2)]) - square
        return float((4 * (size - 2) * first + 2 * second) / (size * (size - 1)))

    square = over(lambda a, b, c, d: kxy[a, c] * kxy[b, d], 2, 2)
    by_x = over(lambda a, c, d: kxy[a, c] * kxy[a, d], 1, 2) - square
    by_y = over(lambda a, b, c: kxy[a, c] * kxy[b, c], 2, 1) - square
    both = over(lambda a, c: kxy[a, c] ** 2, 1, 1) - square
    across = ((m - 1) * by_x + (n - 1) * by_y + both) / (n * m)
    with_x = over(lambda a, b, c: kxx[a, b] * kxy[a, c], 2, 1) - over(lambda a, b, e, c: kxx[a, b] * kxy[e, c], 3, 1)
    with_y = over(lambda a, c, d: kyy[c, d] * kxy[a, c], 1, 2) - over(lambda a, c, d, e: kyy[c, d] * kxy[a, e], 1, 3)
    return own(kxx) + own(kyy) + 4 * across - 8 * with_x / n - 8 * with_y / m


def inception_score(logits: Array, splits: list[Array]) -> list[float]:
    """exp(mean KL) of every split, 0 · log 0 = 0."""
    found = []
    for rows in splits:
        z = logits[rows]
        log_p = z - z.max(axis=1, keepdims=True)
        log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        log_q = np.log(np.maximum(p.mean(axis=0), np.finfo(float).tiny))
        found.append(float(np.exp((p * np.where(p > 0, log_p - log_q, 0.0)).sum(axis=1).mean())))
    return found


def score_splits(convention: str, n: int, splits: int, seed: int) -> list[Array]:
    """Rows of every split."""
    if convention == "adm":
        return [np.arange(start, min(start + 5000, n)) for start in range(0, n, 5000)]
    if convention == "torchmetrics":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return [rows.numpy() for rows in torch.randperm(n).chunk(splits)]
    order = np.random.RandomState(seed).permutation(n) if convention == "torch-fidelity" else np.arange(n)
    return [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]


def cosine_distance(x: Array, y: Array) -> float:
    """Mean over x of the least 1 − |cos| to y."""
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    return float((1 - np.abs(x @ y.T)).min(axis=1).mean())


def frechet(x: Array, y: Array, ddof: int = 1) -> float:
    """By the singular values of the product of the centred samples."""
    a, b = ((rows - rows.mean(axis=0)) / np.sqrt(len(rows) - ddof) for rows in (x, y))
    gap = x.mean(axis=0) - y.mean(axis=0)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(gap @ gap + (a**2).sum() + (b**2).sum() - 2 * root)


def mind(x: Array, y: Array, projections: int, seed: int) -> Array:
    """3 d times the squared distance along every direction; torch-fidelity's draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        n = min(len(x), len(y))
        x, y = (rows if len(rows) == n else rows[torch.randperm(len(rows))[:n].numpy()] for rows in (x, y))
        u = torch.randn(projections, x.shape[1])
    u = (u / u.norm(dim=1, keepdim=True).clamp_min(1e-12)).double().numpy()
    gaps = [np.sort(x @ one) - np.sort(y @ one) for one in u]
    return 3.0 * x.shape[1] * np.array([(gap**2).mean() for gap in gaps])


def vendi(x: Array) -> float:
    """By the singular values of the rows."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    shares = np.linalg.svd(unit, compute_uv=False) ** 2 / len(x)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
