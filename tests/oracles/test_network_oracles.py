"""The FID network against the real ones, given the same parameters and the same 299 x 299 pixels.

The images are on multiples of 1/128 from -1, so that the packages that take uint8 see exactly the same input, and their
resizing copies. Run with ``-s`` to see what is reached.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_inception import images, save_as_published, shared_state
from tolerances import NETWORK_FP32, check
from torch import Tensor, nn

from fastfid.extractors import TAPS, Extractor, InceptionV3, inception_extractor
from fastfid.extractors.inception import parameter_shapes

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Import = Callable[[str], ModuleType]
POOLED = ("64", "192", "768", "2048")
FIDELITY = (*POOLED, "logits_unbiased", "logits")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TORCH_HOME whose cache holds the shared random parameters under the published file's name."""
    folder = tmp_path_factory.mktemp("torch")
    save_as_published(folder)
    return folder


@pytest.fixture(autouse=True)
def _use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(home))


@pytest.fixture(scope="module")
def weights_file(home: Path) -> Path:
    (file,) = (home / "hub" / "checkpoints").iterdir()
    return file


@pytest.fixture(scope="module")
def x() -> Tensor:
    return images(7)


@pytest.fixture(scope="module")
def pixels(x: Tensor) -> Tensor:
    made = (x * 128 + 128).to(torch.uint8)
    assert torch.equal((made.float() - 128) / 128, x)
    return made


@pytest.fixture(scope="module", params=[True, False], ids=["folded", "plain"])
def ours(request: pytest.FixtureRequest, weights_file: Path) -> Extractor:
    return inception_extractor(tuple(TAPS), weights=weights_file, fold=request.param)


def compare(what: str, got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Hold every tap to the bound, and print what is reached."""
    reached = {tap: float((got[tap] - want[tap]).abs().max() / want[tap].abs().max()) for tap in want}
    sys.stdout.write(f"\n{what}: {', '.join(f'{tap} {error:.1e}' for tap, error in reached.items())}\n")
    for tap, value in want.items():
        check(got[tap], value, relative=NETWORK_FP32, what=f"{what}, tap {tap}")


def features(extractor: Extractor, x: Tensor) -> dict[str, Tensor]:
    return dict(zip(extractor.taps, extractor.features(x), strict=True))


@pytest.fixture(scope="module")
def pytorch_fid(reference: Import, home: Path) -> nn.Module:
    module = reference("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        made: nn.Module = module.InceptionV3(output_blocks=(0, 1, 2, 3), resize_input=False, normalize_input=False)
    return made.eval()


@pytest.fixture(scope="module")
def torch_fidelity(reference: Import, weights_file: Path) -> nn.Module:
    module = reference("torch_fidelity.feature_extractor_inceptionv3")
    made: nn.Module = module.FeatureExtractorInceptionV3("theirs", list(FIDELITY), str(weights_file))
    return made


def test_pytorch_fid(pytorch_fid: nn.Module, ours: Extractor, x: Tensor) -> None:
    with torch.no_grad():
        pooled = [F.adaptive_avg_pool2d(block, (1, 1))[:, :, 0, 0] for block in pytorch_fid(x)]
    compare("pytorch-fid", features(ours, x), dict(zip(POOLED, pooled, strict=True)))


@pytest.mark.parametrize("side", [75, 128, 331])
def test_pytorch_fid_at_other_sizes(pytorch_fid: nn.Module, weights_file: Path, side: int) -> None:
    """Without its resizing, as people who feed small images directly use it."""
    z = images(2, side, seed=side)
    got = inception_extractor("2048", weights=weights_file)(z)
    with torch.no_grad():
        compare(f"pytorch-fid at {side} px", {"2048": got}, {"2048": pytorch_fid(z)[3][:, :, 0, 0]})


def test_torch_fidelity(torch_fidelity: nn.Module, ours: Extractor, x: Tensor, pixels: Tensor) -> None:
    with torch.no_grad():
        want = dict(zip(FIDELITY, torch_fidelity(pixels), strict=True))
    compare("torch-fidelity", features(ours, x), want)


@pytest.mark.parametrize("antialias", [True, False])
def test_torchmetrics(
    reference: Import, ours: Extractor, x: Tensor, pixels: Tensor, weights_file: Path, antialias: bool
) -> None:
    module = reference("torchmetrics.image.fid")
    theirs = module.NoTrainInceptionV3("theirs", ["2048"], str(weights_file), antialias)
    with torch.no_grad():
        want = {"2048": theirs(pixels)}
    compare(f"torchmetrics, antialias={antialias}", features(ours, x), want)


def test_the_features_of_sfid(torch_fidelity: nn.Module, ours: Extractor, x: Tensor, pixels: Tensor) -> None:
    """As the PyTorch port of the ADM evaluation suite reads them from torch-fidelity's network."""
    maps: list[Tensor] = []
    branch = torch_fidelity.get_submodule("Mixed_6d.branch1x1")
    handle = branch.register_forward_hook(lambda _m, _i, out: maps.append(out))
    with torch.no_grad():
        torch_fidelity(pixels)
    handle.remove()
    want = maps[0].movedim(1, -1)[..., :7].reshape(len(x), 2023)
    compare("torch-fidelity, Mixed_6d.branch1x1", features(ours, x), {"spatial": want})


def test_the_state_dicts_are_interchangeable(reference: Import, torch_fidelity: nn.Module) -> None:
    """Strictly, in both directions, and without a word about names."""
    theirs = reference("pytorch_fid.inception").fid_inception_v3()
    network = InceptionV3()
    for state in (theirs.state_dict(), torch_fidelity.state_dict()):
        assert {k: tuple(v.shape) for k, v in state.items() if "num_batches" not in k} == parameter_shapes()
        network.load_state_dict(state, strict=True)
        np.testing.assert_array_equal(
            network.state_dict()["Mixed_7c.branch3x3dbl_3b.bn.running_var"],
            shared_state()["Mixed_7c.branch3x3dbl_3b.bn.running_var"],
        )
    theirs.load_state_dict(network.state_dict(), strict=True)
