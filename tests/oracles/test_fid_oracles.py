"""FID end to end against the real packages: the same folders, one shared random state dict, every size class.

pytorch-fid and torch-fidelity are compared at the 64-dimensional tap with more images than dimensions, where the
covariances have full rank, and at 192; then every package at 2048 dimensions with few images, where SciPy's own root
is off by more. With FASTFID_PARITY=FILE the reached differences are written there as JSON.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from random_inception import save_as_published
from tolerances import FID_FULL_RANK, FID_SINGLE_MEANS, FID_SINGLE_PRECISION, FID_SINGULAR

import fastfid

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")]
Import = Callable[[str], ModuleType]
Package = Callable[[Path, Path, str], float]

SIZES = {
    "32": (32, 32), "64": (64, 64), "256": (256, 256), "299": (299, 299), "512": (512, 512),
    "1024": (1024, 1024), "37x611": (37, 611), "200x1": (200, 1), "1x200": (1, 200),
}  # fmt: skip
FEW_SIZES = ("32", "256", "37x611")  # where another test holds the same resizer over all sizes


def _each(value: object) -> list[Any]:
    """Every size; those beyond FEW_SIZES are for the committed table, not for every change."""
    return [pytest.param(s, value, marks=[] if s in FEW_SIZES else pytest.mark.slow) for s in SIZES]


FULL_RANK_COUNT = 68  # images a set for 64 dimensions


def write_set(folder: Path, count: int, size: tuple[int, int], seed: int) -> None:
    """Blurred noise under a fine grain: content at every scale, so that the filter and its support matter."""
    rng = np.random.default_rng([seed, *size])
    folder.mkdir(parents=True)
    low, high = (60, 200) if seed % 2 else (20, 230)
    for index in range(count):
        coarse = rng.integers(low, high, (6, 6, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.integers(-20, 21, (*size, 3), dtype=np.int16)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(folder / f"{index:04d}.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TORCH_HOME whose cache holds the shared random weights under the published name."""
    folder = tmp_path_factory.mktemp("torch")
    save_as_published(folder)
    return folder


@pytest.fixture(autouse=True)
def _use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCH_HOME", str(home))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], tuple[Path, Path]]:
    """Two folders of so many images of one size class, made once."""
    root = tmp_path_factory.mktemp("sets")

    def make(count: int, size: str) -> tuple[Path, Path]:
        folders = root / f"{count}-{size}-a", root / f"{count}-{size}-b"
        for seed, folder in enumerate(folders):
            if not folder.exists():
                write_set(folder, count, SIZES[size], seed)
        return folders

    return make


def weights(home: Path) -> Path:
    return next((home / "hub" / "checkpoints").iterdir())


def ours(home: Path, pair: tuple[Path, Path], protocol: str, tap: str) -> float:
    result = fastfid.fid(*pair, protocol=protocol, tap=tap, weights=weights(home))
    assert result.lower <= result.value <= result.upper
    return result.value


def load(folder: Path) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) for p in sorted(folder.iterdir())])


def by_pytorch_fid(reference: Import, home: Path, pair: tuple[Path, Path], tap: str) -> float:
    score = reference("pytorch_fid.fid_score")
    return float(score.calculate_fid_given_paths([str(p) for p in pair], 50, "cpu", int(tap), num_workers=0))


def by_torch_fidelity(reference: Import, home: Path, pair: tuple[Path, Path], tap: str) -> float:
    made = reference("torch_fidelity").calculate_metrics(
        input1=str(pair[0]),
        input2=str(pair[1]),
        cuda=False,
        fid=True,
        feature_layer_fid=tap,
        feature_extractor_weights_path=str(weights(home)),
        cache=False,
        verbose=False,
    )
    return float(made["frechet_inception_distance"])


def by_torchmetrics(
    reference: Import, home: Path, pair: tuple[Path, Path], tap: str, *, antialias: bool = True
) -> float:
    metric = reference("torchmetrics.image.fid").FrechetInceptionDistance(
        feature=int(tap), feature_extractor_weights_path=str(weights(home)), antialias=antialias
    )
    for folder, real in zip(pair, (True, False), strict=True):
        for batch in load(folder).split(50):
            metric.update(batch, real=real)
    return float(metric.compute())


def by_clean_fid(reference: Import, home: Path, pair: tuple[Path, Path], tap: str, mode: str) -> float:
    """clean-fid's reader, resizer, statistics and distance around the shared network: its own is not to be had here."""
    clean = reference("cleanfid.fid")
    inception = reference("pytorch_fid.inception").InceptionV3
    network = inception([inception.BLOCK_INDEX_BY_DIM[int(tap)]], resize_input=False, normalize_input=False).eval()

    def features(x: torch.Tensor) -> torch.Tensor:
        normalised = (x - 128) / 128 if mode == "clean" else x / 255 * 2 - 1
        return torch.nn.functional.adaptive_avg_pool2d(network(normalised)[0], 1).flatten(1)

    return float(
        clean.compare_folders(
            *(str(p) for p in pair), features, mode=mode, num_workers=0, device=torch.device("cpu"), verbose=False
        )
    )


Compare = Callable[..., None]


@pytest.fixture(scope="module")
def compare() -> Iterator[Compare]:
    """Assert a bound on the relative difference, and keep the row for the parity table."""
    rows = []

    def check(package: str, size: str, tap: str, got: float, want: float, bound: float) -> None:
        difference = abs(got - want) / abs(want)
        row = {"package": package, "size": size, "tap": tap, "fastfid": got, "package_value": want}
        rows.append(row | {"relative_difference": difference, "bound": bound})
        assert difference <= bound, f"{package} {size} {tap}: {got!r} against {want!r}, {difference:.2e} > {bound:.0e}"

    yield check
    if "FASTFID_PARITY" in os.environ:
        Path(os.environ["FASTFID_PARITY"]).write_text(json.dumps(rows, indent=1) + "\n")


@pytest.mark.parametrize("size", SIZES)
def test_pytorch_fid_full_rank(
    size: str, sets: Callable[..., tuple[Path, Path]], reference: Import, home: Path, compare: Compare
) -> None:
    pair = sets(FULL_RANK_COUNT, size)
    want = by_pytorch_fid(reference, home, pair, "64")
    compare("pytorch-fid", size, "64", ours(home, pair, "pytorch-fid", "64"), want, FID_FULL_RANK)


@pytest.mark.parametrize("size", SIZES)
def test_torch_fidelity_full_rank(
    size: str, sets: Callable[..., tuple[Path, Path]], reference: Import, home: Path, compare: Compare
) -> None:
    """Against the number it returns, and against its own features with float64 means."""
    pair = sets(FULL_RANK_COUNT, size)
    got = ours(home, pair, "torch-fidelity", "64")
    compare("torch-fidelity", size, "64", got, by_torch_fidelity(reference, home, pair, "64"), FID_SINGLE_MEANS)
    network = reference("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "inception-v3-compat", ["64"], feature_extractor_weights_path=str(weights(home))
    )
    statistics = []
    with torch.no_grad():
        for folder in pair:
            features = torch.cat([network.eval()(batch)[0] for batch in load(folder).split(34)]).double().numpy()
            statistics += [features.mean(axis=0), np.cov(features, rowvar=False)]
    exact = fastfid.frechet_distance(*statistics)
    compare("torch-fidelity features, float64 means", size, "64", got, exact, FID_FULL_RANK)


@pytest.mark.parametrize(("size", "antialias"), [*_each(True), *((s, False) for s in FEW_SIZES)], ids=str)
def test_torchmetrics(
    size: str, antialias: bool, sets: Callable[..., tuple[Path, Path]], reference: Import, home: Path, compare: Compare
) -> None:
    pair = sets(FULL_RANK_COUNT, size)
    protocol = "torchmetrics" if antialias else "torchmetrics-1.7"
    want = by_torchmetrics(reference, home, pair, "64", antialias=antialias)
    compare(protocol, size, "64", ours(home, pair, protocol, "64"), want, FID_SINGLE_PRECISION)


@pytest.mark.parametrize(("size", "mode"), [*_each("clean"), *((s, "legacy_pytorch") for s in FEW_SIZES)])
def test_clean_fid(
    size: str, mode: str, sets: Callable[..., tuple[Path, Path]], reference: Import, home: Path, compare: Compare
) -> None:
    pair = sets(FULL_RANK_COUNT, size)
    protocol = "clean" if mode == "clean" else "clean-legacy-pt"
    want = by_clean_fid(reference, home, pair, "64", mode)
    compare(protocol, size, "64", ours(home, pair, protocol, "64"), want, FID_SINGLE_PRECISION)


@pytest.mark.parametrize("package", ["pytorch-fid", "torch-fidelity"])
def test_a_larger_set_at_192_dimensions(
    package: str, sets: Callable[..., tuple[Path, Path]], reference: Import, home: Path, compare: Compare
) -> None:
    pair = sets(200, "64")
    measure = {"pytorch-fid": by_pytorch_fid, "torch-fidelity": by_torch_fidelity}[package]
    want = measure(reference, home, pair, "192")
    bound = FID_FULL_RANK if package == "pytorch-fid" else FID_SINGLE_MEANS
    compare(package, "64 (n=200)", "192", ours(home, pair, package, "192"), want, bound)


@pytest.mark.parametrize("package", ["pytorch-fid", "torch-fidelity", "torchmetrics", "clean"])
def test_few_images_at_2048_dimensions(
    package: str, sets: Callable[..., tuple[Path, Path]], reference: Import, home: Path, compare: Compare
) -> None:
    """Rank 15 in 2048 dimensions: SciPy's root and complex eigenvalues are what differs here, not the features."""
    pair = sets(16, "64")
    want = {
        "pytorch-fid": lambda: by_pytorch_fid(reference, home, pair, "2048"),
        "torch-fidelity": lambda: by_torch_fidelity(reference, home, pair, "2048"),
        "torchmetrics": lambda: by_torchmetrics(reference, home, pair, "2048"),
        "clean": lambda: by_clean_fid(reference, home, pair, "2048", "clean"),
    }[package]()
    compare(package, "64 (n=16)", "2048", ours(home, pair, package, "2048"), want, FID_SINGULAR)
