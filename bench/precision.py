"""What each precision of the network does to the distance: the same generated image sets in fp32 and in the others.

    python bench/precision.py [--count 200] [--no-save]

Sets: the demo's images, others of the same generator, and the first ones blurred and with noise. Taps 2048 and 64, the
random network. Two figures for each precision, tap and pair of sets, relative to the distance in fp32: "change" where
both sides ran in the precision, "mixed" where the first side's statistics are fp32's. A device that has a precision
runs it. Where a CPU has not, it is emulated: each convolution's input and weight are rounded as the precision would,
products and sums are float32's (fp16 also rounds what a convolution stores). The row says which.

fastfid.extractors.PRECISIONS holds the largest of these figures (tests/test_extractors_precision.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import RESULTS, machine, slug

import fastfid
from fastfid.demo.disturbances import DISTURBANCES
from fastfid.demo.images import make_images
from fastfid.extractors import PRECISIONS, Extractor, accepted_precisions, folded, inception_extractor
from fastfid.passes.pipeline import prepare

SIZE_PX = 128
BATCH = 24
TAPS = ("2048", "64")
TF32_BITS = 10

Round = Callable[[torch.Tensor], torch.Tensor]


def to_tf32(x: torch.Tensor) -> torch.Tensor:
    """Float32 to 10 explicit bits of the fraction, ties to even."""
    drop = 23 - TF32_BITS
    bits = x.view(torch.int32)
    last = (bits >> drop) & 1
    return ((bits + (1 << (drop - 1)) - 1 + last) >> drop << drop).view(torch.float32)


def to_fp16(x: torch.Tensor) -> torch.Tensor:
    """Float32 to float16 and back."""
    return x.half().float()


def keep(x: torch.Tensor) -> torch.Tensor:
    return x


EMULATED: dict[str, tuple[Round, Round]] = {"tf32": (to_tf32, keep), "fp16": (to_fp16, to_fp16)}
"""What is multiplied, and what is stored."""


class _Rounding(folded._PlainUnit):
    """A unit whose operands, and stored result, are rounded as another precision would."""

    operand, stored = staticmethod(keep), staticmethod(keep)

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        unit = self.unit
        made = F.conv2d(self.operand(x), self.operand(self.weight), self.bias, unit.stride, unit.padding)
        return self.stored(made)


def emulated(precision: str) -> Extractor:
    """The fp32 network with rounded operands."""
    operand, stored = EMULATED[precision]
    kind = type("Rounding", (_Rounding,), {"operand": staticmethod(operand), "stored": staticmethod(stored)})
    plain, usable = folded._PlainUnit, folded.onednn_usable
    folded._PlainUnit, folded.onednn_usable = kind, lambda: False  # type: ignore[assignment, misc]
    try:
        return inception_extractor(TAPS, weights="random")
    finally:
        folded._PlainUnit, folded.onednn_usable = plain, usable  # type: ignore[misc]


def image_sets(count: int) -> dict[str, np.ndarray]:
    """Name → uint8 [count, 128, 128, 3]; the first is the side that the others are compared with."""
    originals = make_images(count, SIZE_PX, 0)
    spoiled = {d.name: d.apply(originals, d.levels[2], 3) for d in DISTURBANCES[:2]}
    return {"generated": originals, "other seed": make_images(count, SIZE_PX, 1), **spoiled}


def features(extractor: Extractor, images: np.ndarray) -> list[torch.Tensor]:
    """[n, d] for each tap."""
    protocol = fastfid.protocol("pytorch-fid")
    made = []
    for start in range(0, len(images), BATCH):
        x = prepare(torch.from_numpy(images[start : start + BATCH]), protocol, extractor.device)
        made.append([values.cpu() for values in extractor.features(x)])
    extractor.check()
    return [torch.cat(parts) for parts in zip(*made, strict=True)]


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(fastfid.frechet_moments(fastfid.Moments.from_features(first), fastfid.Moments.from_features(second)))


def rows_of(name: str, how: str, exact: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each tap and pair."""
    first = next(iter(exact))
    rows = []
    for (place, tap), second in itertools.product(enumerate(TAPS), list(exact)[1:]):
        want = distance(exact[first][place], exact[second][place])
        got = distance(other[first][place], other[second][place])
        mixed = distance(exact[first][place], other[second][place])
        far = (exact[second][place] - other[second][place]).abs().max() / exact[second][place].abs().max()
        rows.append(
            {
                "precision": name,
                "how": how,
                "tap": tap,
                "pair": f"{first} / {second}",
                "fp32": want,
                "value": got,
                "mixed_value": mixed,
                "change": abs(got - want) / want,
                "mixed": abs(mixed - want) / want,
                "feature_error": float(far),
            }
        )
        row = rows[-1]
        print(
            f"{name:5} {how:9} tap {tap:5} {row['pair']:32} fp32 {want:10.4f}  change {row['change']:.2e}"
            f"  mixed {row['mixed']:.2e}  features {row['feature_error']:.1e}",
            flush=True,
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="images in each set")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--out", type=Path, help="folder of the result file [bench/results/<machine>]")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    facts = machine(device)
    sets = image_sets(arguments.count)
    able = accepted_precisions(device)
    exact: dict[str, Any] = {}
    rows = []
    for name in PRECISIONS:
        if name not in able and name not in EMULATED:
            print(f"{name}: not measured, {device} has none and it is not emulated")
            continue
        runs = inception_extractor(TAPS, weights="random", device=device, precision=name) if name in able else None
        extractor = runs or emulated(name)
        made = {label: features(extractor, images) for label, images in sets.items()}
        if name == "fp32":
            exact = made
        else:
            rows += rows_of(name, device.type if name in able else "emulated", exact, made)
    if not arguments.no_save:
        folder = arguments.out or RESULTS / slug(facts)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "precision.json"
        path.write_text(json.dumps({"machine": facts, "count": arguments.count, "rows": rows}, indent=1) + "\n")
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
