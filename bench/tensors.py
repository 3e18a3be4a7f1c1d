"""uint8 images in host memory to FID against given statistics: fastfid beside the packages, on the same tensors."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from evaluation import GATES, Row, Statistics, available, bare_network, gate, missing, row, seconds_of
from peak import resident_peak
from references import package, pytorch_fid, torch_fidelity, weights_file
from roofs import matmul_rate

import fastfid
from fastfid.extractors.inception import flops

ARITHMETIC = {"fp32": "float32", "tf32": "tf32", "fp16": "float16", "bf16": "bfloat16"}
REFERENCE = 4096  # images behind the given statistics


def make_images(count: int, size: int, seed: int, device: torch.device) -> torch.Tensor:
    """uint8 [count, 3, size, size] in host memory: smooth colour fields, made on the device block by block."""
    generator = torch.Generator(device).manual_seed(seed)
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for block in torch.split(images, 500):
        coarse = torch.rand(len(block), 3, 9, 9, generator=generator, device=device) * 255
        block.copy_(F.interpolate(coarse, size=(size, size), mode="bicubic").clamp_(0, 255).to(torch.uint8))
    return images


class Evaluation:
    """The images, and the statistics that they are compared with, under any protocol and precision."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device: torch.device = options.device
        self.count = options.count or (50_000 if self.device.type == "cuda" else 200)
        self.case = f"{self.count} × {options.size}² uint8 in host memory, batch {options.batch}"
        self.images = make_images(self.count, options.size, 1, self.device)
        self.others = make_images(min(self.count, REFERENCE), options.size, 2, self.device)

    def settings(self, precision: str, protocol: str) -> dict[str, Any]:
        """What both sides of a comparison have in common."""
        common = {"weights": weights_file(), "device": self.device, "batch_size": self.options.batch}
        return {"precision": precision, "protocol": protocol, **common}

    def reference(self, precision: str = "fp32", protocol: str = "pytorch-fid") -> fastfid.Moments:
        """The given statistics."""
        return fastfid.stats(self.others, **self.settings(precision, protocol))

    def distance(
        self, reference: fastfid.Moments, precision: str = "fp32", protocol: str = "pytorch-fid"
    ) -> fastfid.FIDResult:
        """What is timed: reading the weights, every image, and the distance."""
        return fastfid.fid(reference, self.images, **self.settings(precision, protocol))

    def row(self, variant: str, unit: str, values: list[float], **more: Any) -> Row:
        """One row of this case."""
        return row("tensors", self.case, variant, unit, values, self.count, **more)


def _times(run: Evaluation, precision: str, want: float) -> list[Row]:
    """One precision of fastfid: gate, times, split, peaks."""
    device, name = run.device, f"fastfid {precision}"
    reference = run.reference(precision)
    got = float(run.distance(reference, precision))  # also the warm-up
    errors = gate(name, (got,), (want,), GATES[precision])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = resident_peak()
    taken = [seconds_of(lambda: run.distance(reference, precision), device) for _ in range(run.options.repeat)]
    peaks = {"growth of the host's": resident_peak() - before}
    if device.type == "cuda":
        peaks["GPU"] = torch.cuda.max_memory_allocated(device)
    split = _split(run, precision, float(np.median(taken)), reference)
    print(f"  {name}: {np.median(taken):.2f} s; {split}; peak memory {peaks}", flush=True)
    facts = {"fid": got, "max_difference": errors[0], "split": split}
    rows = [run.row(name, "ms", [t / run.count * 1e3 for t in taken], **facts)]
    return rows + [run.row(f"{name}, {what}", "bytes", [float(value)]) for what, value in peaks.items()]


def _evaluator(run: Evaluation, precision: str, want: float) -> list[Row]:
    """The same through ``fastfid.Evaluator``, as a training loop calls it: batches that lie on the device."""
    name, images = f"fastfid.Evaluator {precision}", run.images[: 4 * run.options.batch].to(run.device)
    evaluator = fastfid.Evaluator(run.reference(precision), **run.settings(precision, "pytorch-fid"))
    for batch in torch.split(run.images, run.options.batch):
        evaluator.update(batch)
    got = float(evaluator.compute())
    gate(name, (got,), (want,), GATES[precision])

    def update() -> None:
        for batch in torch.split(images, run.options.batch):
            evaluator.update(batch)

    updates = [seconds_of(update, run.device) / len(images) * 1e3 for _ in range(run.options.repeat)]
    computes = [seconds_of(evaluator.compute, run.device) * 1e3 for _ in range(run.options.repeat)]
    print(f"  {name}: update {np.median(updates):.3f} ms an image, compute {np.median(computes):.1f} ms", flush=True)
    rows = [row("evaluator", run.case, f"{name}, update", "ms", updates, run.options.batch)]
    return [*rows, row("evaluator", run.case, f"{name}, compute", "ms", computes, 1)]


def _split(run: Evaluation, precision: str, total: float, reference: fastfid.Moments) -> dict[str, float]:
    """Where the time goes: the network alone on the same batch size, the distance alone, and the share of the rest."""
    network = float(np.median(bare_network(precision, run.device, run.options.batch))) / 1e3
    moved = fastfid.Moments.from_statistics(reference.mean * 1.01, reference.cov() * 1.01, run.count)
    rate = flops(299) / network
    return {
        "total_s": total,
        "network_s": network * run.count,
        "distance_s": seconds_of(lambda: fastfid.frechet_moments(reference, moved), run.device),
        "rest_share": 1 - network * run.count / total,
        "network_flops_per_s": rate,
        "network_share_of_matmul": rate / matmul_rate(run.device, ARITHMETIC[precision]),
    }


def _packages(options: argparse.Namespace) -> dict[str, tuple[Callable[..., torch.Tensor], Callable[..., float]]]:
    """Name → (features of a uint8 batch, distance of two (mean, covariance)), as the package computes them."""
    device, found = options.device, {}
    theirs = pytorch_fid(str(device))
    if not missing("pytorch-fid", theirs, options):
        score: Any = package("pytorch_fid.fid_score")
        found["pytorch-fid"] = (
            lambda x: theirs(x.to(device).float().div(255))[0][:, :, 0, 0],  # type: ignore[operator]
            lambda one, two: float(score.calculate_frechet_distance(*one, *two)),
        )
    fidelity = torch_fidelity(str(device))
    if not missing("torch-fidelity", fidelity, options):
        metric: Any = package("torch_fidelity.metric_fid")

        def distance(*sides: Statistics) -> float:
            given = [{"mu": np.asarray(mu, np.float64), "sigma": sigma} for mu, sigma in sides]
            return float(metric.fid_statistics_to_metric(*given, verbose=False)[metric.KEY_METRIC_FID])

        found["torch-fidelity"] = (lambda x: fidelity(x.to(device))[0], distance)  # type: ignore[operator]
    return found


def _baselines(run: Evaluation) -> list[Row]:
    """Each package once (half a minute or more for 50,000 images): its features, NumPy's moments, its distance."""
    rows = []
    loose = GATES["tf32"] if run.device.type == "cuda" else 10 * GATES["fp32"]  # torch-fidelity adds in float32
    for name, (forward, distance) in _packages(run.options).items():
        reference = run.reference(protocol=name)
        given = reference.mean.cpu().numpy(), reference.cov().cpu().numpy()

        def evaluate(forward: Any = forward, distance: Any = distance, given: Statistics = given) -> float:
            with torch.inference_mode():
                batches = [forward(x).cpu().numpy() for x in torch.split(run.images, run.options.batch)]
            features = np.concatenate(batches)
            return float(distance(given, (np.mean(features, axis=0), np.cov(features, rowvar=False))))

        got: list[float] = []
        seconds = seconds_of(lambda made=got, run_it=evaluate: made.append(run_it()), run.device)  # type: ignore[misc]
        errors = gate(name, tuple(got), (float(run.distance(reference, protocol=name)),), loose)
        rows.append(run.row(name, "ms", [seconds / run.count * 1e3], fid=got[0], max_difference=errors[0]))
        print(f"  {name}: {seconds:.2f} s", flush=True)
    return rows


def tensors(options: argparse.Namespace) -> list[Row]:
    """The rows of this run."""
    run = Evaluation(options)
    print(f"tensors: {run.case}")
    want = float(run.distance(run.reference()))
    rows: list[Row] = []
    for precision in available(options):
        rows += _times(run, precision, want) + _evaluator(run, precision, want)
    return rows + _baselines(run)
