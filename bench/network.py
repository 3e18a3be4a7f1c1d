"""Images per second of the FID network on a CPU: the folded form beside the plain one, interleaved, same tensors.

    python bench/network.py [--batch 16 32 50] [--repeat 5] [--json FILE]

The baselines are pytorch-fid's own forward where it can be imported, and ``InceptionV3`` as pytorch-fid would run it
(NCHW, batch normalisation on its own, the batch in one piece), which has the same layers. Weights are random; speed
does not depend on them. Every variant's features are compared with the plain network's in float64 before any timing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastfid.extractors import InceptionV3, inception_extractor, load_weights

Forward = Callable[[torch.Tensor], torch.Tensor]


def pytorch_fid(state: dict[str, torch.Tensor]) -> Forward | None:
    """pytorch-fid's network with the given parameters, or None where it or torchvision can't be imported."""
    with tempfile.TemporaryDirectory() as home:
        checkpoints = Path(home) / "hub" / "checkpoints"
        checkpoints.mkdir(parents=True)
        torch.save(state, checkpoints / "pt_inception-2015-12-05-6726825d.pth")
        os.environ["TORCH_HOME"] = home
        try:
            from pytorch_fid.inception import InceptionV3 as Theirs
        except (ImportError, RuntimeError) as error:
            print(f"# pytorch-fid: {str(error).splitlines()[0]}")
            return None
        network = Theirs(resize_input=False, normalize_input=False).eval()
    return lambda x: network(x)[0][:, :, 0, 0]


def variants(state: dict[str, torch.Tensor]) -> dict[str, tuple[Forward, torch.memory_format]]:
    """Name → forward and the layout of the images that it is given."""
    plain = InceptionV3()
    plain.load_state_dict(state)
    theirs = pytorch_fid(state)
    made: dict[str, tuple[Forward, torch.memory_format]] = {
        "plain NCHW fp32": (lambda x: plain(x)[0], torch.contiguous_format)
    }
    if theirs is not None:
        made["pytorch-fid"] = (theirs, torch.contiguous_format)
    for precision in ("fp32", "bf16"):
        try:
            extractor = inception_extractor(weights="random", precision=precision)
        except ValueError as error:
            print(f"# {error}")
            continue
        made[f"fastfid {precision}"] = (extractor, torch.channels_last)
    return made


def main() -> None:
    """Measure, print one line a case, and write JSON rows where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32, 50])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    state, _ = load_weights("random")
    forwards = variants(state)
    exact = InceptionV3().double()
    exact.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        probe = torch.rand(4, 3, 299, 299, generator=generator) * 2 - 1
        (truth,) = exact(probe.double())
        errors = {
            name: float((forward(probe.contiguous(memory_format=layout)) - truth).abs().max() / truth.abs().max())
            for name, (forward, layout) in forwards.items()
        }
        for batch in args.batch:
            x = torch.rand(batch, 3, 299, 299, generator=generator) * 2 - 1
            inputs = {name: x.contiguous(memory_format=layout) for name, (_, layout) in forwards.items()}
            seconds: dict[str, list[float]] = {name: [] for name in forwards}
            for turn in range(args.repeat + 1):
                for name, (forward, _) in forwards.items():
                    begin = time.perf_counter()
                    forward(inputs[name])
                    if turn:  # the first is the warm-up
                        seconds[name].append(time.perf_counter() - begin)
            for name, times in seconds.items():
                middle = statistics.median(times)
                fifths = statistics.quantiles(times, n=5, method="inclusive")
                print(f"batch {batch:3d}  {name:16s} {batch / middle:7.1f} images/s  (error {errors[name]:.1e})")
                rows.append(
                    {
                        "schema": 1,
                        "op": "inception_v3",
                        "backend": name,
                        "case": f"batch={batch}",
                        "unit": "images/s",
                        "p20": batch / fifths[3],
                        "p50": batch / middle,
                        "p80": batch / fifths[0],
                        "max_rel_err": errors[name],
                        "torch": torch.__version__,
                        "threads": torch.get_num_threads(),
                        "cpu": platform.processor() or platform.machine(),
                    }
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
