"""The quick check behind ``fastfid bench``: every stage against something that shares no code with it, then its time.

Nothing is timed before every stage was found right.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastfid.distance.frechet import frechet_distance
from fastfid.errors import BackendUnavailableError
from fastfid.evaluation.results import versions
from fastfid.extractors import InceptionV3, inception_extractor, load_weights
from fastfid.moments import Moments
from fastfid.resample import resize_normalize
from fastfid.speed.timing import Times, interleaved

OFFERED = ("fp32", "tf32", "fp16", "bf16")
BOUNDS = {"fp32": 1e-5, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
"""Features against float64, relative to the largest: the roundings of 47 layers in each arithmetic, with room."""
DISTANCE_BOUND = 1e-8
"""Of the traces: what ``fastfid.frechet`` promises by whatever route it ends with."""
COVARIANCE_BOUND = 1e-12
"""Of the largest entry: rounding of float64 sums, √n·eps, with room."""
Say = Callable[[str], None]
Sides = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class WrongResultError(RuntimeError):
    """A stage did not give what it must on this machine, so no time is worth showing."""


@dataclass(frozen=True)
class Stage:
    """One thing that is checked and timed.

    Attributes:
        name: in words.
        unit: what ``items`` counts, in the plural.
        items: how many one call handles.
        check: gives the error and the bound it must not exceed.
        runs: name → a call; fastfid's first.
        missing: name → why it can't run here.
        rounds: least turns of each.
    """

    name: str
    unit: str
    items: int
    check: Callable[[], tuple[float, float]]
    runs: Mapping[str, Callable[[], object]]
    missing: Mapping[str, str]
    rounds: int = 5


@dataclass(frozen=True)
class Line:
    """One line of the result: p20, p50, p80 are milliseconds per call, ``rate`` is items per second at the median."""

    stage: str
    variant: str
    unit: str
    items: int
    p20: float
    p50: float
    p80: float
    rate: float
    error: float
    bound: float


@dataclass(frozen=True)
class Quick:
    """What ``run_quick`` found: the machine, the lines, and what could not be measured with its reason."""

    device: str
    versions: Mapping[str, str]
    lines: tuple[Line, ...]
    missing: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run_quick(
    device: str = "auto", *, say: Say = lambda text: None, seconds: float = 1.0, tap: str = "2048", d: int = 2048
) -> Quick:
    """Check every stage, then time it.

    Args:
        device: where the stages run: "auto" (CUDA where there is a GPU), "cpu", "cuda" or "cuda:i".
        say: called with what is being done.
        seconds: least time for each stage.
        tap: layer of the network that is read, "2048" for FID's own.
        d: dimensions of the distance and of the covariance.

    Returns:
        The lines in order, fastfid's first within each stage.

    Raises:
        WrongResultError: a stage is wrong; nothing was timed then.
        BackendUnavailableError: there is no such device.
    """
    where = _device(device)
    say("making inputs and checking every stage")
    stages = [_distance(d, where), _distance_beside_scipy(d // 4, where), _resize(where), _covariance(d, where)]
    stages.append(_network(where, tap))
    errors = {}
    for stage in stages:
        error, bound = stage.check()
        if not error <= bound:  # NaN is wrong too
            raise WrongResultError(f"{stage.name} on {where}: the error is {error:.1e}, above {bound:.0e}")
        errors[stage.name] = error, bound
    lines: list[Line] = []
    for stage in stages:
        say(f"timing {stage.name}")
        taken = interleaved(stage.runs, where, seconds=seconds, least_rounds=stage.rounds)
        lines += [_line(stage, name, times, *errors[stage.name]) for name, times in taken.items()]
    missing = {f"{stage.name}: {name}": reason for stage in stages for name, reason in stage.missing.items()}
    return Quick(_described(where), versions(), tuple(lines), missing)


def _device(asked: str) -> torch.device:
    """The device of that name, if torch can use it."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailableError(f"device={asked!r}: torch {torch.__version__} can use no such GPU here")
    return device


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _line(stage: Stage, name: str, times: Times, error: float, bound: float) -> Line:
    rate = stage.items / (times.p50 * 1e-3)
    return Line(stage.name, name, stage.unit, stage.items, times.p20, times.p50, times.p80, rate, error, bound)


def _commuting(d: int, device: torch.device) -> tuple[Sides, float, float]:
    """Two Gaussians whose covariances share eigenvectors; their exact distance Σ(√a − √b)² + ‖Δμ‖²; the traces."""
    rng = np.random.default_rng(d)
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    a, b = np.arange(1, d + 1) ** -1.0, rng.permutation(np.arange(1, d + 1) ** -0.9)
    mu1, mu2 = rng.standard_normal((2, d)) / 10
    sigma1, sigma2 = (q * a) @ q.T, (q * b) @ q.T
    exact = float(((np.sqrt(a) - np.sqrt(b)) ** 2).sum() + ((mu1 - mu2) ** 2).sum())
    m1, s1, m2, s2 = (torch.from_numpy(x).to(device) for x in (mu1, sigma1 + sigma1.T, mu2, sigma2 + sigma2.T))
    return (m1, s1 / 2, m2, s2 / 2), exact, float(a.sum() + b.sum())


def _distance(d: int, device: torch.device) -> Stage:
    """The distance from covariances, against its closed form where they commute."""
    (mu1, sigma1, mu2, sigma2), exact, traces = _commuting(d, device)

    def ours() -> float:
        return frechet_distance(mu1, sigma1, mu2, sigma2)

    def check() -> tuple[float, float]:
        return abs(ours() - exact) / traces, DISTANCE_BOUND

    return Stage(f"distance, d = {d}", "distances", 1, check, {"fastfid": ours}, {}, 3)


def _distance_beside_scipy(d: int, device: torch.device) -> Stage:
    """The same, small enough that SciPy's root of the product does not keep anybody waiting."""
    alone = _distance(d, device)
    if importlib.util.find_spec("scipy") is None:
        return Stage(alone.name, alone.unit, 1, alone.check, alone.runs, {"SciPy sqrtm": "SciPy is not installed"}, 3)
    sqrtm = importlib.import_module("scipy.linalg").sqrtm
    (_, sigma1, _, sigma2), _, _ = _commuting(d, torch.device("cpu"))
    product = sigma1.numpy() @ sigma2.numpy()
    runs = {**alone.runs, "SciPy sqrtm": lambda: np.trace(sqrtm(product)).real}
    return Stage(alone.name, alone.unit, 1, alone.check, runs, {}, 3)


def _resize(device: torch.device) -> Stage:
    """256² to 299² in uint8, bicubic with antialias: Pillow's own values, so Pillow is the oracle, to the bit."""
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (16, 256, 256, 3), dtype=np.uint8)
    images, pillows = torch.from_numpy(arrays).to(device), [Image.fromarray(array) for array in arrays]

    def ours() -> torch.Tensor:
        return resize_normalize(images, (299, 299), quantize=True, out_dtype=torch.uint8)

    def theirs() -> np.ndarray[Any, Any]:
        return np.stack([np.asarray(image.resize((299, 299), Image.Resampling.BICUBIC)) for image in pillows])

    def check() -> tuple[float, float]:
        return float(np.abs(ours().permute(0, 2, 3, 1).cpu().numpy().astype(int) - theirs()).max()), 0.0

    return Stage("resize 256² to 299², uint8", "images", 16, check, {"fastfid": ours, "Pillow": theirs}, {})


def _covariance(d: int, device: torch.device) -> Stage:
    """float32 features, against NumPy's two passes in float64."""
    n = 2 * d
    features = (
        torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu") * 0.3 + 0.4
    )
    there, host = features.to(device), features.numpy()

    def ours() -> torch.Tensor:
        moments = Moments(keep_rows=False)
        moments.update(there)
        return moments.cov()

    def theirs() -> np.ndarray[Any, Any]:
        return np.cov(host, rowvar=False, dtype=np.float64)

    def check() -> tuple[float, float]:
        want = theirs()
        return float(np.abs(ours().cpu().numpy() - want).max() / np.abs(want).max()), COVARIANCE_BOUND

    runs = {"fastfid": ours, "np.cov float64": theirs}
    return Stage(f"covariance of {n} × {d} float32", "rows", n, check, runs, {}, 3)


def _network(device: torch.device, tap: str) -> Stage:
    """A batch through the FID network in every precision the device has, against the plain layers in float64."""
    state, _ = load_weights("random")
    exact = InceptionV3().double()
    exact.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    made, missing = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random.pth"
        torch.save(state, file)
        for precision in OFFERED:
            name = "fastfid" if precision == "fp32" else f"fastfid {precision}"
            try:
                made[name] = inception_extractor(tap, weights=file, device=device, precision=precision)
            except ValueError as error:
                missing[name] = str(error)
    items = 128 if device.type == "cuda" else 16
    x = torch.rand(items, 3, 299, 299, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1
    x = x.to(device).contiguous(memory_format=torch.channels_last)

    def check() -> tuple[float, float]:
        probe = x[:1].cpu().double()
        with torch.inference_mode():
            (want,) = exact(probe, (tap,))
        worst = 0.0
        for network in made.values():
            error = float((network(x[:1]).cpu().double() - want).abs().max() / want.abs().max())
            worst = max(worst, error / BOUNDS[network.precision]) if error == error else float("nan")
        return worst, 1.0

    runs = {name: (lambda network=network: network(x)) for name, network in made.items()}
    return Stage("network, 299² images", "images", items, check, runs, missing, 3)
