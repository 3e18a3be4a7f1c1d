"""Cases of the FID network on a batch in memory: every precision, beside the plain layers and pytorch-fid's network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from cases import Case
from references import PRECISIONS, extractor, package, weights_file

from fastfid.extractors import InceptionV3
from fastfid.extractors.inception import flops

GATE = "tests/test_extractors_network.py"
# Relative to the largest feature of the batch.
BOUNDS = {"tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
SAME = 1e-5


@lru_cache(maxsize=2)
def images(batch: int, device: str) -> torch.Tensor:
    """Normalised noise, channels_last."""
    made = torch.rand(batch, 3, 299, 299, generator=torch.Generator().manual_seed(batch)) * 2 - 1
    return made.to(device).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def _plain(device: str) -> InceptionV3:
    network = InceptionV3()
    network.load_state_dict(torch.load(weights_file(), weights_only=True))
    return network.to(device)


@lru_cache(maxsize=1)
def _pytorch_fid(device: str) -> torch.nn.Module | str:
    weights_file()
    module = package("pytorch_fid.inception")
    if isinstance(module, str):
        return module
    made: torch.nn.Module = module.InceptionV3(resize_input=False, normalize_input=False).eval().to(device)
    return made


def _relative(make: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Features over the largest, so that one bound serves all batches; no gradients."""

    def run() -> torch.Tensor:
        with torch.inference_mode():
            made = make()
            return made / made.abs().max()

    return run


def of_batch(batch: int, device: torch.device, precisions: tuple[str, ...] = PRECISIONS) -> Case:
    """One forward pass."""
    where = str(device)
    planar: list[torch.Tensor] = []

    def contiguous() -> torch.Tensor:
        if not planar:
            planar.append(images(batch, where).contiguous())
        return planar[0]

    variants: dict[str, Callable[[], object]] = {}
    bounds, missing = {}, {}
    for precision in precisions:
        name = "fastfid" if precision == "fp32" else f"fastfid {precision}"
        made = extractor(precision, where)
        if isinstance(made, str):
            missing[name] = made
            continue
        variants[name] = _relative(lambda network=made: network(images(batch, where)))  # type: ignore[misc]
        bounds[name] = BOUNDS.get(precision, 0.0)
    variants["plain layers, NCHW"] = _relative(lambda: _plain(where)(contiguous())[0])
    theirs = _pytorch_fid(where)
    if isinstance(theirs, str):
        missing["pytorch-fid"] = theirs
    else:
        variants["pytorch-fid"] = _relative(lambda: theirs(contiguous())[0][:, :, 0, 0])
    # On a GPU torch lets cuDNN's convolutions use TF32 unless told otherwise; the packages do not tell it.
    same = BOUNDS["tf32"] if device.type == "cuda" else SAME
    bounds |= {"plain layers, NCHW": same, "pytorch-fid": same}
    return Case(
        op="network",
        name=f"batch of {batch}, fp32 unless said",
        origin="the pipeline's default batch" if batch == 50 else "a batch that fills the device",
        gate=GATE,
        items=batch,
        bytes=4 * batch * (3 * 299 * 299 + 2048),
        flops=batch * flops(299),
        dtype="float32",
        threads=0,
        variants=variants,
        bounds=bounds,
        missing=missing,
        arithmetic="float32",
        rounds=5,
        inputs=(lambda: (images(batch, where), contiguous())) if device.type == "cuda" else None,
    )


def cases(device: torch.device) -> list[Case]:
    """All cases that make sense on a device."""
    return [of_batch(batch, device) for batch in ((50, 256) if device.type == "cuda" else (16, 50))]
