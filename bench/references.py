"""The packages that fastfid stands beside, where they can be imported, and one set of random weights for all."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch

from fastfid.extractors import Extractor, inception_extractor, load_weights

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
_CONFTEST = Path(__file__).resolve().parents[1] / "tests" / "oracles" / "conftest.py"
os.environ.setdefault("TQDM_DISABLE", "1")  # the packages' progress bars
_kept: list[tempfile.TemporaryDirectory[str]] = []  # lives as long as the process


@lru_cache(maxsize=1)
def _importer() -> Callable[[str], ModuleType]:
    """The oracle tests' import, which gets torchvision's CUDA wheel past a CPU build of torch."""
    spec = importlib.util.spec_from_file_location("oracle_imports", _CONFTEST)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[str], ModuleType] = module._import
    return found


def package(name: str) -> ModuleType | str:
    """A module of a reference package, or why it is not here."""
    try:
        return _importer()(name)
    except (ImportError, RuntimeError, AttributeError) as error:
        return str(error).splitlines()[0]


@lru_cache(maxsize=1)
def weights_file() -> Path:
    """Seeded random weights under the published file's name in a TORCH_HOME of their own, where every package looks."""
    _kept.append(tempfile.TemporaryDirectory())
    path = Path(_kept[0].name) / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    path.parent.mkdir(parents=True)
    torch.save(load_weights("random")[0], path)
    os.environ["TORCH_HOME"] = _kept[0].name
    return path


@lru_cache(maxsize=8)
def extractor(precision: str, device: str, tap: str = "2048") -> Extractor | str:
    """fastfid's network, or why this precision can't be had."""
    try:
        return inception_extractor(tap, weights=weights_file(), device=device, precision=precision)
    except ValueError as error:
        return str(error)


@lru_cache(maxsize=1)
def pytorch_fid(device: str) -> torch.nn.Module | str:
    """pytorch-fid's network, resizing and normalising by itself, as its command line builds it."""
    weights_file()
    module = package("pytorch_fid.inception")
    if isinstance(module, str):
        return module
    network: torch.nn.Module = module.InceptionV3([module.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval().to(device)
    return network


@lru_cache(maxsize=1)
def torch_fidelity(device: str) -> torch.nn.Module | str:
    """torch-fidelity's extractor: uint8 [n, 3, h, w] → a tuple of one [n, 2048]."""
    path = weights_file()
    module = package("torch_fidelity.feature_extractor_inceptionv3")
    if isinstance(module, str):
        return module
    network: torch.nn.Module = module.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
    )
    return network.eval().to(device)
