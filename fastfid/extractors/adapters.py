"""``Extractor``: what the pipeline calls to turn normalised images into features, and the ways to make one."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastfid.extractors.folded import FoldedInception
from fastfid.extractors.inception import (
    BATCH_NORM_EPS,
    TAPS,
    Run,
    Unit,
    check_images,
    check_taps,
    pool_before,
    units,
    walk,
)
from fastfid.extractors.precision import PRECISIONS, RangeGuard, check_precision
from fastfid.extractors.weights import WeightsInfo, file_sha256, load_weights, state_sha256
from fastfid.runtime.arithmetic import convolve, ieee_convolutions, stated
from fastfid.runtime.checks import a_device, plain_array, shared_tensor
from fastfid.runtime.files import check_sums, reading

INCEPTION_NAME = "inception-v3"

Compute = Callable[[Tensor], tuple[Tensor, ...]]


class Extractor:
    """A network, or anything that acts like one, with what a report must say about it.

    Made by ``inception_extractor`` and ``as_extractor``; its attributes don't change.

    Attributes:
        name: what it is, for reports; statistics of different names are not compared.
        taps: the places whose features it gives, in order; one empty name where there is only the output.
        weights: where the parameters are from, or None where that is not known.
        official: whether these are the published FID weights.
        metric: the short name of a Fréchet distance between its features: "fid", "sfid", "fid-64", … with the published
            weights, "fd-random" with random ones, else "fd"; "-tf32", "-bf16" or "-fp16" is added where it applies.
        device: where images must be, and where features will be.
        precision: a name from ``PRECISIONS``, "" where the network is the caller's own.
        memory_format: the layout of images that costs no conversion.
    """

    memory_format = torch.channels_last

    def __init__(
        self,
        compute: Compute,
        remake: Callable[[torch.device], Extractor],
        *,
        name: str,
        device: torch.device,
        taps: tuple[str, ...] = ("",),
        dims: Sequence[int | None] = (None,),
        weights: WeightsInfo | None = None,
        precision: str = "",
        check: Callable[[], None] = lambda: None,
        narrowed: Callable[[tuple[str, ...]], Extractor] | None = None,
    ) -> None:
        self._compute, self._remake, self._check, self._dims = compute, remake, check, list(dims)
        self._narrowed = narrowed
        self.name, self.device, self.taps, self.weights, self.precision = name, device, taps, weights, precision
        self.official = weights is not None and weights.official
        self.metric = _metric(weights, taps[0], precision)

    @property
    def dim(self) -> int | None:
        """D of the only, or the first, tap; None until it is known."""
        return self._dims[0]

    def __call__(self, x: Tensor) -> Tensor:
        """Features of the only tap.

        Args:
            x: images [N, 3, H, W] float32 on ``device``, normalised as the protocol says; N ≥ 1.

        Returns:
            [N, D] float32; a module of the caller's own that gives float64 keeps it. Not checked for NaN.

        Raises:
            TypeError, ValueError: x, or what the network made of it, is not of that form; or there are several taps.
        """
        if len(self.taps) > 1:
            raise ValueError(
                f"{self.name} has {len(self.taps)} taps; call .features(x), which gives one tensor for each"
            )
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """One [N, D] tensor for each tap, from one pass; arguments and errors as for a call."""
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a normalised float32 tensor [N, 3, H, W]; got {kind}")
        if x.ndim != 4 or x.shape[0] < 1 or x.shape[1] != 3:
            raise ValueError(f"x must be [N, 3, H, W] with N >= 1; got {list(x.shape)}")
        if x.device != self.device:
            raise ValueError(f"x is on {x.device}, the extractor {self.name} on {self.device}; use .to() on either")
        made = self._compute(x)
        for i, values in enumerate(made):
            if self._dims[i] not in (None, values.shape[1]):
                raise ValueError(
                    f"{self.name} gave {values.shape[1]} features for images {list(x.shape)}, where {self._dims[i]} "
                    "are expected; images of one size give features of one size"
                )
            self._dims[i] = values.shape[1]
        return made

    def at(self, *taps: str) -> Extractor:
        """The same network at some of its taps.

        Raises:
            ValueError: it has no such tap.
        """
        if taps == self.taps:
            return self
        unknown = [tap for tap in taps if tap not in self.taps]
        if unknown or self._narrowed is None or not taps:
            raise ValueError(f"{self.name}: no taps {', '.join(map(repr, unknown or taps))}; it has {self.taps}")
        return self._narrowed(taps)

    def check(self) -> None:
        """Raise where features given since the last check overflowed the precision; waits for the device, once.

        Only fp16 can overflow. On a CPU the call itself raises; on CUDA, where a call waits for nothing, this does.

        Raises:
            ValueError: they did; names the precision and what to use in its place.
        """
        self._check()

    def to(self, device: str | torch.device) -> Extractor:
        """The same extractor on another device; this one, and a module it was made from, stay where they are."""
        target = _device(device)
        return self if target == self.device else self._remake(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self._remake, self.device, self._dims)

    def __repr__(self) -> str:
        about = self.weights.label if self.weights else "weights unknown"
        return f"Extractor({self.name}, dim={self.dim}, {about}, {self.device})"


def _remade(remake: Callable[[torch.device], Extractor], device: torch.device, dims: list[int | None]) -> Extractor:
    """A pickled or copied extractor."""
    made = remake(device)
    made._dims = list(dims)
    return made


def inception_extractor(
    tap: str | Sequence[str] = "2048",
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    fold: bool = True,
    graphs: bool | None = None,
    download: bool = True,
    progress: bool = True,
) -> Extractor:
    """The FID Inception network.

    Args:
        tap: one name from ``TAPS``, or several, which ``Extractor.features`` then gives from one pass.
        weights: a file, "random", "random:SEED", or None to look where ``load_weights`` says.
        device: where to run.
        precision: "fp32" is IEEE float32, whatever torch's global switches say, and what the protocols mean. "tf32"
            (NVIDIA GPUs from compute capability 8.0), "bf16" (these, and CPUs with bfloat16 instructions) and "fp16"
            (GPUs, and CPUs with float16 instructions) are faster and move the distance by what
            ``PRECISIONS[precision].deviation`` says; the name and the metric's name carry them.
        fold: fold batch normalisation into the convolutions; False runs the plain network.
        graphs: one CUDA graph launch per batch, from the second batch of a shape on. None means on CUDA, where
            batch normalisation is folded. A graph keeps the memory of its activations.
        download, progress: as for ``load_weights``.

    Returns:
        An Extractor for images [N, 3, 299, 299]; other sizes of at least 75 px work except for "spatial", whose
        dimension is that of 299 px.

    Raises:
        WeightsNotFoundError, WeightsCorruptError: as for ``load_weights``.
        ValueError: a tap or precision is unknown or can't be had on the device, or graphs are asked for where there
            are none. In a call on a CPU, or by ``Extractor.check``: an activation left the range of fp16.

    Numerics:
        fp32 features equal those of pytorch-fid, torch-fidelity and torchmetrics within 1e-5 of their scale for the
        same weights and images (tests/oracles/test_network_oracles.py).
    """
    taps = check_taps((tap,) if isinstance(tap, str) else tap)
    target = _device(device)
    check_precision(precision, target)
    if graphs and not (fold and target.type == "cuda"):
        raise ValueError(f"graphs=True needs a CUDA device and fold=True; got device={str(target)!r}, fold={fold}")
    state, info = load_weights(weights, download=download, progress=progress)

    return _Inception(state, info, taps, precision, fold, graphs)(target)


@dataclass(frozen=True, eq=False)
class _Inception:
    """How the Inception extractor is made on a device."""

    state: Mapping[str, Tensor]
    weights: WeightsInfo
    taps: tuple[str, ...]
    precision: str
    fold: bool
    graphs: bool | None

    def __call__(self, where: torch.device) -> Extractor:
        check_precision(self.precision, where)
        network = _network(self.state, where, self.precision, self.fold, self.graphs)
        return self._extractor(network, where, self.taps)

    def _extractor(self, network: FoldedInception | _Plain, where: torch.device, taps: tuple[str, ...]) -> Extractor:
        """The network's features at some taps; remade elsewhere, at these taps."""
        suffix = "" if self.precision == "fp32" else f" ({self.precision})"
        return Extractor(
            lambda x: network(x, taps),
            replace(self, taps=taps),
            name=f"{INCEPTION_NAME}:{'+'.join(taps)}{suffix}",
            device=where,
            taps=taps,
            dims=[TAPS[name] for name in taps],
            weights=self.weights,
            precision=self.precision,
            check=network.check,
            narrowed=lambda fewer: self._extractor(network, where, fewer),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> _Inception:
        return self  # nothing writes to the parameters


def _network(
    state: Mapping[str, Tensor], device: torch.device, precision: str, fold: bool, graphs: bool | None
) -> FoldedInception | _Plain:
    """The network in the form that is asked for."""
    if not fold:
        return _Plain(state, device, precision)
    return FoldedInception(state, device, precision, graphs=device.type == "cuda" and graphs is not False)


def as_extractor(obj: Any, name: str | None = None, device: str | torch.device | None = None) -> Extractor:
    """Anything that turns normalised images [N, 3, H, W] into features [N, D].

    A module runs in evaluation mode, without gradients and without the caller's autocast (that of its own ``forward``
    stays), and gets its modes back after each call; it is never moved, a device other than its own means a copy. A
    plain callable gets images on ``device`` and looks after the rest. Float32 convolutions and products of both are
    what torch's process-wide precision settings make of them.

    Args:
        obj: a ``torch.nn.Module``, the path of a TorchScript file, any callable, or an Extractor.
        name: for reports; where None, the class's, the file's or the function's.
        device: where to run; where None, where a module's parameters are, else the CPU.

    Returns:
        An Extractor that takes as output: a tensor or array [N, D] or [N, D, 1, 1] of floating point, or a list or
        tuple of exactly one such. Half precision becomes float32. ``weights`` is set for modules and files.

    Raises:
        TypeError: obj is none of these, or, in a call, the output is not.
        ValueError: the file can't be read as TorchScript, or, in a call, the output's shape is not [N, D].
    """
    if isinstance(obj, Extractor):
        return obj if device is None else obj.to(device)
    if isinstance(obj, (str, os.PathLike)):
        return _from_file(Path(obj).expanduser(), name, device)
    if isinstance(obj, nn.Module):
        label = name or type(obj).__name__
        state = {key: value for key, value in obj.state_dict().items() if isinstance(value, Tensor)}
        info = WeightsInfo(None, state_sha256(state), "module", False, label) if state else None
        return _from_module(obj, label, info, device)
    if callable(obj):
        label = name or str(getattr(obj, "__name__", type(obj).__name__))
        return _from_callable(obj, label, _device("cpu" if device is None else device))
    raise TypeError(
        "extractor must be a torch.nn.Module, the path of a TorchScript file or a callable [N, 3, H, W] -> [N, D]; "
        f"got {type(obj).__name__}"
    )


def _from_file(path: Path, name: str | None, device: str | torch.device | None) -> Extractor:
    """A TorchScript archive."""
    if not path.is_file():
        raise ValueError(f"extractor={str(path)!r}: no such file; expected a TorchScript file, a module or a callable")
    target = _device("cpu" if device is None else device)
    how = (
        "extractor={place!r} can't be read as TorchScript: {reason}. A state dict of the FID network is given as "
        "weights, not as the extractor."
    )
    with reading(path, say=how):
        check_sums(path)
        try:
            module = torch.jit.load(str(path), map_location=target)  # type: ignore[no-untyped-call, unused-ignore]
        except RuntimeError as error:
            raise ValueError(str(error).strip().split("\n", 1)[0]) from error
    sha256 = file_sha256(path)
    info = WeightsInfo(path, sha256, "argument", False, f"{path.name} (sha256 {sha256[:8]})")
    return _from_module(module, name or path.stem, info, target)


def _from_module(
    module: nn.Module, name: str, info: WeightsInfo | None, device: str | torch.device | None
) -> Extractor:
    """A module, copied where it must move."""
    _refuse_self_normalising(module, name)
    first = next((t for group in (module.parameters(), module.buffers()) for t in group), None)
    home = _device("cpu" if first is None else first.device)
    target = home if device is None else _device(device)
    runs = module if target == home else copy.deepcopy(module).to(target)

    def compute(x: Tensor) -> tuple[Tensor, ...]:
        with _evaluating(runs), torch.no_grad(), stated(target):
            return (_features(runs(x), len(x), name),)

    return Extractor(compute, _Module(module, name, info), name=name, device=target, weights=info)


@dataclass(frozen=True, eq=False)
class _Module:
    """How the extractor of a module is made on a device; TorchScript is pickled as its archive."""

    module: nn.Module
    name: str
    weights: WeightsInfo | None

    def __call__(self, where: torch.device) -> Extractor:
        return _from_module(self.module, self.name, self.weights, where)

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.module, torch.jit.ScriptModule):
            return type(self), (self.module, self.name, self.weights)
        archive = io.BytesIO()
        torch.jit.save(self.module, archive)  # type: ignore[no-untyped-call, unused-ignore]
        return _script_module, (archive.getvalue(), self.name, self.weights)


def _script_module(archive: bytes, name: str, weights: WeightsInfo | None) -> _Module:
    module = torch.jit.load(io.BytesIO(archive))  # type: ignore[no-untyped-call, unused-ignore]
    return _Module(module, name, weights)


def _refuse_self_normalising(module: nn.Module, name: str) -> None:
    """NVIDIA's TorchScript Inception takes raw pixels; normalised ones would give wrong features without a word."""
    if not isinstance(module, torch.jit.ScriptModule):
        return
    schema = getattr(module.forward, "schema", None)
    if schema is not None and "return_features" in [argument.name for argument in schema.arguments]:
        raise ValueError(
            f"{name} takes raw uint8 images and resizes and normalises them itself, but an extractor gets images that "
            "the protocol has already normalised. For the FID Inception network leave the extractor out: the published "
            "weights are the same network; or pass lambda x: net.layers(x).flatten(1)."
        )


def _from_callable(function: Callable[[Tensor], Any], name: str, device: torch.device) -> Extractor:
    """Any callable."""

    def compute(x: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), stated(device):
            return (_features(function(x), len(x), name),)

    return Extractor(compute, partial(_from_callable, function, name), name=name, device=device)


class _Plain:
    """The network without folding, for inference."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device, precision: str) -> None:
        self._precision, self._device = PRECISIONS[precision], device
        self._state = {
            name: value.to(device, self._precision.dtype) if value.is_floating_point() else value
            for name, value in state.items()
        }
        self._runs = {path: self._run(path, unit) for path, unit in units()}
        self._guard = RangeGuard(self._precision, device)
        self.check = self._guard.check

    def __call__(self, x: Tensor, taps: tuple[str, ...]) -> tuple[Tensor, ...]:
        """Features at the taps."""
        check_images(x)
        dtype = self._precision.dtype
        if dtype == torch.float32 and not ieee_convolutions(self._device):
            dtype = torch.float64
        fc = (self._state["fc.weight"], self._state["fc.bias"])
        with torch.no_grad(), stated(self._device):
            found = walk(x.to(dtype, memory_format=torch.channels_last), self._runs, fc, taps)
        made = tuple(found[tap].float() for tap in taps)
        self._guard.note(made)
        return made

    def _run(self, path: str, unit: Unit) -> Run:
        """One unit: pool, convolve, normalise, rectify."""

        def run(x: Tensor) -> Tensor:
            weight, mean, variance, scale, shift = (
                self._state[f"{path}.{part}"].to(x.dtype)
                for part in ("conv.weight", "bn.running_mean", "bn.running_var", "bn.weight", "bn.bias")
            )
            made = convolve(
                pool_before(x, unit.pool), weight, None, unit.stride, unit.padding, tf32=self._precision.tf32
            )
            return F.relu(F.batch_norm(made, mean, variance, scale, shift, training=False, eps=BATCH_NORM_EPS))

        return run


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode while inside; each submodule gets its own mode back."""
    training = [part for part in module.modules() if getattr(part, "training", False)]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _features(made: Any, count: int, name: str) -> Tensor:
    """A network's output as [count, D], or an error that says what came and what to do."""
    if isinstance(made, Mapping):
        raise TypeError(
            f"{name} gave a {type(made).__name__} with the keys {', '.join(map(str, list(made)[:8]))}; features must "
            "be one tensor [N, D]: wrap it, as in lambda x: model(x)[KEY]"
        )
    if isinstance(made, (list, tuple)):
        if len(made) != 1:
            raise TypeError(
                f"{name} gave a {type(made).__name__} of {len(made)}; features must be one tensor [N, D]: wrap it, as "
                "in lambda x: model(x)[0]"
            )
        made = made[0]
    if isinstance(made, np.ndarray) and made.dtype.kind == "f" and made.dtype.itemsize <= 8:
        made = shared_tensor(np.ascontiguousarray(plain_array(name, made), dtype=made.dtype.newbyteorder("=")))
    values = made
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} gave {kind}; features must be a floating-point tensor [N, D]")
    if values.layout != torch.strided:
        raise TypeError(f"{name} gave a sparse tensor; features must be dense [N, D]")
    if values.ndim == 4 and values.shape[2:] == (1, 1):
        values = values[:, :, 0, 0]
    if values.ndim != 2 or values.shape[0] != count or values.shape[1] < 1:
        hint = ", such as global average pooling, .flatten(1) or keeping the batch axis when squeezing"
        raise ValueError(
            f"{name} gave features {list(values.shape)} for {count} images; they must be [N, D] = [{count}, D]{hint}"
        )
    return values.detach() if values.dtype in (torch.float32, torch.float64) else values.detach().float()


def _metric(weights: WeightsInfo | None, tap: str, precision: str) -> str:
    """The short name of a Fréchet distance between such features; only the published weights make it a FID."""
    suffix = "" if precision in ("", "fp32") else f"-{precision}"
    if weights is not None and weights.official:
        return {"2048": "fid", "spatial": "sfid"}.get(tap, f"fid-{tap}") + suffix
    return ("fd-random" if weights is not None and weights.origin == "random" else "fd") + suffix


def _device(device: str | torch.device) -> torch.device:
    """A device with its index, so that "cuda" equals the "cuda:0" that tensors name."""
    chosen = a_device("device", device, with_values=False)
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return chosen
