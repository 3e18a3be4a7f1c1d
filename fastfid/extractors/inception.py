"""The Inception network that the Fréchet Inception Distance is defined with.

Inception v3 (Szegedy et al. 2016) as the 2015-12-05 TensorFlow graph has it, which is not torchvision's network:

    average pools leave the padding out of the average (``count_include_pad=False``) in the blocks Mixed_5b to 7b,
    Mixed_7c takes the maximum in the place of that average, the classifier has 1008 outputs.

The layers are data: ``STEM`` and ``BLOCKS`` say which convolutions there are and how they are joined, ``walk`` follows
them. ``InceptionV3`` holds the parameters under the public file's names; ``fastfid.extractors.folded`` follows the same
tables with batch normalisation folded away.

Source: Szegedy et al., CVPR 2016, arXiv:1512.00567; Heusel et al., NeurIPS 2017, arXiv:1706.08500; the layer names and
the deviations are those of github.com/mseitzer/pytorch-fid, whose outputs tests/oracles/test_network_oracles.py
compares with these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3
CLASSES = 1008
SPATIAL_CHANNELS = 7
SMALLEST_SIDE_PX = 75

TAPS: Mapping[str, int] = {
    "64": 64,
    "192": 192,
    "spatial": 17 * 17 * SPATIAL_CHANNELS,
    "768": 768,
    "2048": 2048,
    "logits_unbiased": CLASSES,
    "logits": CLASSES,
}
"""The places where features can be taken, in the order in which they are reached, and their dimensions at 299 px.

"64", "192", "768" and "2048" are spatial means of what pytorch-fid calls blocks 0 to 3. "spatial" is the first 7
channels of Mixed_6d.branch1x1 on its 17 x 17 grid, flattened row by row with channels last, which is what sFID uses
(Nash et al. 2021, arXiv:2103.03841). "logits" are the classifier's outputs, "logits_unbiased" those without its bias.
"""


class Unit(NamedTuple):
    """A convolution without bias, batch normalisation and ReLU; ``pool`` names the 3 x 3 pooling in front of it."""

    name: str
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    pool: str = ""


class MaxPool(NamedTuple):
    """The 3 x 3 maximum with stride 2 by which a branch, or the stem, halves its grid."""


Step = Unit | MaxPool | tuple[Unit, ...]
"""A tuple of units is a fork: all read the same input and their outputs are concatenated."""
Branch = tuple[Step, ...]
Block = tuple[Branch, ...]


def _chain(name: str, inputs: int, *layers: tuple[int, int | tuple[int, int]], stride: int = 1) -> list[Unit]:
    """Units called name_1, name_2, …, each (outputs, kernel), padded to keep the grid; the last may have a stride."""
    units = []
    for i, (outputs, kernel) in enumerate(layers, start=1):
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        last = i == len(layers)
        padding = (0, 0) if last and stride > 1 else (k[0] // 2, k[1] // 2)
        label = name if len(layers) == 1 else f"{name}_{i}"
        units.append(Unit(label, inputs, outputs, k, stride if last else 1, padding))
        inputs = outputs
    return units


def _pooled(inputs: int, outputs: int, pool: str) -> Branch:
    """The branch of a block that pools before its 1 x 1 convolution."""
    return (Unit("branch_pool", inputs, outputs, (1, 1), pool=pool),)


def _block_a(inputs: int, pooled: int) -> Block:
    """35 x 35 grid."""
    return (
        tuple(_chain("branch1x1", inputs, (64, 1))),
        tuple(_chain("branch5x5", inputs, (48, 1), (64, 5))),
        tuple(_chain("branch3x3dbl", inputs, (64, 1), (96, 3), (96, 3))),
        _pooled(inputs, pooled, "average"),
    )


def _block_b(inputs: int) -> Block:
    """35 x 35 to 17 x 17."""
    return (
        tuple(_chain("branch3x3", inputs, (384, 3), stride=2)),
        tuple(_chain("branch3x3dbl", inputs, (64, 1), (96, 3), (96, 3), stride=2)),
        (MaxPool(),),
    )


def _block_c(inputs: int, width: int) -> Block:
    """17 x 17 grid, with 7 x 7 kernels factored into rows and columns."""
    row, column = (1, 7), (7, 1)
    return (
        tuple(_chain("branch1x1", inputs, (192, 1))),
        tuple(_chain("branch7x7", inputs, (width, 1), (width, row), (192, column))),
        tuple(
            _chain("branch7x7dbl", inputs, (width, 1), (width, column), (width, row), (width, column), (192, row)),
        ),
        _pooled(inputs, 192, "average"),
    )


def _block_d(inputs: int) -> Block:
    """17 x 17 to 8 x 8."""
    return (
        tuple(_chain("branch3x3", inputs, (192, 1), (320, 3), stride=2)),
        tuple(_chain("branch7x7x3", inputs, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), stride=2)),
        (MaxPool(),),
    )


def _fork(name: str, inputs: int) -> tuple[Unit, Unit]:
    """A row and a column convolution side by side."""
    return (
        Unit(f"{name}a", inputs, 384, (1, 3), padding=(0, 1)),
        Unit(f"{name}b", inputs, 384, (3, 1), padding=(1, 0)),
    )


def _block_e(inputs: int, pool: str) -> Block:
    """8 x 8 grid, with forked branches."""
    return (
        tuple(_chain("branch1x1", inputs, (320, 1))),
        (Unit("branch3x3_1", inputs, 384, (1, 1)), _fork("branch3x3_2", 384)),
        (*_chain("branch3x3dbl", inputs, (448, 1), (384, 3)), _fork("branch3x3dbl_3", 384)),
        _pooled(inputs, 192, pool),
    )


STEM: tuple[tuple[str, Branch], ...] = (
    (
        "64",
        (
            Unit("Conv2d_1a_3x3", 3, 32, (3, 3), stride=2),
            Unit("Conv2d_2a_3x3", 32, 32, (3, 3)),
            Unit("Conv2d_2b_3x3", 32, 64, (3, 3), padding=(1, 1)),
            MaxPool(),
        ),
    ),
    ("192", (Unit("Conv2d_3b_1x1", 64, 80, (1, 1)), Unit("Conv2d_4a_3x3", 80, 192, (3, 3)), MaxPool())),
)
"""The two stretches before the blocks, each with the tap at its end."""

BLOCKS: Mapping[str, Block] = {
    "Mixed_5b": _block_a(192, 32),
    "Mixed_5c": _block_a(256, 64),
    "Mixed_5d": _block_a(288, 64),
    "Mixed_6a": _block_b(288),
    "Mixed_6b": _block_c(768, 128),
    "Mixed_6c": _block_c(768, 160),
    "Mixed_6d": _block_c(768, 160),
    "Mixed_6e": _block_c(768, 192),
    "Mixed_7a": _block_d(768),
    "Mixed_7b": _block_e(1280, "average"),
    "Mixed_7c": _block_e(2048, "maximum"),
}
_TAP_AFTER = {"Mixed_6e": "768", "Mixed_7c": "2048"}
_SPATIAL_BLOCK = "Mixed_6d"

Run = Callable[[Tensor], Tensor]


def units() -> Iterator[tuple[str, Unit]]:
    """Every unit with its path in the state dict, in the order of the network."""
    for _, branch in STEM:
        for step in branch:
            if isinstance(step, Unit):
                yield step.name, step
    for block_name, block in BLOCKS.items():
        for branch in block:
            for step in branch:
                for unit in _units_of(step):
                    yield f"{block_name}.{unit.name}", unit


def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """The names and shapes that a state dict must have; ``num_batches_tracked`` may be there and is not used."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, unit in units():
        shapes[f"{path}.conv.weight"] = (unit.outputs, unit.inputs, *unit.kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{path}.bn.{part}"] = (unit.outputs,)
    return shapes | {"fc.weight": (CLASSES, TAPS["2048"]), "fc.bias": (CLASSES,)}


def flops(size: int | tuple[int, int] = 299, tap: str = "2048") -> int:
    """Floating-point operations per image up to a tap: two for each multiply-add of a convolution or the classifier.

    Pools, biases and rectifiers, together below 1 %, are not counted; nothing behind the tap is.

    Args:
        size: side of the images, or (height, width), in pixels, of at least 75.
        tap: a name from ``TAPS``.

    Numerics:
        Equal to a count by hand (tests/test_extractors_network.py::test_flops_by_hand).
    """
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.empty(1, 3, height, width, dtype=torch.float32, device="meta")
    check_images(x, "size: images")
    spent = [2 * TAPS["2048"] * CLASSES] if tap.startswith("logits") else []

    def counted(unit: Unit) -> Run:
        """Shapes only; an average pool does not change them, wherever it stands."""

        def run(x: Tensor) -> Tensor:
            weight = x.new_empty(unit.outputs, unit.inputs, *unit.kernel)
            made = F.conv2d(x, weight, None, unit.stride, unit.padding)
            spent.append(2 * made.numel() * unit.inputs * prod(unit.kernel))
            return made

        return run

    fc = (x.new_empty(CLASSES, TAPS["2048"]), x.new_empty(CLASSES))
    walk(x, {path: counted(unit) for path, unit in units()}, fc, check_taps((tap,)))
    return sum(spent)


def _units_of(step: Step) -> tuple[Unit, ...]:
    """The units of one step; a pooling has none."""
    if isinstance(step, Unit):
        return (step,)
    return () if isinstance(step, MaxPool) else step


def check_taps(taps: Sequence[str]) -> tuple[str, ...]:
    """The taps as a tuple; ValueError where one is unknown, given twice, or none is given."""
    wanted = tuple(taps) if isinstance(taps, Sequence) else (taps,)
    unknown = [tap for tap in wanted if not isinstance(tap, str) or tap not in TAPS]
    if unknown or not wanted or len(set(wanted)) != len(wanted):
        raise ValueError(f"taps must be one or more different names of {', '.join(TAPS)}; got {list(wanted)}")
    return wanted


def check_images(x: Tensor, name: str = "x") -> None:
    """Raise unless x is what the network reads: [N, 3, H, W] floating point, N ≥ 1, sides of at least 75 px."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a normalised floating-point tensor [N, 3, H, W]; got {kind}")
    if x.ndim != 4 or x.shape[0] < 1 or x.shape[1] != 3 or min(x.shape[2:]) < SMALLEST_SIDE_PX:
        raise ValueError(f"{name} must be [N, 3, H, W] with N >= 1 and H, W >= {SMALLEST_SIDE_PX}; got {list(x.shape)}")


def walk(x: Tensor, runs: Mapping[str, Run], fc: tuple[Tensor, Tensor], taps: Sequence[str]) -> dict[str, Tensor]:
    """Follow the tables with ``runs[path]`` for each unit; nothing behind the last tap that is wanted is computed."""
    missing = set(taps)
    found: dict[str, Tensor] = {}

    def keep(tap: str, make: Run, at: Tensor) -> bool:
        """Note one tap if it is wanted; True once none is missing any more."""
        if tap in missing:
            found[tap] = make(at)
            missing.discard(tap)
        return not missing

    for tap, branch in STEM:
        x = _run_branch(branch, x, runs, "")
        if keep(tap, spatial_mean, x):
            return found
    for name, block in BLOCKS.items():
        first = _run_branch(block[0], x, runs, f"{name}.")
        if name == _SPATIAL_BLOCK and keep("spatial", _flat_map, first):
            return found
        x = torch.cat([first, *(_run_branch(branch, x, runs, f"{name}.") for branch in block[1:])], dim=1)
        if name in _TAP_AFTER and keep(_TAP_AFTER[name], spatial_mean, x):
            return found
    # In float64, which costs nothing at this size and is deaf to the caller's TF32 setting for matrix products.
    unbiased = F.linear(spatial_mean(x).double(), fc[0].double())
    keep("logits_unbiased", Tensor.float, unbiased)
    keep("logits", Tensor.float, unbiased + fc[1].double())
    return found


def _run_branch(branch: Branch, x: Tensor, runs: Mapping[str, Run], prefix: str) -> Tensor:
    """The steps of one branch after each other."""
    for step in branch:
        if isinstance(step, Unit):
            x = runs[prefix + step.name](x)
        elif isinstance(step, MaxPool):
            x = F.max_pool2d(x, kernel_size=3, stride=2)
        else:
            x = torch.cat([runs[prefix + unit.name](x) for unit in step], dim=1)
    return x


def pool_before(x: Tensor, pool: str) -> Tensor:
    """The pooling in front of a ``branch_pool`` unit: 3 x 3, stride 1, on the same grid."""
    if pool == "average":
        return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)
    return F.max_pool2d(x, kernel_size=3, stride=1, padding=1) if pool == "maximum" else x


def spatial_mean(x: Tensor) -> Tensor:
    """The mean over the grid, [N, C] float32 (float64 for float64)."""
    wide = x if x.dtype == torch.float64 else x.float()
    return F.adaptive_avg_pool2d(wide, 1).flatten(1)


def _flat_map(x: Tensor) -> Tensor:
    """The first 7 channels [N, 7, H, W] in the order row, column, channel: [N, H·W·7] float32 or float64."""
    flat = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
    return flat if flat.dtype == torch.float64 else flat.float()


class _ConvUnit(nn.Module):
    """A ``Unit`` with its parameters."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.pool = unit.pool
        self.conv = nn.Conv2d(unit.inputs, unit.outputs, unit.kernel, unit.stride, unit.padding, bias=False)
        self.bn = nn.BatchNorm2d(unit.outputs, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, convolve, normalise, rectify."""
        return F.relu(self.bn(self.conv(pool_before(x, self.pool))))


class InceptionV3(nn.Module):
    """The network with its parameters under the names of ``pt_inception-2015-12-05-6726825d.pth``.

    It is the plain form: easy to read, differentiable, any floating-point dtype. ``fastfid.inception_extractor`` runs
    a folded copy of it that is about 2.5 times as fast on a CPU.

    Numerics:
        float32 features equal those of pytorch-fid, torch-fidelity and torchmetrics within 1e-5 of their scale on the
        same parameters (tests/oracles/test_network_oracles.py).

    Source: see the module's text.
    """

    def __init__(self) -> None:
        super().__init__()
        for path, unit in units():
            parent: nn.Module = self
            *containers, leaf = path.split(".")
            for container in containers:
                if not hasattr(parent, container):
                    parent.add_module(container, nn.Module())
                parent = getattr(parent, container)
            parent.add_module(leaf, _ConvUnit(unit))
        self.fc = nn.Linear(TAPS["2048"], CLASSES)
        self.eval()

    def forward(self, x: Tensor, taps: Sequence[str] = ("2048",)) -> tuple[Tensor, ...]:
        """Features at the wanted taps.

        Args:
            x: images [N, 3, H, W], normalised as the protocol says (about [-1, 1]); H, W ≥ 75, 299 for FID.
            taps: names from ``TAPS``.

        Returns:
            One [N, D] tensor per tap in the order asked for; D as in ``TAPS``, but for "spatial" it follows the grid.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x has the wrong shape, or a tap is unknown.
        """
        wanted = check_taps(taps)
        check_images(x)
        runs = {path: self.get_submodule(path) for path, _ in units()}
        found = walk(x, runs, (self.fc.weight, self.fc.bias), wanted)
        return tuple(found[tap] for tap in wanted)
