"""Fuzz of what takes means, covariances and matrices: distances, roots, norms."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastfid
from campaign import truths
from campaign.trial import Entry, close, either, pick, refuses, require, returns
from campaign.truths import MP, Pair
from campaign.values import formed, wrong_array, wrong_choice, wrong_device, wrong_integer, wrong_positive

Generator = np.random.Generator
METHODS = ("auto", "eigvalsh", "newton-schulz", "svd")
FOUR = ("mu1", "sigma1", "mu2", "sigma2")


def inside(result: Any, truth: Any, label: str) -> None:
    """lower ≤ truth ≤ upper in exact arithmetic, and the value between them."""
    lower, upper, value = float(result.lower), float(result.upper), float(result.value)
    require(math.isfinite(value) and not math.isnan(lower + upper), f"{label}: NaN", f"{value} [{lower}, {upper}]")
    ok = MP.mpf(lower) <= truth <= MP.mpf(upper)
    require(ok, f"{label}: truth outside the bounds", f"{MP.nstr(truth, 20)} not in [{lower!r}, {upper!r}]")
    require(lower <= value <= upper, f"{label}: value outside its bounds", f"{value} [{lower}, {upper}]")


def near(value: float, p: Pair, label: str) -> None:
    """The value alone, to what every route promises."""
    traces = float(np.trace(p.sigma1) + np.trace(p.sigma2))
    allowed = 1e-6 * traces + 1e-12 * float(p.distance)
    gap = abs(float(MP.mpf(float(value)) - p.distance))
    require(gap <= allowed, f"{label}: wrong value", f"{value!r}, not {float(p.distance)!r}")


def given(rng: Generator, p: Pair) -> list[Any]:
    return [formed(rng, a, "list", "long double") for a in (p.mu1, p.sigma1, p.mu2, p.sigma2)]


def huge(rng: Generator) -> Pair:
    """Finite numbers at the ends of float64."""
    d = int(rng.integers(1, 5))
    sizes = 10.0 ** rng.uniform(-320, 308, d) if rng.integers(2) else np.full(d, 10.0 ** rng.uniform(-320, 308))
    others = 10.0 ** rng.uniform(-320, 308, d) if rng.integers(2) else sizes[::-1]
    mus = rng.normal(size=(2, d)) * 10.0 ** rng.uniform(-320, 307)
    root = sum((MP.sqrt(MP.mpf(float(a)) * MP.mpf(float(b))) for a, b in zip(sizes, others, strict=True)), MP.mpf(0))
    gap = sum(((MP.mpf(float(a)) - MP.mpf(float(b))) ** 2 for a, b in mus.T), MP.mpf(0))
    whole = gap + sum((MP.mpf(float(v)) for v in (*sizes, *others)), MP.mpf(0)) - 2 * root
    return Pair(mus[0], np.diag(sizes), mus[1], np.diag(others), root, whole)


def wrong_of_four(rng: Generator, function: Any, label: str, **options: Any) -> None:
    """One of mu1, sigma1, mu2, sigma2 is wrong, and named."""
    p = truths.pair(rng)
    arguments, at = list(p[:4]), int(rng.integers(4))
    if rng.integers(4):
        how, arguments[at] = wrong_array(rng, arguments[at])
    else:
        how, arguments[at] = _wrong_shape(rng, arguments[at])
    partner = FOUR[at ^ 1] if how == "other size" else FOUR[at]
    others = ("mu1", "mu2", "sigma1", "sigma2") if how == "other size" else (FOUR[at], partner)
    refuses(function, *arguments, label=f"{label}: {FOUR[at]} {how}", names=others, **options)


def _wrong_shape(rng: Generator, a: Any) -> tuple[str, Any]:
    if a.ndim == 1:
        return "other size", np.concatenate([a, a, [0.0]])
    if rng.integers(3) == 0:
        return "other size", np.eye(len(a) + 1)
    if rng.integers(2) and len(a) > 1:
        b = a.copy() + np.eye(len(a))
        b[0, 1] += 1 + np.abs(a).max()
        return "asymmetric", b
    return "indefinite", -np.eye(len(a)) * (1 + np.abs(a).max())


def frechet(rng: Generator, _: Path) -> None:
    kind = int(rng.integers(12))
    if kind < 5:
        p, method = truths.pair(rng), pick(rng, METHODS)
        certify = pick(rng, (None, True, False))
        label = f"frechet({method}, certify={certify})"
        inside(returns(fastfid.frechet, *given(rng, p), label=label, method=method, certify=certify), p.distance, label)
    elif kind == 5:
        p = huge(rng)
        method, certify = pick(rng, METHODS), bool(rng.integers(2))
        label = f"frechet of extremes({method})"

        def check(result: Any) -> None:
            inside(result, p.distance, label)

        either(fastfid.frechet, *p[:4], label=label, method=method, certify=certify, check=check)
    elif kind == 6:  # equal, symmetric, translated, scaled
        p, k = truths.pair(rng), 2.0 ** int(rng.integers(-8, 9))
        same = returns(fastfid.frechet, p.mu1, p.sigma1, p.mu1, p.sigma1, label="frechet of equal sides")
        require(float(same) == 0.0, "frechet of equal sides: not zero", repr(same))
        there = returns(fastfid.frechet, *p[:4], label="frechet")
        back = returns(fastfid.frechet, p.mu2, p.sigma2, p.mu1, p.sigma1, label="frechet swapped")
        scaled = (p.mu1 * k, p.sigma1 * k * k, p.mu2 * k, p.sigma2 * k * k)
        larger = returns(fastfid.frechet, *scaled, label="frechet scaled")
        for other, by, name in ((back, 1.0, "swapped"), (larger, k * k, "scaled")):
            ok = other.lower <= there.upper * by and there.lower * by <= other.upper
            require(ok, f"frechet {name}: bounds do not meet", f"{there!r} {other!r}")
    elif kind == 7:
        name, value = wrong_choice(rng)
        refuses(
            fastfid.frechet, *truths.pair(rng)[:4], label=f"frechet: method {name}", names=("method",), method=value
        )
    elif kind == 8:
        name, value = wrong_positive(rng)
        refuses(fastfid.frechet, *truths.pair(rng)[:4], label=f"frechet: rtol {name}", names=("rtol",), rtol=value)
    elif kind == 9:
        name, value = wrong_device(rng)
        ok = (ValueError, TypeError, fastfid.errors.BackendUnavailableError)
        refuses(
            fastfid.frechet,
            *truths.pair(rng)[:4],
            label=f"frechet: device {name}",
            names=("device",),
            errors=ok,
            device=value,
        )
    else:
        wrong_of_four(rng, fastfid.frechet, "frechet")


def frechet_distance(rng: Generator, _: Path) -> None:
    kind = int(rng.integers(8))
    if kind < 4:
        p = truths.pair(rng)
        value = returns(fastfid.frechet_distance, *given(rng, p), label="frechet_distance")
        require(type(value) is float, "frechet_distance: not a float", repr(value))
        near(value, p, "frechet_distance")
    elif kind == 4:
        p = huge(rng)
        either(fastfid.frechet_distance, *p[:4], label="frechet_distance of extremes", check=lambda v: finite(v))
    else:
        wrong_of_four(rng, fastfid.frechet_distance, "frechet_distance")


def finite(value: Any) -> None:
    require(np.isfinite(np.asarray(value)).all(), "not finite", repr(value))


def frechet_many(rng: Generator, _: Path) -> None:
    p = truths.pair(rng)
    ref = fastfid.FrechetReference(p.mu1, p.sigma1)
    kind = int(rng.integers(7))
    if kind < 3:
        others: list[Any] = [(p.mu2, p.sigma2), (p.mu1, p.sigma1), fastfid.FrechetReference(p.mu2, p.sigma2)]
        method, certify = pick(rng, METHODS), pick(rng, (None, True, False))
        label = f"frechet_many({method})"
        got = returns(fastfid.frechet_many, ref, others, label=label, method=method, certify=certify)
        require(len(got) == 3 and float(got[1]) == 0.0, f"{label}: wrong value", repr(got))
        inside(got[0], p.distance, label)
        inside(got[2], p.distance, label)
    elif kind == 3:
        bad = pick(rng, (None, 3, (p.mu2,), "text", {}, (p.mu2, p.sigma2, 1)))
        label = f"frechet_many: candidate {type(bad).__name__}"
        refuses(fastfid.frechet_many, ref, [(p.mu2, p.sigma2), bad], label=label, names=("candidates[1]",))
    elif kind == 4:
        name, value = wrong_array(rng, p.sigma2)
        label = f"frechet_many: sigma {name}"
        refuses(fastfid.frechet_many, ref, [(p.mu2, value)], label=label, names=("candidates[0]",))
    elif kind == 5:
        bad = pick(rng, (None, 3, p, "text", fastfid.Moments()))
        label = f"frechet_many: ref {type(bad).__name__}"
        refuses(fastfid.frechet_many, bad, [(p.mu2, p.sigma2)], label=label, names=("ref",))
    else:
        bad = pick(rng, (None, 3, ref))
        label = f"frechet_many: candidates {type(bad).__name__}"
        refuses(fastfid.frechet_many, ref, bad, label=label, names=("candidates",))


def reference(rng: Generator, _: Path) -> None:
    p = truths.pair(rng)
    kind = int(rng.integers(5))
    if kind < 2:
        made = returns(fastfid.FrechetReference, *given(rng, p)[:2], label="FrechetReference")
        close(made.mean, p.mu1, 0.0, "FrechetReference.mean")
        f, size = made.factor, float(np.abs(p.sigma1).max())
        close((f.f @ f.f.T).numpy() * f.root_scale**2, p.sigma1, 1e-12 * size, "FrechetReference.factor")
        require(made.dim == len(p.mu1) and 0 <= made.rank <= made.dim, "FrechetReference.rank: wrong value")
        again = pickle.loads(pickle.dumps(copy.deepcopy(made)))
        require(again.same_covariance(made), "FrechetReference: not itself after pickle")
    elif kind == 2:
        name, value = wrong_array(rng, p.mu1)
        refuses(fastfid.FrechetReference, value, p.sigma1, label=f"FrechetReference: mu {name}", names=("mu",))
    elif kind == 3:
        name, value = wrong_array(rng, p.sigma1)
        refuses(fastfid.FrechetReference, p.mu1, value, label=f"FrechetReference: sigma {name}", names=("sigma",))
    else:
        name, value = wrong_device(rng)
        label = f"FrechetReference: device {name}"
        ok = (ValueError, TypeError, fastfid.errors.BackendUnavailableError)
        refuses(fastfid.FrechetReference, *p[:2], label=label, names=("device",), errors=ok, device=value)


def result(rng: Generator, _: Path) -> None:
    """FrechetResult: a float with fields that survives pickle, copy and JSON."""
    p = truths.pair(rng)
    one = fastfid.frechet(*p[:4])
    kind = int(rng.integers(3))
    if kind < 2:
        for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
            same = float(again) == float(one) and again.to_dict() == one.to_dict() and type(again) is type(one)
            require(same, "FrechetResult: not itself after pickle or copy", repr(again))
        plain = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        require(plain["value"] == float(one), "FrechetResult.to_dict: wrong value")
        require(
            float(str(one)) == float(one) and format(one, ".3f") == format(float(one), ".3f"), "FrechetResult: text"
        )
        return
    fields = {name: getattr(one, name) for name in fastfid.FrechetResult._fields}
    name = pick(rng, fields)
    if rng.integers(2):
        fields.pop(name)
        refuses(fastfid.FrechetResult, 1.0, label="FrechetResult: a field less", names=(name,), **fields)
    else:
        refuses(fastfid.FrechetResult, 1.0, label="FrechetResult: unknown field", names=("nons",), nons=1, **fields)


def nuclear_norm(rng: Generator, _: Path) -> None:
    m, truth = truths.matrix(rng)
    kind = int(rng.integers(7))
    method = pick(rng, ("auto", "svd", "newton-schulz"))
    if kind < 3:
        label = f"nuclear_norm({method}, bounds)"
        given = formed(rng, m, "long double")
        got = returns(fastfid.nuclear_norm, given, label=label, method=method, bounds=True)
        inside(got, truth, label)
    elif kind == 3:
        x = torch.from_numpy(m).requires_grad_()
        value = returns(fastfid.nuclear_norm, x, label="nuclear_norm with gradient", method=method)
        value.backward()
        close(value.detach(), float(truth), 1e-9 * (float(truth) + 1e-300), f"nuclear_norm({method}, gradient)")
        require(x.grad is not None and np.isfinite(x.grad.numpy()).all(), "nuclear_norm: gradient not finite")
        close((x.grad * x.detach()).sum(), float(truth), 1e-7 * float(truth), f"nuclear_norm({method}): <G, M> = norm")
    elif kind == 4:
        extreme = m * 10.0 ** rng.uniform(-330, 300)
        either(fastfid.nuclear_norm, extreme, label=f"nuclear_norm({method}) of extremes", method=method, check=finite)
    elif kind == 5:
        name, value = wrong_array(rng, m, but=("an axis more", "empty"))
        refuses(fastfid.nuclear_norm, value, label=f"nuclear_norm: m {name}", names=("m:", "m ", "m="), method=method)
    else:
        name, value = wrong_choice(rng)
        refuses(fastfid.nuclear_norm, m, label=f"nuclear_norm: method {name}", names=("method",), method=value)


def polar(rng: Generator, _: Path) -> None:
    m, truth = truths.matrix(rng)
    kind = int(rng.integers(6))
    method = pick(rng, ("auto", "svd", "newton-schulz"))
    if kind < 3:
        label = f"polar({method})"
        u, h, _steps = returns(fastfid.polar, formed(rng, m), label=label, method=method)
        u, h = np.asarray(u, dtype=np.float64), np.asarray(h, dtype=np.float64)
        size = float(np.linalg.norm(m)) + 1e-300
        close(u @ h, m, 1e-10 * size, f"{label}: U H = M")
        require(np.array_equal(h, h.T), f"{label}: H not symmetric")
        close(np.trace(h), float(truth), 1e-7 * size, f"{label}: tr H")
        require(np.linalg.norm(u, 2) <= 1 + 1e-9 if u.size else True, f"{label}: |U| > 1")
    elif kind == 3:
        extreme = m * 10.0 ** rng.uniform(-330, 300)
        check = lambda got: finite(got.h)  # noqa: E731
        either(fastfid.polar, extreme, label=f"polar({method}) of extremes", method=method, check=check)
    elif kind == 4:
        name, value = wrong_array(rng, m, but=("an axis more", "empty"))
        refuses(fastfid.polar, value, label=f"polar: m {name}", names=("m:", "m ", "m="))
    else:
        name, value = wrong_choice(rng)
        refuses(fastfid.polar, m, label=f"polar: method {name}", names=("method",), method=value)


def sqrtm(rng: Generator, _: Path) -> None:
    p = truths.pair(rng)
    kind = int(rng.integers(7))
    if kind < 2:
        x = np.asarray(returns(fastfid.sqrtm, formed(rng, p.sigma1), label="sqrtm"))
        close(x @ x, p.sigma1, 1e-12 * float(np.abs(p.sigma1).max()), "sqrtm")
    elif kind == 2:
        x = np.asarray(returns(fastfid.sqrtm, formed(rng, p.sigma1), formed(rng, p.sigma2), label="sqrtm of a product"))
        size = float(np.linalg.norm(p.sigma1, 2) * np.linalg.norm(p.sigma2, 2))
        close(x @ x, p.sigma1 @ p.sigma2, 1e-10 * size, "sqrtm of a product")
        close(np.trace(x), float(p.root), 1e-6 * math.sqrt(size) * len(x), "sqrtm of a product: trace")
    elif kind == 3:
        m = rng.normal(size=(3, 3)) * 10.0 ** rng.uniform(-320, 307)
        m.flat[int(rng.integers(9))] = rng.choice([0.0, -1e300, 1e-160, 1e300, 5e-324])

        def check(x: Any) -> None:
            size = float(np.abs(m).max()) or 1.0
            y = np.asarray(x) / math.sqrt(size)
            close(y @ y, m / size, 1e-4, "sqrtm of extremes")

        either(fastfid.sqrtm, m, label="sqrtm of extremes", check=check)
    elif kind == 4:
        m = np.diag(np.exp(rng.uniform(0, 3, 4))) + 0.3 * rng.normal(size=(4, 4))
        check_general = lambda x: close(x @ x, m, 1e-8 * float(np.abs(m).max()), "sqrtm, general")  # noqa: E731
        either(fastfid.sqrtm, m, label="sqrtm, general", check=check_general)
    elif kind == 5:
        name, value = wrong_array(rng, p.sigma1, but=("an axis more", "empty"))
        refuses(fastfid.sqrtm, value, label=f"sqrtm: a {name}", names=("a:", "a ", "a="))
    else:
        name, value = wrong_array(rng, p.sigma2, but=("an axis more", "None"))
        refuses(fastfid.sqrtm, p.sigma1, value, label=f"sqrtm: b {name}", names=("b:", "b ", "b="))


def trace_sqrtm_product(rng: Generator, _: Path) -> None:
    p = truths.pair(rng)
    kind = int(rng.integers(7))
    method = pick(rng, METHODS)
    function = fastfid.trace_sqrtm_product
    if kind < 3:
        label = f"trace_sqrtm_product({method}, bounds)"
        got = returns(
            function, *(formed(rng, s) for s in (p.sigma1, p.sigma2)), label=label, method=method, bounds=True
        )
        inside(got, p.root, label)
    elif kind == 3:
        x, size = torch.from_numpy(p.sigma1).requires_grad_(), math.sqrt(np.trace(p.sigma1) * np.trace(p.sigma2))
        value = returns(function, x, p.sigma2, label="trace_sqrtm_product with gradient")
        close(value.detach(), float(p.root), 1e-9 * size + 1e-300, "trace_sqrtm_product with gradient")
        value.backward()
        require(x.grad is not None and not torch.isnan(x.grad).any(), "trace_sqrtm_product: gradient is NaN")
    elif kind == 4:
        q = huge(rng)
        label = f"trace_sqrtm_product({method}) of extremes"
        check = lambda got: inside(got, q.root, label)  # noqa: E731
        either(function, q.sigma1, q.sigma2, label=label, method=method, bounds=True, check=check)
    elif kind == 5:
        at = int(rng.integers(2))
        both: list[Any] = [p.sigma1, p.sigma2]
        how, both[at] = wrong_array(rng, both[at])
        named = ("sigma1", "sigma2") if how in ("an axis more", "0-d", "empty") else (f"sigma{at + 1}",)
        refuses(function, *both, label=f"trace_sqrtm_product: sigma{at + 1} {how}", names=named)
    else:
        name, value = wrong_choice(rng)
        label = f"trace_sqrtm_product: method {name}"
        refuses(function, p.sigma1, p.sigma2, label=label, names=("method",), method=value)


def frechet_loss(rng: Generator, _: Path) -> None:
    d = int(rng.integers(1, 7))
    n = int(rng.integers(2, 12))
    x, mu, sigma = rng.normal(size=(n, d)), rng.normal(size=d), truths.covariance(rng, d)
    kind = int(rng.integers(5))
    if kind < 2:
        features = torch.from_numpy(x).requires_grad_()
        value = returns(fastfid.frechet_loss, features, (mu, sigma), label="frechet_loss")
        value.backward()
        want = oracle(x.mean(0), np.atleast_2d(np.cov(x.T)), mu, sigma)
        close(value.detach(), want, 1e-6 * (1 + abs(want)), "frechet_loss")
        require(np.isfinite(features.grad.numpy()).all(), "frechet_loss: gradient not finite")
    elif kind == 2:
        name, value = wrong_array(rng, x)
        refuses(fastfid.frechet_loss, value, (mu, sigma), label=f"frechet_loss: features {name}", names=("features",))
    elif kind == 3:
        name, value = wrong_array(rng, sigma)
        label = f"frechet_loss: sigma {name}"
        refuses(fastfid.frechet_loss, torch.from_numpy(x), (mu, value), label=label, names=("reference",))
    elif rng.integers(2):
        name, value = wrong_integer(rng, 0)
        label = f"frechet_loss: ddof {name}"
        refuses(fastfid.frechet_loss, torch.from_numpy(x), (mu, sigma), label=label, names=("ddof",), ddof=value)
    else:
        bad = pick(rng, (None, 3, "text", (mu,), [mu, sigma], {}))
        label = f"frechet_loss: reference {type(bad).__name__}"
        refuses(fastfid.frechet_loss, torch.from_numpy(x), bad, label=label, names=("reference",))


def oracle(mu1: Any, s1: Any, mu2: Any, s2: Any) -> float:
    """The distance by NumPy alone: symmetric roots and singular values."""

    def half(s: Any) -> Any:
        w, v = np.linalg.eigh(s)
        return v * np.sqrt(np.maximum(w, 0.0))

    root = np.linalg.svd(half(s1).T @ half(s2), compute_uv=False).sum()
    gap = np.asarray(mu1) - np.asarray(mu2)
    return float(gap @ gap + np.trace(s1) + np.trace(s2) - 2 * root)


ENTRIES = [
    Entry("fuzz/frechet", frechet, ("frechet",)),
    Entry("fuzz/frechet_distance", frechet_distance, ("frechet_distance",)),
    Entry("fuzz/frechet_many", frechet_many, ("frechet_many",)),
    Entry("fuzz/FrechetReference", reference, ("FrechetReference",)),
    Entry("fuzz/FrechetResult", result, ("FrechetResult",)),
    Entry("fuzz/nuclear_norm", nuclear_norm, ("nuclear_norm",)),
    Entry("fuzz/polar", polar, ("polar",)),
    Entry("fuzz/sqrtm", sqrtm, ("sqrtm",)),
    Entry("fuzz/trace_sqrtm_product", trace_sqrtm_product, ("trace_sqrtm_product",)),
    Entry("fuzz/frechet_loss", frechet_loss, ("frechet_loss",)),
]
