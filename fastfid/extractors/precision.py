"""The network's arithmetics: what each is, where it can be had, and what it was measured to do to a distance.

The protocols' own arithmetic is IEEE float32. The others keep float32 sums and round what a convolution multiplies:

    tf32   float32 activations and weights, multiplied with 10 explicit bits of the fraction
    bf16   activations and weights stored in bfloat16, 7 bits, float32's range
    fp16   activations and weights stored in float16, 10 bits, largest value 65504

Pooled features and logits are float32 (logits by a float64 product) in any case.

Source: the deviations are those of bench/precision.py, bench/results/*/precision.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

_AMPERE = (8, 0)


@dataclass(frozen=True)
class Deviation:
    """What an arithmetic did to the Fréchet distance of two sets of generated images under the random network.

    Attributes:
        change: largest relative change over the taps and the pairs of sets, both sides in this arithmetic.
        mixed: the same where the reference's statistics are fp32's and only the other side's are of this arithmetic.
        emulated: measured by rounding operands on a CPU, with float32 sums, not on hardware that has it.
    """

    change: float
    mixed: float
    emulated: bool


@dataclass(frozen=True)
class Precision:
    """One arithmetic of the network.

    Attributes:
        name: as callers give it.
        dtype: of activations and weights.
        tf32: whether float32 convolutions are multiplied as TF32.
        overflows: whether its range is so much smaller than float32's that activations may leave it.
        deviation: what was measured; None for fp32 itself.
    """

    name: str
    dtype: torch.dtype
    tf32: bool = False
    overflows: bool = False
    deviation: Deviation | None = None

    @property
    def remark(self) -> str:
        """One sentence for a result that is not fp32's; empty for fp32."""
        if self.deviation is None:
            return ""
        how = " (emulated on a CPU)" if self.deviation.emulated else ""
        return (
            f"the network ran in {self.name}; the protocol's own arithmetic is fp32. Measured{how} under the random "
            f"network, distances of generated image sets moved by up to {self.deviation.change:.2%}, and by up to "
            f"{self.deviation.mixed:.2%} where the other side's statistics were fp32's"
        )

    def why_not(self, device: torch.device) -> str | None:
        """None where a device can run it at a speed worth having, else the reason."""
        if self.name == "fp32":
            return None
        if self.name == "tf32":
            return _why_no_tf32(device)
        if device.type == "cuda":
            return _why_no_bf16_on_cuda(device) if self.name == "bf16" else None
        if device.type == "cpu":
            return _why_no_half_on_cpu(self.name)
        return "it is known on CPU and CUDA only"


def _why_no_tf32(device: torch.device) -> str | None:
    if device.type != "cuda" or torch.version.hip:
        return "TF32 is an arithmetic of NVIDIA GPUs"
    return _why_older_than_ampere(device, "TF32")


def _why_no_bf16_on_cuda(device: torch.device) -> str | None:
    return None if torch.version.hip else _why_older_than_ampere(device, "bfloat16")


def _why_older_than_ampere(device: torch.device, arithmetic: str) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) >= _AMPERE:
        return None
    return f"{arithmetic} needs compute capability 8.0, and this GPU has {major}.{minor}"


def _why_no_half_on_cpu(name: str) -> str | None:
    """Without instructions of its own float16 is emulated, and several times slower than float32."""
    known = torch.ops.mkldnn
    able = torch.backends.mkldnn.is_available() and (  # type: ignore[no-untyped-call, unused-ignore]
        known._is_mkldnn_bf16_supported() if name == "bf16" else known._is_mkldnn_fp16_supported()
    )
    if able:
        return None
    long_name = {"bf16": "bfloat16", "fp16": "float16"}[name]
    return f"this CPU, or this torch, has no {long_name} arithmetic, and without it it would be slower than fp32"


PRECISIONS: Mapping[str, Precision] = {
    one.name: one
    for one in (
        Precision("fp32", torch.float32),
        Precision("tf32", torch.float32, tf32=True, deviation=Deviation(4.3e-4, 1.8e-3, True)),
        Precision("bf16", torch.bfloat16, deviation=Deviation(9.4e-3, 3.7e-2, False)),
        Precision("fp16", torch.float16, overflows=True, deviation=Deviation(4.1e-4, 1.8e-3, True)),
    )
}
"""Every arithmetic by its name."""


def accepted_precisions(device: torch.device) -> list[str]:
    """The names that a device can run."""
    return [name for name, one in PRECISIONS.items() if one.why_not(device) is None]


def check_precision(name: str, device: torch.device) -> Precision:
    """The arithmetic of that name; ValueError where it is unknown, or not to be had on the device."""
    if not isinstance(name, str) or name not in PRECISIONS:
        raise ValueError(f"precision={name!r} is not known; accepted: {', '.join(PRECISIONS)}")
    reason = PRECISIONS[name].why_not(device)
    if reason is not None:
        raise ValueError(
            f"precision={name!r} can't be had on {device}: {reason}; accepted there: "
            f"{', '.join(accepted_precisions(device))}"
        )
    return PRECISIONS[name]


class RangeGuard:
    """Notices that activations left the range of a precision, without waiting for a GPU.

    An activation that overflows is infinite and stays that, or becomes NaN, up to the features (−∞ becomes 0 at the
    next rectifier, as any negative number does), so that looking at the features is enough.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._precision, self._device = precision, device
        self._finite: torch.Tensor | None = None

    def note(self, features: Sequence[torch.Tensor]) -> None:
        """Whether all are finite goes into a flag on the device; a CPU looks at it at once."""
        if not self._precision.overflows:
            return
        finite = torch.stack([torch.isfinite(values).all() for values in features]).all()
        self._finite = finite if self._finite is None else self._finite & finite
        if self._device.type == "cpu":
            self.check()

    def check(self) -> None:
        """ValueError where features since the last check were not finite; reads one flag from the device."""
        finite, self._finite = self._finite, None
        if finite is not None and not bool(finite):
            name, largest = self._precision.name, torch.finfo(self._precision.dtype).max
            raise ValueError(
                f"precision={name!r}: features are NaN or infinite, because an activation of the network went beyond "
                f"{largest:g}, the largest {name} value (or the images hold such values); use 'bf16' or 'fp32'"
            )
