"""The FID network made ready to run: batch normalisation folded into the convolutions, channels last.

For a convolution with weight W followed by batch normalisation (γ, β, mean m, variance v):

    s = γ / sqrt(v + 1e-3)        W' = s · W        b' = β - s · m

in float64, rounded once to the working dtype. An average pool in front of a 1 x 1 convolution moves behind it, where
there are fewer channels; both are linear and the average of a constant is that constant, so the values are the same up
to rounding.

On a CPU, convolution, bias and ReLU are one oneDNN call with the weights reordered beforehand, where torch has the two
operators it uses for that itself in compiled models (their signatures are checked, so that a torch that changes them is
run by plain operators). The batch is cut into chunks whose largest activation stays below glibc's limit for memory that
is kept between calls; larger ones would be returned to the system and faulted in again page by page, which costs a
quarter of the time at 50 images.

Source: oneDNN; activations per image: 64 channels of 147 x 147 after Conv2d_2b_3x3 are the largest.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastfid.errors import SlowPathWarning
from fastfid.extractors.inception import (
    BATCH_NORM_EPS,
    Unit,
    check_images,
    check_taps,
    pool_before,
    units,
    walk,
)
from fastfid.extractors.precision import PRECISIONS, RangeGuard
from fastfid.runtime.arithmetic import convolve, ieee_convolutions, stated
from fastfid.runtime.graphs import Graphed

WIDENED = (
    "torch.backends' fp32_precision (before torch 2.9 set_float32_matmul_precision) makes float32 convolutions on this "
    "CPU less than float32; the network runs in float64, several times slower"
)
"""What ``FoldedInception`` warns of at its first such pass, and results list."""

_KEPT_BYTES = 32 * 2**20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems
_CONVOLUTION = (
    "mkldnn::_convolution_pointwise",
    ("Tensor", "Tensor", "Optional[Tensor]", "List[int]", "List[int]", "List[int]", "int", "str"),
)
_REORDER = (
    "aten::mkldnn_reorder_conv2d_weight",
    ("Tensor", "List[int]", "List[int]", "List[int]", "int", "Optional[List[int]]"),
)


def fold(state: Mapping[str, Tensor], path: str) -> tuple[Tensor, Tensor]:
    """The weight [outputs, inputs, h, w] and bias [outputs] of one unit with its batch normalisation, in float64."""
    scale = state[f"{path}.bn.weight"].double() * torch.rsqrt(state[f"{path}.bn.running_var"].double() + BATCH_NORM_EPS)
    weight = state[f"{path}.conv.weight"].double() * scale[:, None, None, None]
    return weight, state[f"{path}.bn.bias"].double() - state[f"{path}.bn.running_mean"].double() * scale


def onednn_usable() -> bool:
    """Whether this torch has oneDNN and the two operators behind the fused convolution, with the signatures we know."""
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call, unused-ignore]
    return available and all(_has(*known) for known in (_CONVOLUTION, _REORDER))


def _has(name: str, leading: tuple[str, ...]) -> bool:
    """Whether an operator exists and its first arguments have these types."""
    space, operator = name.split("::")
    packet = getattr(getattr(torch.ops, space), operator, None)
    if packet is None:
        return False
    types = [str(argument.type) for argument in packet.default._schema.arguments]
    return tuple(types[: len(leading)]) == leading


class _PlainUnit:
    """One unit by torch's ordinary operators, on any device."""

    def __init__(self, unit: Unit, weight: Tensor, bias: Tensor, tf32: bool = False) -> None:
        self.unit, self.bias, self.tf32 = unit, bias, tf32
        self.weight = weight.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor) -> Tensor:
        """Pool, convolve, rectify; an average pool goes behind the convolution."""
        unit = self.unit
        late = unit.pool == "average"
        x = self.convolve(x if late else pool_before(x, unit.pool))
        return F.relu_(pool_before(x, unit.pool) if late else x)

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution and its bias."""
        return convolve(x, self.weight, self.bias, self.unit.stride, self.unit.padding, tf32=self.tf32)


class _FusedUnit:
    """One unit as a single oneDNN call on a CPU, with weights in the order that the last input's size asks for.

    An order made for another size would be undone and redone in every call, which takes longer than the convolution.
    """

    def __init__(self, unit: Unit, weight: Tensor, bias: Tensor, tf32: bool = False) -> None:
        del tf32  # an arithmetic of GPUs
        self.unit, self.bias = unit, bias
        self.stride, self.padding = [unit.stride, unit.stride], list(unit.padding)
        self.ordered: tuple[torch.Size | None, Tensor] = (None, weight)

    def __call__(self, x: Tensor) -> Tensor:
        """Pool, convolve, rectify; an average pool goes behind the convolution, and the ReLU behind that."""
        pool = self.unit.pool
        if pool == "average":
            return F.relu_(pool_before(self._convolve(x, "none"), pool))
        return self._convolve(pool_before(x, pool), "relu")

    def _convolve(self, x: Tensor, then: str) -> Tensor:
        """The convolution, its bias and what follows it."""
        size, weight = self.ordered
        if size != x.shape[2:]:
            plain = weight if size is None else weight.to_dense()
            weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                plain.contiguous().to_mkldnn(), self.padding, self.stride, [1, 1], 1, list(x.shape)
            )
            self.ordered = (x.shape[2:], weight)
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, self.padding, self.stride, [1, 1], 1, then, [], ""
        )
        return made


class FoldedInception:
    """``InceptionV3`` folded for inference on one device.

    Args:
        state: the parameters under the public file's names.
        device: where to run.
        precision: a name from ``PRECISIONS``; pooled features and logits are float32 in any case.
        graphs: whether a batch of a shape that comes again is one launch of a CUDA graph.

    Numerics:
        fp32: within 1e-5 of the features' scale of the plain network (tests/test_extractors_network.py::
        test_folding_changes_nothing_but_rounding), whatever autocast, TF32 or bfloat16 settings the process has, none
        of which is touched (::test_the_callers_settings_do_not_matter). bf16: within 5e-2, 1e-1 for "spatial"
        (::test_bf16_is_close).
    """

    def __init__(
        self, state: Mapping[str, Tensor], device: torch.device, precision: str, *, graphs: bool = False
    ) -> None:
        self.device, self.precision, self._state = device, PRECISIONS[precision], state
        self.fused = device.type == "cpu" and onednn_usable()
        make = _FusedUnit if self.fused else _PlainUnit
        self._runs = self._folded(make, self.precision.dtype)
        self._wide_runs: dict[str, _PlainUnit | _FusedUnit] = {}
        self._fc = (state["fc.weight"].to(device), state["fc.bias"].to(device))
        self._graphs: dict[tuple[str, ...], Graphed] | None = {} if graphs else None
        self._guard = RangeGuard(self.precision, device)
        self.check = self._guard.check

    def _folded(self, make: type[_PlainUnit | _FusedUnit], dtype: torch.dtype) -> dict[str, _PlainUnit | _FusedUnit]:
        """Every unit by its path."""
        made = {}
        for path, unit in units():
            weight, bias = (part.to(self.device, dtype) for part in fold(self._state, path))
            made[path] = make(unit, weight, bias, self.precision.tf32)
        return made

    def _wide(self) -> dict[str, _PlainUnit | _FusedUnit]:
        """The units in float64, for a process that has bfloat16 or TF32 take the place of float32 on its CPU."""
        if not self._wide_runs:
            warnings.warn(WIDENED, SlowPathWarning, stacklevel=2)
            self._wide_runs = self._folded(_PlainUnit, torch.float64)
        return self._wide_runs

    def __call__(self, x: Tensor, taps: Sequence[str] = ("2048",)) -> tuple[Tensor, ...]:
        """Features at the wanted taps; the arguments and results are those of ``InceptionV3.forward``.

        Nothing here waits for a GPU.

        Raises:
            ValueError: also on a CPU in fp16, where an activation left its range; on a GPU ``check`` raises that.
        """
        wanted = check_taps(taps)
        check_images(x)
        made = self._run(x, wanted) if self._graphs is None else self._graphed(wanted)(x)
        self._guard.note(made)
        return made

    def _graphed(self, wanted: tuple[str, ...]) -> Graphed:
        """The pass to these taps with its graphs."""
        assert self._graphs is not None
        if wanted not in self._graphs:
            self._graphs[wanted] = Graphed(lambda x: self._run(x, wanted), "the Inception network")
        return self._graphs[wanted]

    def _run(self, x: Tensor, wanted: tuple[str, ...]) -> tuple[Tensor, ...]:
        """One pass, on a CPU chunk by chunk."""
        size = self._chunk(x) if self.device.type == "cpu" else len(x)
        wide = self.precision.dtype == torch.float32 and not ieee_convolutions(self.device)
        runs, dtype = (self._wide(), torch.float64) if wide else (self._runs, self.precision.dtype)
        chunks = []
        with torch.inference_mode(), stated(self.device):
            for part in torch.split(x, size):
                ready = part.to(dtype).contiguous(memory_format=torch.channels_last)
                chunks.append(walk(ready, runs, self._fc, wanted))
        # Outside inference mode, so that the caller gets ordinary tensors.
        return tuple(torch.cat([chunk[tap] for chunk in chunks]).float() for tap in wanted)

    def _chunk(self, x: Tensor) -> int:
        """How many images go through together: as many as memory allows, in chunks as even as they can be."""
        height, width = ((side - 3) // 2 - 1 for side in x.shape[2:])
        largest = 64 * height * width * self.precision.dtype.itemsize
        chunks = -(-len(x) // max(1, _KEPT_BYTES // largest))
        return -(-len(x) // chunks)
