"""Fuzz of whole evaluations, with a tiny network on tiny images, against NumPy."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import fastfid
from campaign.fuzz_images import pooled
from campaign.fuzz_numerics import oracle
from campaign.trial import Entry, Fault, close, either, pick, refuses, require, returns, unchanged
from campaign.values import huge_integer, wrong_choice, wrong_device, wrong_integer

Generator = np.random.Generator
BASE = fastfid.protocol("pytorch-fid")
TINY = dataclasses.replace(BASE, resize=dataclasses.replace(BASE.resize, size=(8, 8)))
SETTINGS: dict[str, Any] = {"protocol": TINY, "device": "cpu", "progress": False, "extractor": pooled}
UNAVAILABLE = (ValueError, TypeError, fastfid.errors.BackendUnavailableError)


def pictures(rng: Generator, n: int | None = None) -> Any:
    """uint8 [n, 8, 8, 3]: at the size that TINY resizes to, so that the resize changes nothing."""
    n = int(rng.integers(2, 20)) if n is None else n
    low = int(rng.integers(0, 200))
    return rng.integers(low, int(rng.integers(low + 1, 257)), (n, 8, 8, 3), dtype=np.uint8)


def features_of(images: Any) -> Any:
    """What TINY and ``pooled`` make of them, in float64."""
    x = images.astype(np.float64) / 127.5 - 1.0
    return x.reshape(len(x), 2, 4, 2, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(len(x), 12)


def distance(x: Any, y: Any) -> float:
    fx, fy = features_of(x), features_of(y)
    return oracle(fx.mean(0), np.cov(fx.T), fy.mean(0), np.cov(fy.T))


def written(folder: Path, images: Any, name: str) -> Path:
    (folder / name).mkdir()
    for index, one in enumerate(images):
        Image.fromarray(one).save(folder / name / f"{index:03d}.png")
    return folder / name


def as_set(rng: Generator, images: Any, folder: Path, name: str) -> Any:
    """The same images as another kind of set."""
    kind = int(rng.integers(9))
    if kind == 0:
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if kind == 1:
        return torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    if kind == 2:
        cut = int(rng.integers(0, len(images) + 1))
        return [part for part in (images[:cut], images[cut:]) if len(part)]
    if kind == 3:
        return (one for one in [images])
    if kind == 4:
        return written(folder, images[:6], name) if len(images) <= 6 else images
    if kind == 5:
        np.save(folder / f"{name}.npy", images)
        return folder / f"{name}.npy"
    if kind == 6:
        np.savez(folder / f"{name}.npz", arr_0=images)
        return str(folder / f"{name}.npz")
    if kind == 7:
        return images[::-1].copy()[::-1]
    return images


def as_update(rng: Generator, images: Any, folder: Path, name: str) -> Any:
    """As ``as_set``, but never a list of several batches, of which ``update`` would have to guess one."""
    made = as_set(rng, images, folder, name)
    return images if isinstance(made, list) else made


def wrong_set(rng: Generator, folder: Path) -> tuple[str, Any]:
    """No image set."""
    images = pictures(rng, 3)
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "noise.npz").write_bytes(rng.bytes(200))
    np.save(folder / "floats.npy", images / 255)
    made: dict[str, Any] = {
        "None": None,
        "number": 3,
        "floats": images / 255,
        "float tensor": torch.from_numpy(images).float(),
        "three axes": images[0],
        "two channels": images[..., :2],
        "nothing": images[:0],
        "one image": images[:1],
        "no folder": folder / "none",
        "empty folder": folder / "empty",
        "noise": folder / "noise.npz",
        "floats in npy": folder / "floats.npy",
        "NUL": "a\0b",
        "empty text": "",
        "list of None": [None, None],
        "list of texts": ["a", "b"],
        "dict": {"a": images},
        "empty list": [],
        "masked": np.ma.MaskedArray(images, np.ones(images.shape, bool)),
        "empty Moments": fastfid.Moments(),
        "objects": images.astype(object),
        "meta": torch.empty((4, 3, 8, 8), dtype=torch.uint8, device="meta"),
        "function": len,
        "class": dict,
    }
    how = pick(rng, made)
    return how, made[how]


def wrong_setting(rng: Generator) -> tuple[str, str, Any]:
    """(argument, what is wrong, value)."""
    name = pick(
        rng, ("protocol", "tap", "precision", "device", "batch_size", "num_workers", "limit", "seed", "extractor")
    )
    if name == "protocol":
        return (name, *wrong_choice(rng))
    if name in ("tap", "precision"):
        how, bad = wrong_choice(rng, none=name == "precision")
        return name, how, bad
    if name == "device":
        return (name, *wrong_device(rng))
    if name == "extractor":
        bad = pick(rng, (3, b"x", [1], {}, "none.pt", "a\0b"))
        return name, type(bad).__name__, bad
    least = {"batch_size": 1, "num_workers": 0, "limit": 1, "seed": 0}[name]
    return (name, *wrong_integer(rng, least, none=name in ("batch_size", "seed")))


def with_wrong_setting(rng: Generator, function: Any, label: str, *sets: Any) -> None:
    name, how, bad = wrong_setting(rng)
    settings = {**SETTINGS, name: bad}
    if name in ("tap", "precision"):
        settings.pop("extractor")
        settings["weights"] = "random"
    named = (name, name.replace("_", " "))
    refuses(function, *sets, label=f"{label}: {name} {how}", names=named, errors=UNAVAILABLE, **settings)


def fid(rng: Generator, folder: Path) -> None:
    kind = int(rng.integers(6))
    x, y = pictures(rng), pictures(rng)
    if kind < 3:
        sets = as_set(rng, x, folder, "x"), as_set(rng, y, folder, "y")
        batch = int(rng.integers(1, 9))
        got = returns(fastfid.fid, *sets, label="fid", batch_size=batch, certify=bool(rng.integers(2)), **SETTINGS)
        size = float(features_of(x).var(0).sum() + features_of(y).var(0).sum())
        close(float(got), distance(x, y), 5e-6 * size + 1e-5, "fid")
        require((got.run.ref.n, got.run.gen.n) == (len(x), len(y)), "fid: n", repr((got.run.ref.n, got.run.gen.n)))
        require(got.lower <= float(got) <= got.upper, "fid: value outside its bounds", repr(got))
        json.dumps(got.to_dict(), allow_nan=False)
    elif kind == 3:
        how, bad = wrong_set(rng, folder)
        sets, name = ((bad, y), "ref") if rng.integers(2) else ((x, bad), "gen")
        either_named(rng, lambda: fastfid.fid(*sets, **SETTINGS), f"fid: set {how}", name)
    elif kind == 4:
        with_wrong_setting(rng, fastfid.fid, "fid", x, y)
    else:
        name = pick(rng, ("batch_size", "limit", "seed", "num_workers"))
        how, bad = huge_integer(rng)
        either(fastfid.fid, x, y, label=f"fid: {name} {how}", **{**SETTINGS, name: bad if name != "num_workers" else 0})


def either_named(rng: Generator, call: Any, label: str, name: str) -> None:
    """ValueError, TypeError or a missing file, never anything else, never a number."""
    del rng, name
    with unchanged(label):
        try:
            got = call()
        except (ValueError, TypeError, FileNotFoundError):
            return
        except Exception as error:
            raise Fault(f"{label}: {type(error).__name__}", str(error)[:300]) from error
    raise Fault(f"{label}: accepted", repr(got)[:200])


def stats(rng: Generator, folder: Path) -> None:
    kind = int(rng.integers(6))
    x = pictures(rng)
    if kind < 3:
        path = folder / "out.npz"
        got = returns(fastfid.stats, as_set(rng, x, folder, "x"), path, label="stats", **SETTINGS)
        want = features_of(x)
        close(got.mean, want.mean(0), 1e-5, "stats: mean")
        with np.load(path) as file:
            close(file["sigma"], np.cov(want.T), 1e-5, "stats: sigma in the file")
            require(int(file["n"]) == len(x), "stats: n in the file")
        require({one.name for one in folder.iterdir()} <= {"out.npz", "x", "x.npy", "x.npz"}, "stats: stray files")
    elif kind == 3:
        how, bad = wrong_set(rng, folder)
        if how in ("one image", "empty Moments"):
            return
        either_named(rng, lambda: fastfid.stats(bad, **SETTINGS), f"stats: set {how}", "images")
    elif kind == 4:
        with_wrong_setting(rng, fastfid.stats, "stats", x)
    else:
        name = pick(rng, ("output", "shard"))
        bads: dict[str, Any] = {
            "output": {"no ending": folder / "a", "no folder": folder / "b" / "a.npz", "number": 3, "NUL": "a\0b.npz",
                       "long": folder / ("n" * 300 + ".npz"), "folder": folder / "c.npz", "list": [1]},
            "shard": {"text": "x", "too large": "3/2", "minus": "-1/2", "floats": "0.5/2", "one": (1,), "number": 3,
                      "zero": "0/0", "huge": "1/" + "9" * 5000, "NaN": (float("nan"), 2)},
        }[name]  # fmt: skip
        (folder / "c.npz").mkdir()
        how = pick(rng, bads)
        errors = (ValueError, TypeError, OSError)
        label = f"stats: {name} {how}"
        names = (name, "write", "shard")
        refuses(fastfid.stats, x, label=label, names=names, errors=errors, **{**SETTINGS, name: bads[how]})
        left = {one.name for one in folder.iterdir()}
        require(left == {"c.npz"}, f"{label}: left a file", repr(left))


def evaluator(rng: Generator, folder: Path) -> None:
    kind = int(rng.integers(5))
    x, y = pictures(rng), pictures(rng)
    one = fastfid.Evaluator(x, **SETTINGS)
    if kind < 2:
        cut = int(rng.integers(0, len(y) + 1))
        for part in (y[:cut], y[cut:]):
            if len(part):
                returns(one.update, as_update(rng, part, folder, f"p{len(part)}{cut}"), label="Evaluator.update")
        require(one.n == len(y), "Evaluator.n")
        got = returns(one.compute, label="Evaluator.compute")
        size = float(features_of(x).var(0).sum() + features_of(y).var(0).sum())
        close(float(got), distance(x, y), 5e-6 * size + 1e-5, "Evaluator.compute")
        one.reset()
        require(one.n == 0, "Evaluator.reset")
    elif kind == 2:
        one.update(y)
        how, bad = wrong_set(rng, folder)
        if how not in ("one image", "nothing", "empty list", "three axes"):
            either_named(rng, lambda: one.update(bad), f"Evaluator.update: {how}", "images")
            require(one.n == len(y), f"Evaluator.update: {how}: took part of it", f"{one.n}, not {len(y)}")
    elif kind == 3:
        one.update(y)
        f = features_of(y).astype(np.float32)
        bads: dict[str, Any] = {"None": None, "array of texts": f.astype("U3"), "three axes": torch.zeros(2, 3, 4),
                                "other size": torch.zeros(2, 5), "integers": torch.zeros(2, 12, dtype=torch.int64),
                                "NaN": torch.full((2, 12), float("nan")), "flat": torch.zeros(12),
                                "text": "abc"}  # fmt: skip
        how = pick(rng, bads)
        if how == "NaN":  # looked at by compute

            def call(features: Any) -> Any:
                one.update_features(features)
                return one.compute()

            refuses(call, bads[how], label="Evaluator.update_features: NaN", names=("feature",))
        else:
            label = f"Evaluator.update_features: {how}"
            refuses(one.update_features, bads[how], label=label, names=("features",))
            require(one.n == len(y), f"{label}: counted")
    else:
        with_wrong_setting(rng, fastfid.Evaluator, "Evaluator", x)


def fid_result(rng: Generator, _: Path) -> None:
    """FIDResult survives pickle, copy and JSON with its history."""
    import copy
    import pickle

    x, y = _pool()[int(rng.integers(4))], _pool()[int(rng.integers(4))]
    one = _result_of(int(rng.integers(4)), int(rng.integers(4)))
    del x, y
    for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        require(float(again) == float(one) and again.run == one.run, "FIDResult: not itself after pickle or copy")
    plain = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    require(plain[plain["metric"]]["value"] == float(one), "FIDResult.to_dict")
    refuses(fastfid.FIDResult, float(one), label="FIDResult: unknown field", names=("nons",), nons=1)


@functools.cache
def _pool() -> list[Any]:
    return [pictures(np.random.default_rng(seed), 9) for seed in range(4)]


@functools.cache
def _result_of(a: int, b: int) -> Any:
    return fastfid.fid(_pool()[a], _pool()[b], **SETTINGS)


ENTRIES = [
    Entry("fuzz/fid", fid, ("fid",)),
    Entry("fuzz/stats", stats, ("stats",)),
    Entry("fuzz/Evaluator", evaluator, ("Evaluator",)),
    Entry("fuzz/FIDResult", fid_result, ("FIDResult",)),
]
