"""The demo: the main job on embedded data, offline. Writes image sets as PNG, spoils them, measures every distance."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastfid.api import fid, stats
from fastfid.demo.disturbances import DISTURBANCES, Disturbance
from fastfid.demo.images import make_images
from fastfid.errors import OutputError, WeightsNotFoundError
from fastfid.evaluation.results import FIDResult
from fastfid.extractors import find_weights, inception_extractor
from fastfid.runtime.output import Target, sweep

SIZE_PX = 128
PLOT = "distances.png"
_MARK = ("Software", "fastfid demo")
IMAGE_SEED, DISTURBANCE_SEED = 0, 3


@dataclass(frozen=True)
class Series:
    """One disturbance and the distance from the reference at each of its levels, the undisturbed set first."""

    disturbance: Disturbance
    results: tuple[FIDResult, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The distances as plain floats."""
        return tuple(result.value for result in self.results)

    @property
    def grows(self) -> bool:
        """Whether every level lies farther from the reference than the one below it."""
        return all(low < high for low, high in pairwise(self.values))


@dataclass(frozen=True)
class Demo:
    """Where the demo put its image sets, and what it measured."""

    folder: Path
    reference: Path
    last: Path
    weights: str | None
    series: tuple[Series, ...]


def run_demo(
    folder: str | os.PathLike[str],
    *,
    count: int,
    weights: str | None = None,
    report: Callable[[str], None] = lambda _text: None,
    progress: bool | None = None,
) -> Demo:
    """Disturb an image set level by level, and measure each against a reference set twice as large.

    As in the study that this follows, the reference contains the images that are disturbed.

    Args:
        folder: where the image sets go, a folder of PNG each; made if it is not there.
        count: images in each disturbed set.
        weights: as for ``fid``; where None, the published ones if they are on this machine, else "random".
        report: receives a sentence at each step.
        progress: as for ``fid``.

    Raises:
        ValueError: a folder holds what the demo did not write; nothing was touched then.
        OutputError: an image set can't be written, or the plot could not be; before anything was measured.
    """
    root = Path(folder)
    _prove(root)
    chosen = _choose(weights)
    extractor = inception_extractor(weights=chosen, download=False)
    report(f"network: Inception v3 with weights {extractor.weights.label if extractor.weights else 'unknown'}")
    report(f"writing image sets of {count} to {root}/")
    originals = make_images(2 * count, SIZE_PX, IMAGE_SEED)
    plain = originals[:count]
    reference, generated = _write(root / "reference", originals), _write(root / "generated", plain)
    for disturbance in DISTURBANCES:
        for level in disturbance.levels[1:]:
            _write(root / _name(disturbance, level), disturbance.apply(plain, level, DISTURBANCE_SEED))
    moments = stats(reference, extractor=extractor, progress=progress)
    undisturbed = fid(moments, generated, extractor=extractor, progress=progress)
    series = []
    last = reference
    for disturbance in DISTURBANCES:
        report(f"{disturbance.name}: {disturbance.formula}")
        results = [undisturbed]
        for level in disturbance.levels[1:]:
            last = root / _name(disturbance, level)
            results.append(fid(moments, last, extractor=extractor, progress=progress))
        series.append(Series(disturbance, tuple(results)))
    return Demo(root, reference, last, chosen, tuple(series))


def _name(disturbance: Disturbance, level: float) -> str:
    """Of the folder of one disturbed set."""
    return f"{disturbance.name.lower().replace('&', 'and').replace(' ', '-')}-{level:g}"


def _prove(root: Path) -> None:
    """Before the work: nobody else's files are in the way, and files can be written."""
    sets = [_name(one, level) for one in DISTURBANCES for level in one.levels[1:]]
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name in ("reference", "generated", *sets):
            if (root / name).is_dir():
                _own(root / name)
    except OSError as error:
        raise OutputError(str(root), error.strerror or str(error)) from error
    Target(root / PLOT).prove()


def _choose(asked: str | None) -> str | None:
    if asked is not None:
        return asked
    try:
        find_weights(None, download=False)
    except WeightsNotFoundError:
        return "random"
    return None


def _write(folder: Path, images: NDArray[np.uint8]) -> Path:
    """A folder that holds these images and no others: earlier ones of the demo go, foreign files stop it."""
    mark = PngInfo()
    mark.add_text(*_MARK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{index:04d}.png" for index in range(len(images))]
        for file in _own(folder):
            if file.name not in names:
                file.unlink()
    except OSError as error:
        raise OutputError(str(folder), error.strerror or str(error)) from error
    for name, image in zip(names, images, strict=True):
        with Target(folder / name).writing(durable=False) as content:
            Image.fromarray(image).save(content, "PNG", pnginfo=mark)
    return folder


def _own(folder: Path) -> list[Path]:
    """The files of a folder, if an earlier demo wrote them all; ValueError for any other, which is not ours to lose."""
    sweep(folder)
    files = sorted(folder.iterdir())
    strange = [file.name for file in files if not (re.fullmatch(r"[0-9]{4}\.png", file.name) and _is_ours(file))]
    if strange:
        raise ValueError(f"folder={str(folder)!r} holds {strange[0]!r}, which this demo did not write; name another")
    return files


def _is_ours(file: Path) -> bool:
    """Whether an earlier demo wrote an image: it says so."""
    if file.is_symlink() or not file.is_file():
        return False
    try:
        with Image.open(file) as image:
            return bool(image.info.get(_MARK[0]) == _MARK[1])
    except (OSError, SyntaxError, ValueError):
        return False
