"""Cases of resize_normalize: the protocols' resizes beside the packages that they come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import Case
from PIL import Image
from references import package

from fastfid import RaggedImages, resize_normalize

OUT = (299, 299)
GATE_CPU = "tests/test_resample.py"
GATE_GPU = "tests/test_resample_gpu.py"
CLEAN: dict[str, Any] = {"filter": "bicubic", "clamp": (0.0, 255.0), "scale": 1 / 128, "bias": -1.0}
CLOSE = 2e-6  # in the network's input units, −1…1


def _noise(n: int, height: int, width: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n * height + width)
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator).to(device)


def _bytes(images: torch.Tensor | RaggedImages, out_bytes: int) -> int:
    n = len(images)
    source = images.pixels.numel() if isinstance(images, RaggedImages) else images.numel()
    return source + n * 3 * OUT[0] * OUT[1] * out_bytes


def _clean_fid(images: torch.Tensor) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """clean-fid's own resizer, image by image as it runs it, then its network's normalisation."""
    module = package("cleanfid.resize")
    if isinstance(module, str):
        return {}, {"clean-fid": module}
    resizer = module.build_resizer("clean")
    arrays = list(images.numpy())

    def run() -> torch.Tensor:
        resized = np.stack([resizer(array) for array in arrays])
        return ((torch.from_numpy(resized) - 128) / 128).permute(0, 3, 1, 2)

    return {"clean-fid": run}, {}


def _torch_antialias(images: torch.Tensor) -> Callable[[], object]:
    planar = images.permute(0, 3, 1, 2)

    def run() -> torch.Tensor:
        resized = F.interpolate(planar.float(), size=OUT, mode="bicubic", align_corners=False, antialias=True)
        return resized.clamp_(0, 255).mul_(1 / 128).sub_(1)

    return run


def _on_cpu(side: int, n: int, origin: str) -> list[Case]:
    images = _noise(n, side, side, torch.device("cpu"))
    theirs, missing = _clean_fid(images)
    out = torch.empty(n, *OUT, 3).permute(0, 3, 1, 2)  # reused from batch to batch, as a pipeline does
    clean = Case(
        op="resize_normalize",
        name=f"clean {side}² to 299² float32",
        origin=origin,
        gate=GATE_CPU,
        items=n,
        bytes=_bytes(images, 4),
        flops=0,
        dtype="float32",
        threads=1,
        variants={
            "fastfid": lambda: resize_normalize(images, OUT, num_threads=1, out=out, **CLEAN),
            "fastfid, 2 threads": lambda: resize_normalize(images, OUT, num_threads=2, out=out, **CLEAN),
            "fastfid, new tensor": lambda: resize_normalize(images, OUT, num_threads=1, **CLEAN),
            **theirs,
            "torch interpolate antialias": _torch_antialias(images),
        },
        bounds={"clean-fid": CLOSE, "torch interpolate antialias": 1e-4},
        missing=missing,
    )
    planar = images.permute(0, 3, 1, 2)
    bilinear = {"filter": "bilinear", "antialias": False, "scale": 2 / 255, "bias": -1.0, "num_threads": 1}
    half_pixel = Case(
        op="resize_normalize",
        name=f"pytorch-fid {side}² to 299² float32",
        origin="the pytorch-fid protocol",
        gate=GATE_CPU,
        items=n,
        bytes=_bytes(images, 4),
        flops=0,
        dtype="float32",
        threads=1,
        variants={
            "fastfid": lambda: resize_normalize(images, OUT, **bilinear),
            "torch interpolate": lambda: (
                F.interpolate(planar.float().div_(255), size=OUT, mode="bilinear", align_corners=False).mul_(2).sub_(1)
            ),
        },
        bounds={"torch interpolate": CLOSE},
    )
    pillows = [Image.fromarray(array) for array in images.numpy()]
    contiguous = planar.contiguous()

    def pillow() -> torch.Tensor:
        resized = [np.asarray(image.resize(OUT, Image.Resampling.BICUBIC)) for image in pillows]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)

    eight: dict[str, Any] = {"quantize": True, "out_dtype": torch.uint8, "num_threads": 1}
    uint8 = Case(
        op="resize_normalize",
        name=f"uint8 bicubic {side}² to 299²",
        origin="the pre-resize of text-to-image work; dgm-eval, CLIP-FID",
        gate="tests/test_resample_pillow.py",
        items=n,
        bytes=_bytes(images, 1),
        flops=0,
        dtype="uint8",
        threads=1,
        variants={
            "fastfid": lambda: resize_normalize(images, OUT, **eight),
            "Pillow": pillow,
            "torch uint8, planar": lambda: F.interpolate(contiguous, size=OUT, mode="bicubic", antialias=True),
            "torch uint8, channels_last": lambda: F.interpolate(planar, size=OUT, mode="bicubic", antialias=True),
        },
        # torch's weights have 15 bits and its bicubic another table: not Pillow's values
        bounds={"Pillow": 0.0, "torch uint8, planar": 2.0, "torch uint8, channels_last": 2.0},
    )
    return [clean, half_pixel, uint8]


def _ragged(device: torch.device, n: int, gate: str, **options: Any) -> Case:
    """Sizes of COCO photographs: 640 pixels on the long side, beside a uniform batch of the same number of pixels."""
    rng = np.random.default_rng(0)
    sizes = [(640, int(s)) if s % 2 else (int(s), 640) for s in rng.integers(360, 600, n)]
    ragged = RaggedImages.pack([rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]).to(device)
    side = round((ragged.pixels.numel() / 3 / n) ** 0.5)
    uniform = _noise(n, side, side, device)
    return Case(
        op="resize_normalize",
        name=f"ragged {n} photographs of 640 pixels to 299²",
        origin="workload M5: text-to-image on COCO",
        gate=gate,
        items=n,
        bytes=_bytes(ragged, 4),
        flops=0,
        dtype="float32",
        threads=1,
        variants={
            "fastfid": lambda: resize_normalize(ragged, OUT, **CLEAN, **options),
            f"fastfid, uniform {side}²": lambda: resize_normalize(uniform, OUT, **CLEAN, **options),
        },
        bounds={f"fastfid, uniform {side}²": float("inf")},  # other images
    )


def _on_gpu(device: torch.device, side: int, dtype: torch.dtype, origin: str) -> Case:
    n = 256 if side <= 299 else 32
    images = _noise(n, side, side, device)
    planar = images.permute(0, 3, 1, 2)
    out = torch.empty((n, 3, *OUT), dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)

    def theirs() -> torch.Tensor:
        resized = F.interpolate(planar.float(), size=OUT, mode="bicubic", align_corners=False, antialias=True)
        return resized.clamp_(0, 255).mul_(1 / 128).sub_(1).to(dtype, memory_format=torch.channels_last)

    return Case(
        op="resize_normalize",
        name=f"clean {n} × {side}² to 299² {str(dtype).removeprefix('torch.')}",
        origin=origin,
        gate=GATE_GPU,
        items=n,
        bytes=_bytes(images, dtype.itemsize),
        flops=0,
        dtype=str(dtype).removeprefix("torch."),
        threads=0,
        variants={
            "fastfid": lambda: resize_normalize(images, OUT, out_dtype=dtype, out=out, **CLEAN),
            "torch interpolate antialias": theirs,
        },
        bounds={"torch interpolate antialias": 1e-4 if dtype == torch.float32 else 1e-2},
    )


def cases(device: torch.device) -> list[Case]:
    """What bench/run.py asks for."""
    if device.type == "cuda":
        made = [_on_gpu(device, side, torch.float16, f"issue of speed: {side}² batches") for side in (256, 32, 1024)]
        return [*made, _on_gpu(device, 256, torch.float32, "workload M1"), _ragged(device, 256, GATE_GPU)]
    scale = 1 if os.environ.get("FASTFID_BENCH_FULL") else 2
    return [
        *_on_cpu(256, 16 // scale, "workloads M1, M5: the clean protocol at 256²"),
        *_on_cpu(1024, 4 // scale, "workload M6: FFHQ and MJHQ at 1024²"),
        *_on_cpu(32, 64 // scale, "workload M2: CIFAR-10"),
        _ragged(device, 16 // scale, GATE_CPU, num_threads=1),
    ]
