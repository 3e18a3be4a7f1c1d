"""``Extractor``: what it accepts, what it refuses, and that modules, files and callables go through unharmed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tolerances
import torch
from random_inception import images
from torch import Tensor, nn

from fastfid.extractors import TAPS, Extractor, adapters, as_extractor, folded, inception_extractor, weights
from fastfid.extractors.weights import WeightsInfo, state_sha256

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Net(nn.Module):
    """Means of a convolution: 5 features; dropout and batch normalisation betray a wrong mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.bn = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.bn(self.conv(x))).mean((2, 3))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    return Net()


@pytest.fixture
def x() -> Tensor:
    return images(4, 75)


# --- the Inception network --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _made_once() -> Iterator[None]:
    """Random weights are made once for the whole file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "load_weights", lru_cache(weights.load_weights))
        yield


@pytest.fixture(scope="module")
def random_fid() -> Extractor:
    return inception_extractor(weights="random")


def test_the_inception_extractor_describes_itself(random_fid: Extractor) -> None:
    assert random_fid.name == "inception-v3:2048"
    assert (random_fid.dim, random_fid.taps, random_fid.precision) == (2048, ("2048",), "fp32")
    assert random_fid.weights is not None
    assert random_fid.weights.label == "random(seed=0)"
    assert not random_fid.official
    assert random_fid.memory_format == torch.channels_last
    assert random_fid.device == torch.device("cpu")
    assert "random(seed=0)" in repr(random_fid)


@pytest.mark.parametrize(
    ("tap", "precision", "official", "metric"),
    [
        ("2048", "fp32", True, "fid"),
        ("spatial", "fp32", True, "sfid"),
        ("64", "fp32", True, "fid-64"),
        ("2048", "bf16", True, "fid-bf16"),
        ("2048", "fp32", False, "fd"),
        ("spatial", "bf16", False, "fd-bf16"),
        ("2048", "tf32", True, "fid-tf32"),
        ("64", "fp16", True, "fid-64-fp16"),
    ],
)
def test_only_the_published_weights_make_a_fid(
    monkeypatch: pytest.MonkeyPatch, random_fid: Extractor, tap: str, precision: str, official: bool, metric: str
) -> None:
    state, _ = adapters.load_weights("random", download=True, progress=True)
    info = WeightsInfo(None, "", "argument", official, "stand-in")
    monkeypatch.setattr(adapters, "load_weights", lambda *_a, **_k: (state, info))
    monkeypatch.setattr(adapters, "check_precision", lambda *_: None)  # a name, not a run
    monkeypatch.setattr(folded, "onednn_usable", lambda: False)
    made = inception_extractor(tap, precision=precision)
    assert (made.metric, made.official) == (metric, official)
    assert made.name == f"inception-v3:{tap}" + ("" if precision == "fp32" else f" ({precision})")


def test_several_taps_come_from_one_pass(random_fid: Extractor) -> None:
    made = inception_extractor(("spatial", "2048"), weights="random")
    z = images(2)
    spatial, last = made.features(z)
    assert spatial.shape == (2, TAPS["spatial"])
    np.testing.assert_array_equal(last, random_fid(z))
    assert made.name == "inception-v3:spatial+2048"
    with pytest.raises(ValueError, match=r"2 taps; call \.features"):
        made(z)


def test_without_folding(random_fid: Extractor, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    made = inception_extractor(weights="random", fold=False)
    tolerances.check(made(x), random_fid(x), relative=2 * tolerances.NETWORK_FP32)
    assert not made(x).requires_grad
    assert made.name == random_fid.name
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)  # slow where it is not
    half = inception_extractor("64", weights="random", fold=False, precision="bf16")
    tolerances.check(half(x), inception_extractor("64", weights="random")(x), relative=tolerances.NETWORK_BF16)


def test_to_the_same_device_is_the_same(random_fid: Extractor) -> None:
    assert random_fid.to("cpu") is random_fid
    assert as_extractor(random_fid) is random_fid
    assert as_extractor(random_fid, device="cpu") is random_fid


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tap": "1024"}, "64, 192, spatial, 768, 2048, logits_unbiased, logits"),
        ({"precision": "int8"}, "precision='int8' is not known; accepted: fp32, tf32, bf16, fp16"),
        (
            {"precision": "tf32"},
            "'tf32' can't be had on cpu: TF32 is .* of NVIDIA GPUs; accepted there: fp32",
        ),
        ({"graphs": True}, "graphs=True needs a CUDA device and fold=True; got device='cpu', fold=True"),
    ],
)
def test_bad_arguments(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        inception_extractor(weights="random", **wrong)


def test_bf16_is_refused_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="bfloat16"):
        inception_extractor(weights="random", precision="bf16")


def test_spatial_needs_299(random_fid: Extractor) -> None:
    made = inception_extractor("spatial", weights="random")
    with pytest.raises(ValueError, match="2023"):
        made(images(1, 139))


# --- what goes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (torch.zeros(4, 3, 75, 75, dtype=torch.float64), TypeError, "float64"),
        (torch.zeros(4, 3, 75, 75, dtype=torch.uint8), TypeError, "uint8"),
        (np.zeros((4, 3, 75, 75), np.float32), TypeError, "ndarray"),
        (torch.zeros(3, 75, 75), ValueError, r"\[3, 75, 75\]"),
        (torch.zeros(0, 3, 75, 75), ValueError, "N >= 1"),
        (torch.zeros(4, 75, 75, 3), ValueError, r"\[4, 75, 75, 3\]"),
        (torch.zeros(4, 3, 75, 75, device="meta"), ValueError, "x is on meta, the extractor net on cpu"),
    ],
    ids=["float64", "uint8", "numpy", "3-D", "empty", "NHWC", "device"],
)
def test_bad_images(net: Net, bad: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        as_extractor(net, name="net")(bad)


# --- modules ----------------------------------------------------------------------------------------------------------


def test_a_module_runs_in_evaluation_mode_and_gets_its_modes_back(net: Net, x: Tensor) -> None:
    net.train()
    net.bn.eval()
    made = as_extractor(net)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    first, again = made(x), made(x)
    assert (net.training, net.bn.training, net.drop.training, net.conv.training) == (True, False, True, True)
    np.testing.assert_array_equal(first, again)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items()), "statistics were kept"
    net.eval()
    with torch.no_grad():
        np.testing.assert_array_equal(first, net(x))
    assert not first.requires_grad


def test_modes_come_back_after_an_error(net: Net) -> None:
    net.train()
    with pytest.raises(RuntimeError):
        as_extractor(net)(torch.zeros(1, 3, 2, 2))
    assert net.training
    assert net.drop.training


def test_a_module_describes_itself(net: Net, x: Tensor) -> None:
    made = as_extractor(net)
    assert (made.name, made.dim, made.official, made.metric) == ("Net", None, False, "fd")
    assert made.weights is not None
    assert made.weights.sha256 == state_sha256(net.state_dict())
    assert made.weights.origin == "module"
    made(x)
    assert made.dim == 5
    assert as_extractor(net, name="mine").name == "mine"
    assert as_extractor(nn.Flatten()).weights is None


def test_another_device_means_a_copy(net: Net) -> None:
    made = as_extractor(net, device="meta")
    assert made.device == torch.device("meta")
    assert net.conv.weight.device == torch.device("cpu")
    assert made(torch.zeros(2, 3, 75, 75, device="meta")).shape == (2, 5)
    assert made.to("cpu").weights == made.weights


# --- files and callables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
def test_torchscript_file(net: Net, x: Tensor, tmp_path: Path, train: bool) -> None:
    file = tmp_path / "net.pt"
    torch.jit.script(net.train(train)).save(str(file))
    made = as_extractor(str(file))
    net.eval()
    with torch.no_grad():
        tolerances.check(made(x), net(x), relative=1e-6)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert made.weights == WeightsInfo(file, sha256, "argument", False, f"net.pt (sha256 {sha256[:8]})")
    assert made.name == "net"


def test_bad_torchscript_files(tmp_path: Path, net: Net) -> None:
    with pytest.raises(ValueError, match="no such file"):
        as_extractor(tmp_path / "no.pt")
    torch.save(net.state_dict(), tmp_path / "state.pth")
    with pytest.raises(ValueError, match="given as weights"):
        as_extractor(tmp_path / "state.pth")
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(ValueError, match="can't be read as TorchScript"):
        as_extractor(tmp_path / "text.pt")


class RawPixels(nn.Module):
    """The signature of NVIDIA's detectors."""

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        return img.mean((2, 3))


def test_a_network_that_normalises_by_itself_is_refused(tmp_path: Path) -> None:
    scripted = torch.jit.script(RawPixels())
    scripted.save(str(tmp_path / "inception-2015-12-05.pt"))
    for obj in (scripted, tmp_path / "inception-2015-12-05.pt"):
        with pytest.raises(ValueError, match="leave the extractor out"):
            as_extractor(obj)


def channel_means(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def test_callables(x: Tensor) -> None:
    made = as_extractor(channel_means)
    np.testing.assert_array_equal(made(x), x.mean((2, 3)))
    assert (made.name, made.weights, made.official, made.dim) == ("channel_means", None, False, 3)
    np.testing.assert_array_equal(as_extractor(lambda z: z.mean((2, 3)).numpy())(x), x.mean((2, 3)))
    assert made.to("meta").device == torch.device("meta")


@pytest.mark.parametrize("obj", [3, None, torch.zeros(1)], ids=["int", "None", "tensor"])
def test_what_is_no_extractor(obj: object) -> None:
    with pytest.raises(TypeError, match="extractor must be"):
        as_extractor(obj)


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "expected_dtype"),
    [
        (lambda x: x.mean((2, 3), keepdim=True), torch.float32),
        (lambda x: [x.mean((2, 3), keepdim=True)], torch.float32),
        (lambda x: (x.mean((2, 3)),), torch.float32),
        (lambda x: x.mean((2, 3)).bfloat16(), torch.float32),
        (lambda x: x.mean((2, 3)).half(), torch.float32),
        (lambda x: x.double().mean((2, 3)), torch.float64),
        (lambda x: x.mean((2, 3)).requires_grad_(), torch.float32),
    ],
    ids=["1x1", "list", "tuple", "bfloat16", "half", "double", "gradient"],
)
def test_outputs_that_are_understood(x: Tensor, function: Any, expected_dtype: torch.dtype) -> None:
    values = as_extractor(function)(x)
    assert values.shape == (4, 3)
    assert values.dtype == expected_dtype
    assert not values.requires_grad
    tolerances.check(values, x.mean((2, 3)), relative=2.0**-8)


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (lambda x: x.mean((1, 2, 3)), ValueError, r"\[4\] for 4 images"),
        (lambda x: x.mean((0, 2, 3)), ValueError, r"\[3\] for 4 images"),
        (lambda x: x.mean(), ValueError, r"\[\] for 4 images"),
        (lambda x: x, ValueError, r"global average pooling"),
        (lambda x: x.mean((2, 3))[:3], ValueError, r"\[3, 3\] for 4 images"),
        (lambda x: x.mean((2, 3)).T, ValueError, r"\[3, 4\] for 4 images"),
        (lambda x: x.mean((2, 3))[:, :0], ValueError, r"\[4, 0\]"),
        (lambda x: (x.mean((2, 3)), x.mean((2, 3))), TypeError, "a tuple of 2"),
        (lambda x: [], TypeError, "a list of 0"),
        (lambda x: OrderedDict(last=x, pooler=x), TypeError, "OrderedDict with the keys last, pooler"),
        (lambda x: None, TypeError, "NoneType"),
        (lambda x: x.mean((2, 3)).long(), TypeError, "int64"),
        (lambda x: x.mean((2, 3)).cfloat(), TypeError, "complex64"),
    ],
    ids=["1-D", "no-N", "0-D", "map", "fewer", "transposed", "no-D", "pair", "none", "dict", "None", "int", "complex"],
)
def test_outputs_that_are_refused(x: Tensor, function: Any, error: type[Exception], says: str) -> None:
    """A one-dimensional output would otherwise become scalar moments and a plausible wrong distance."""
    with pytest.raises(error, match=says):
        as_extractor(function)(x)


def test_the_number_of_features_may_not_change() -> None:
    made = as_extractor(lambda x: x[:, 0, 0])
    made(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match="gave 6 features for images"):
        made(torch.zeros(2, 3, 4, 6))


def test_a_single_image_keeps_its_axis(x: Tensor) -> None:
    assert as_extractor(lambda z: z.mean((2, 3), keepdim=True))(x[:1]).shape == (1, 3)
    with pytest.raises(ValueError, match="for 1 images"):
        as_extractor(lambda z: z.mean((2, 3)).squeeze())(x[:1])


def test_nan_is_left_to_the_moments(x: Tensor) -> None:
    assert torch.isnan(as_extractor(lambda z: z.mean((2, 3)) * torch.nan)(x)).all()
