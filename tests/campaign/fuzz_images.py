"""Fuzz of the resampler, of packed images, protocols and extractors; against Pillow, torch and NumPy."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import fastfid
from campaign.trial import Entry, close, either, pick, refuses, require, returns
from campaign.values import huge_integer, wrong_array, wrong_choice, wrong_device, wrong_integer

Generator = np.random.Generator
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
}
UNAVAILABLE = (ValueError, TypeError, fastfid.errors.BackendUnavailableError)


def pictures(rng: Generator, n: int | None = None, channels: int = 3) -> Any:
    """uint8 [n, H, W, C]."""
    h, w = (int(v) for v in rng.integers(1, 24, 2))
    n = int(rng.integers(1, 4)) if n is None else n
    return rng.integers(0, 256, (n, h, w, channels), dtype=np.uint8)


def laid(rng: Generator, images: Any) -> tuple[torch.Tensor, str]:
    """The same pixels as a tensor of some layout and strides."""
    kind = int(rng.integers(4))
    if kind == 0:
        return torch.from_numpy(images.copy()), "NHWC"
    if kind == 1:
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), "NCHW"
    if kind == 2:
        return torch.from_numpy(images.copy()).permute(0, 3, 1, 2), "NCHW"
    wide = torch.zeros((*images.shape[:2], 2 * images.shape[2], images.shape[3]), dtype=torch.uint8)
    wide[:, :, ::2] = torch.from_numpy(images)
    return wide[:, :, ::2], "NHWC"


def resize(rng: Generator, _: Path) -> None:
    kind = int(rng.integers(10))
    images = pictures(rng)
    size = tuple(int(v) for v in rng.integers(1, 20, 2))
    tensor, layout = laid(rng, images)
    function = functools.partial(fastfid.resize_normalize, tensor, size, input_layout=layout)
    if kind < 2:  # Pillow, bit for bit
        name = pick(rng, PILLOW)
        label = f"resize_normalize(quantize, {name})"
        got = returns(function, label=label, filter=name, quantize=True, out_dtype=torch.uint8)
        want = np.stack([np.asarray(Image.fromarray(one).resize(size[::-1], PILLOW[name])) for one in images])
        require(np.array_equal(got.permute(0, 2, 3, 1).numpy(), want), f"{label}: not Pillow's pixels")
    elif kind == 2:  # Pillow's float mode, cropped and with a map
        name = pick(rng, [one for one in PILLOW if one != "nearest"])
        h, w = images.shape[1:3]
        top, left = int(rng.integers(h)), int(rng.integers(w))
        part = top, left, int(rng.integers(1, h - top + 1)), int(rng.integers(1, w - left + 1))
        cut = images[:, top : top + part[2], left : left + part[3]]
        label = f"resize_normalize({name}, crop)"
        got = returns(function, label=label, filter=name, crop=part, scale=0.5, bias=-3.0)
        planes = cut.transpose(0, 3, 1, 2).astype(np.float32)
        want = [[np.asarray(Image.fromarray(p).resize(size[::-1], PILLOW[name])) for p in one] for one in planes]
        close(got, np.array(want) * 0.5 - 3.0, 2e-3, label)
    elif kind == 3:  # torch
        name = pick(rng, ("bilinear", "bicubic"))
        extra = {"a": -0.75} if name == "bicubic" else {}
        label = f"resize_normalize({name}, no antialias)"
        got = returns(function, label=label, filter=name, antialias=False, **extra)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        want = torch.nn.functional.interpolate(x, size, mode=name, align_corners=False)
        close(got, want, 5e-3, label)
    elif kind == 4:  # a list of any sizes equals one by one
        many = [pictures(rng, 1)[0] for _ in range(int(rng.integers(0, 4)))]
        got = returns(fastfid.resize_normalize, many, size, label="resize_normalize of a list")
        for index, one in enumerate(many):
            alone = fastfid.resize_normalize(torch.from_numpy(one)[None], size)[0]
            require(torch.equal(got[index], alone), "resize_normalize of a list: not as one by one")
    elif kind == 5:
        how, bad = _wrong_images(rng, images)
        refuses(
            fastfid.resize_normalize,
            bad,
            size,
            label=f"resize_normalize: images {how}",
            names=("images", "pixels", "sizes"),
        )
    elif kind == 6:
        name, how, bad = _wrong_option(rng)
        label = f"resize_normalize: {name} {how}"
        refuses(function, label=label, names=(name, name.split("_")[0]), errors=UNAVAILABLE, **{name: bad})
    elif kind == 7:
        how, bad = wrong_integer(rng, 1)
        given = (bad, 3) if rng.integers(2) else (3, bad)
        refuses(fastfid.resize_normalize, tensor, given, label=f"resize_normalize: size {how}", names=("size",))
    elif kind == 8:  # extreme integers may never reach memory that is not there
        part = [int(v) for v in rng.integers(0, 4, 4)]
        for _ in range(int(rng.integers(1, 3))):
            part[int(rng.integers(4))] = huge_integer(rng)[1] + int(rng.integers(-200, 200))
        refuses(function, label="resize_normalize: crop out of the world", names=("crop",), crop=tuple(part))
    else:
        part = [int(pick(rng, (2**62, 2**63, 2**64, 10**30))), 3]
        huge = part if rng.integers(2) else part[::-1]
        either(
            fastfid.resize_normalize, torch.from_numpy(images), huge, label="resize_normalize: size out of the world"
        )
        threads = huge_integer(rng)[1]
        either(function, label="resize_normalize: num_threads out of the world", num_threads=threads)


def _wrong_images(rng: Generator, images: Any) -> tuple[str, Any]:
    made: dict[str, Any] = {
        "int16": torch.from_numpy(images).short(),
        "float64": torch.from_numpy(images).double(),
        "bool": torch.from_numpy(images).bool(),
        "three axes": torch.from_numpy(images[0]),
        "two channels": torch.from_numpy(images[..., :2]),
        "no pixels": torch.from_numpy(images[:, :0]),
        "array": images,
        "None": None,
        "text": "abc",
        "dict": {},
        "gradient": torch.from_numpy(images).float().requires_grad_(),
        "list of floats": [images[0].astype(np.float32)],
        "list of other channels": [images[0], images[0][..., :1]],
        "list of None": [None],
        "list of text": ["a"],
        "list without pixels": [images[0][:0]],
        "list of masked": [np.ma.MaskedArray(images[0], np.ones(images[0].shape, bool))],
        "meta": torch.empty((1, 4, 4, 3), dtype=torch.uint8, device="meta"),
        "sparse": torch.from_numpy(images).to_sparse(),
        "complex": torch.from_numpy(images) + 0j,
    }
    how = pick(rng, made)
    return how, made[how]


def _wrong_option(rng: Generator) -> tuple[str, str, Any]:
    nan, inf = float("nan"), float("inf")
    numbers: dict[str, Any] = {"text": "x", "NaN": nan, "dict": {}, "object": object(), "complex": 2j}
    made: dict[str, dict[str, Any]] = {
        "a": {**numbers, "too small": -1.5, "too large": 1, "None": None},
        "crop": {"unknown": "left", "three": (0, 0, 1), "floats": (0.0, 0.0, 1.0, 1.0), "minus": (-1, 0, 1, 1),
                 "no": 3},
        "box": {"three": (0, 0, 1), "NaN": (0, 0, nan, 1), "outside": (0, 0, 999, 1), "empty": (1, 1, 1, 1), "no": 3,
                "text": ("a", 0, 1, 1), "infinity": (0, 0, inf, 1), "huge": (0, 0, 1e300, 1e300), "None": (None,) * 4},
        "clamp": {"reversed": (2, 1), "one": (1,), "text": ("a", "b"), "NaN": (nan, 1), "no": 3, "None": (None, None)},
        "scale": {**numbers, "infinity": inf, "too many": (1.0,) * 7, "None": None, "texts": ("a", "b", "c")},
        "bias": {**numbers, "infinity": -inf, "too few": (1.0,), "None": None},
        "out_channels": {"two": 2, "text": "3", "minus": -1, "huge": 2**63, "float": 3.5, "list": [3]},
        "out_dtype": {"float64": torch.float64, "text": "float32", "numpy": np.float32, "uint8": torch.uint8,
                      "None": None},
        "out": {"array": np.zeros(3), "other shape": torch.zeros(3), "text": "x", "number": 0},
        "antialias": {"text": "yes", "number": 1, "None": None},
        "quantize": {"text": "yes", "number": 1, "None": None},
    }  # fmt: skip
    for name in ("filter", "coordinates", "precision", "passes", "layout", "input_layout"):
        if rng.integers(4) == 0 and name != "input_layout":
            return (name, *wrong_choice(rng))
    if rng.integers(8) == 0:
        return ("num_threads", *wrong_integer(rng, 1, none=False))
    if rng.integers(8) == 0:
        return ("backend", *wrong_choice(rng, none=False))
    name = pick(rng, made)
    how = pick(rng, made[name])
    return name, how, made[name][how]


def ragged(rng: Generator, _: Path) -> None:
    many = [pictures(rng, 1)[0] for _ in range(int(rng.integers(0, 5)))]
    kind = int(rng.integers(5))
    if kind < 2:
        given = [torch.from_numpy(one) if rng.integers(2) else one[::-1].copy()[::-1] for one in many]
        packed = returns(fastfid.RaggedImages.pack, given, label="RaggedImages.pack")
        require(len(packed) == len(many), "RaggedImages.pack: wrong length")
        for index, one in enumerate(many):
            require(np.array_equal(packed[index].numpy(), one), "RaggedImages.pack: other pixels")
        again = pickle.loads(pickle.dumps(packed))
        require(torch.equal(again.pixels, packed.pixels) and again.sizes == packed.sizes, "RaggedImages: pickle")
    elif kind == 2:
        how, bad = _wrong_images(rng, pictures(rng))
        either(fastfid.RaggedImages.pack, bad if how.startswith("list") else [bad], label=f"RaggedImages.pack: {how}")
    else:
        good: dict[str, Any] = {"pixels": torch.zeros(24, dtype=torch.uint8), "sizes": ((2, 2), (2, 2)), "channels": 3}
        wrong: dict[str, dict[str, Any]] = {
            "pixels": {"array": np.zeros(24, np.uint8), "float": torch.zeros(24), "two axes": torch.zeros(2, 12).byte(),
                       "too few": torch.zeros(23).byte(), "strided": torch.zeros(48).byte()[::2], "None": None},
            "sizes": {"wrapping": ((2**32, 2**32), (2, 4)), "minus": ((-2, -2), (2, 2)), "zero": ((0, 2), (4, 2)),
                      "floats": ((2.0, 2.0), (2.0, 2.0)), "text": "ab", "None": None, "flat": (2, 2),
                      "three": ((2, 2, 1), (2, 2, 1)), "huge": ((2**62, 4), (2, 2)),
                      "NaN": ((float("nan"), 1), (2, 2))},
            "channels": {"two": 2, "text": "3", "None": None, "float": 3.0, "huge": 2**64, "minus": -3},
        }  # fmt: skip
        name = pick(rng, wrong)
        how = pick(rng, wrong[name])
        label = f"RaggedImages: {name} {how}"
        refuses(fastfid.RaggedImages, label=label, names=(name,), **{**good, name: wrong[name][how]})


def protocol(rng: Generator, _: Path) -> None:
    if rng.integers(2):
        name = pick(rng, fastfid.PROTOCOLS)
        got = returns(fastfid.protocol, name, label="protocol")
        require(got is fastfid.PROTOCOLS[name] and got.name == name, "protocol: another one")
        require(fastfid.protocol(got) is got, "protocol: a Protocol does not pass through")
    else:
        how, bad = wrong_choice(rng)
        refuses(fastfid.protocol, bad, label=f"protocol: {how}", names=("protocol",))


def protocol_class(rng: Generator, _: Path) -> None:
    one = fastfid.PROTOCOLS[pick(rng, fastfid.PROTOCOLS)]
    again = pickle.loads(pickle.dumps(one))
    require(again == one and again.fingerprint() == one.fingerprint(), "Protocol: not itself after pickle")
    name = pick(rng, ("name", "package", "source", "root"))
    other = returns(dataclasses.replace, one, label="Protocol", **{name: f"x{rng.integers(9)}"})
    require(other.fingerprint() == one.fingerprint(), "Protocol: a name changes the fingerprint")
    moved = dataclasses.replace(one, resize=dataclasses.replace(one.resize, size=(int(rng.integers(1, 99)), 7)))
    require(moved.fingerprint() != one.fingerprint(), "Protocol: another size has the same fingerprint")
    require(isinstance(one.to_dict()["decode"]["extensions"], list), "Protocol.to_dict")


def protocols(rng: Generator, _: Path) -> None:
    name = pick(rng, fastfid.PROTOCOLS)
    try:
        fastfid.PROTOCOLS[name] = None  # type: ignore[index]
    except TypeError:
        require(fastfid.PROTOCOLS[name].name == name, "PROTOCOLS: a key is not its name")
        return
    require(False, "PROTOCOLS: can be written to")


def pooled(x: torch.Tensor) -> torch.Tensor:
    """A tiny network: [n, 3, h, w] → [n, 12]."""
    return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class Pooled(torch.nn.Module):
    """The same as a module with a parameter and a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)) * self.scale


OUTPUTS: dict[str, Any] = {
    "None": lambda x: None,
    "text": lambda x: "abc",
    "dict": lambda x: {"a": pooled(x)},
    "two": lambda x: (pooled(x), pooled(x)),
    "integers": lambda x: pooled(x).long(),
    "complex": lambda x: pooled(x) + 0j,
    "too few": lambda x: torch.cat([pooled(x)] * 2),
    "maps": lambda x: x,
    "no features": lambda x: pooled(x)[:, :0],
    "flat": lambda x: pooled(x).flatten(),
    "object array": lambda x: pooled(x).numpy().astype(object),
    "array of integers": lambda x: pooled(x).numpy().astype(int),
    "strings": lambda x: pooled(x).numpy().astype("U4"),
    "big-endian": lambda x: pooled(x).numpy().astype(">f4")[::-1],
    "sparse": lambda x: pooled(x).to_sparse(),
}


def as_extractor(rng: Generator, folder: Path) -> None:
    x = torch.from_numpy(rng.normal(size=(int(rng.integers(1, 4)), 3, 4, 4)).astype(np.float32))
    kind = int(rng.integers(5))
    if kind < 2:
        module = Pooled()
        module.train(bool(rng.integers(2)))
        one = returns(fastfid.as_extractor, pooled if kind else module, label="as_extractor")
        got = returns(one, x, label="as_extractor: a call")
        close(got, pooled(x), 0.0, "as_extractor")
        require(module.training == module.drop.training, "as_extractor: a mode was not put back")
        if not kind:
            close(pickle.loads(pickle.dumps(one))(x), pooled(x), 0.0, "Extractor after pickle")
    elif kind == 2:
        bad: dict[str, Any] = {"None": None, "number": 3, "list": [pooled], "bytes": b"net.pt", "array": np.zeros(2)}
        bad |= {"no file": folder / "none.pt", "folder": folder, "NUL": "a\0b", "empty": "", "surrogate": "\udcff"}
        how = pick(rng, bad)
        refuses(fastfid.as_extractor, bad[how], label=f"as_extractor: {how}", names=("extractor", "obj"))
    elif kind == 3:
        how = pick(rng, OUTPUTS)
        function = OUTPUTS[how]
        one = fastfid.as_extractor(function, "mine")
        if how == "big-endian":
            either(
                one, x, label="as_extractor: output big-endian", check=lambda got: close(got, pooled(x).flip(0), 0, how)
            )
        else:
            refuses(one, x, label=f"as_extractor: output {how}", names=("mine",))
    else:
        how, device = wrong_device(rng, meta=False)
        label = f"as_extractor: device {how}"
        refuses(fastfid.as_extractor, pooled, label=label, names=("device",), errors=UNAVAILABLE, device=device)


def extractor(rng: Generator, _: Path) -> None:
    one = fastfid.as_extractor(Pooled(), "mine")
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    kind = int(rng.integers(3))
    if kind == 0:
        got = returns(one, torch.from_numpy(x), label="Extractor")
        close(got, pooled(torch.from_numpy(x)), 0.0, "Extractor")
        require(one.dim == 12 and one.taps == ("",) and one.to("cpu") is one, "Extractor: dim, taps or to")
    elif kind == 1:
        bad = {"float64": torch.from_numpy(x).double(), "two channels": torch.from_numpy(x[:, :2]), "empty":
               torch.from_numpy(x[:0]), "three axes": torch.from_numpy(x[0]),
               "uint8": torch.from_numpy(x).byte()}  # fmt: skip
        how = pick(rng, bad)
        refuses(one, bad[how], label=f"Extractor: x {how}", names=("x ", "x:", "x="))
        how, value = wrong_array(rng, x.astype(np.float64), but=("NaN", "infinity", "minus infinity"))
        refuses(one, value, label=f"Extractor: x {how}", names=("x ", "x:", "x="))
    else:
        how, device = wrong_device(rng, meta=False)
        label = f"Extractor.to: device {how}"
        refuses(one.to, device, label=label, names=("device",), errors=UNAVAILABLE)


@functools.cache
def _network() -> Any:
    return fastfid.inception_extractor("64", weights="random")


def inception(rng: Generator, folder: Path) -> None:
    kind = int(rng.integers(8))
    function = fastfid.inception_extractor
    if kind == 0:
        x = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 75, 75)).astype(np.float32))
        got = returns(_network(), x, label="inception_extractor: a call")
        require(tuple(got.shape) == (1, 64) and bool(torch.isfinite(got).all()), "inception_extractor: features")
        twice = _network()(torch.cat([x, x]))
        close(twice[0], got[0], 1e-5 * float(got.abs().max()), "inception_extractor: batch of two")
    elif kind == 1:
        how, bad = wrong_choice(rng)
        refuses(function, bad, label=f"inception_extractor: tap {how}", names=("tap",), weights="random")
    elif kind == 2:
        how, bad = wrong_choice(rng)
        label = f"inception_extractor: precision {how}"
        refuses(function, label=label, names=("precision",), weights="random", precision=bad)
    elif kind == 3:
        how, bad = wrong_device(rng, meta=False)
        label = f"inception_extractor: device {how}"
        refuses(function, label=label, names=("device",), errors=UNAVAILABLE, weights="random", device=bad)
    elif kind == 4:
        refuses(function, label="inception_extractor: graphs", names=("graphs",), weights="random", graphs=True)
    else:
        (folder / "some.pth").write_bytes(rng.bytes(int(rng.integers(0, 300))))
        weights: dict[str, Any] = {
            "no file": folder / "none.pth",
            "noise": folder / "some.pth",
            "folder": folder,
            "number": 3,
            "seed": "random:x",
            "minus seed": "random:-1",
            "huge seed": "random:" + "9" * 5000,
            "empty": "",
            "NUL": "a\0b",
            "bytes": b"abc",
            "list": [1],
        }
        how = pick(rng, weights)
        errors = (ValueError, TypeError, fastfid.errors.WeightsNotFoundError, fastfid.errors.WeightsCorruptError)
        label = f"inception_extractor: weights {how}"
        refuses(function, label=label, names=("weights", "some.pth", "random"), errors=errors, weights=weights[how])


ENTRIES = [
    Entry("fuzz/resize_normalize", resize, ("resize_normalize",)),
    Entry("fuzz/RaggedImages", ragged, ("RaggedImages",)),
    Entry("fuzz/protocol", protocol, ("protocol",)),
    Entry("fuzz/Protocol", protocol_class, ("Protocol",)),
    Entry("fuzz/PROTOCOLS", protocols, ("PROTOCOLS",)),
    Entry("fuzz/as_extractor", as_extractor, ("as_extractor",)),
    Entry("fuzz/Extractor", extractor, ("Extractor",)),
    Entry("fuzz/inception_extractor", inception, ("inception_extractor",)),
]
