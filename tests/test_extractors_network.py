"""The FID network: its layers, its taps, and what folding and fusing do to the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import tolerances
import torch
import torch.nn.functional as F
from random_inception import images, shared_state
from torch.utils.flop_counter import FlopCounterMode

from fastfid.errors import SlowPathWarning
from fastfid.extractors import TAPS, InceptionV3, accepted_precisions, folded, inception

ALL = tuple(TAPS)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain() -> InceptionV3:
    network = InceptionV3()
    network.load_state_dict(shared_state(), strict=True)
    return network


@pytest.fixture(scope="module")
def fast() -> folded.FoldedInception:
    return folded.FoldedInception(shared_state(), CPU, "fp32")


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return images(2)


@pytest.fixture(scope="module")
def exact(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """All taps of the plain network in float64."""
    network = InceptionV3().double()
    network.load_state_dict(shared_state())
    with torch.no_grad():
        return dict(zip(ALL, network(x.double(), ALL), strict=True))


@pytest.fixture(params=["fused", "unfused"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "unfused":
            patch.setattr(folded, "onednn_usable", lambda: False)
        elif not folded.onednn_usable():
            pytest.skip("this torch has no oneDNN with the operators for fused convolutions")
        yield request.param


def test_the_parameters_are_those_of_the_public_file(plain: InceptionV3) -> None:
    state = plain.state_dict()
    assert len(state) == 566
    assert sum(value.numel() for name, value in state.items() if "num_batches" not in name) == 23_885_392
    shapes = inception.parameter_shapes()
    assert {name: tuple(v.shape) for name, v in state.items() if "num_batches" not in name} == shapes
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Conv2d_4a_3x3.conv.weight"] == (192, 80, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_5d.branch_pool.bn.running_var"] == (64,)
    assert shapes["Mixed_6a.branch3x3dbl_3.conv.weight"] == (96, 96, 3, 3)
    assert shapes["Mixed_6b.branch7x7dbl_2.conv.weight"] == (128, 128, 7, 1)
    assert shapes["Mixed_6e.branch7x7_2.conv.weight"] == (192, 192, 1, 7)
    assert shapes["Mixed_7a.branch7x7x3_4.conv.weight"] == (192, 192, 3, 3)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["fc.weight"] == (1008, 2048)
    assert {module.eps for module in plain.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {1e-3}


def test_dimensions(exact: dict[str, torch.Tensor]) -> None:
    assert {tap: value.shape[1] for tap, value in exact.items()} == dict(TAPS)
    assert TAPS["spatial"] == 2023


def test_the_pools_are_those_of_the_tensorflow_graph() -> None:
    pools = {path: unit.pool for path, unit in inception.units() if unit.pool}
    assert pools.pop("Mixed_7c.branch_pool") == "maximum"
    assert set(pools.values()) == {"average"}
    assert [path.partition(".")[0][-2:] for path in pools] == ["5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"]
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    average = inception.pool_before(ramp, "average")[0, 0]
    np.testing.assert_array_equal(average[0], [2.5, 3, 4, 4.5])  # the corner is the mean of 0, 1, 4, 5 alone
    np.testing.assert_array_equal(inception.pool_before(-ramp, "maximum")[0, 0, 0], [0, 0, -1, -2])


def test_folding_changes_nothing_but_rounding(engine: str, x: torch.Tensor, exact: dict[str, torch.Tensor]) -> None:
    made = folded.FoldedInception(shared_state(), CPU, "fp32")
    assert made.fused == (engine == "fused")
    for tap, value in zip(ALL, made(x, ALL), strict=True):
        assert value.dtype == torch.float32
        tolerances.check(value, exact[tap], relative=tolerances.NETWORK_FP32, what=tap)


def test_the_plain_network_in_float32(plain: InceptionV3, x: torch.Tensor, exact: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for tap, value in zip(ALL, plain(x, ALL), strict=True):
            tolerances.check(value, exact[tap], relative=tolerances.NETWORK_FP32, what=tap)


def test_bf16_is_close(engine: str, x: torch.Tensor, exact: dict[str, torch.Tensor]) -> None:
    if engine == "fused" and "bf16" not in accepted_precisions(CPU):
        pytest.skip("oneDNN has no bf16 on this CPU; torch's own convolutions have it on every one")
    made = folded.FoldedInception(shared_state(), CPU, "bf16")
    for tap, value in zip(ALL, made(x[:1], ALL), strict=True):
        assert value.dtype == torch.float32
        bound = tolerances.NETWORK_BF16_SPATIAL if tap == "spatial" else tolerances.NETWORK_BF16
        tolerances.check(value, exact[tap][:1], relative=bound, what=tap)


def test_folded_weights_by_hand() -> None:
    state, path = shared_state(), "Mixed_6b.branch7x7_2"
    weight, bias = folded.fold(state, path)
    z = torch.randn(2, 128, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    convolved = F.conv2d(z, state[f"{path}.conv.weight"].double(), padding=(0, 3))
    gamma, beta, mean, var = (
        state[f"{path}.bn.{part}"].double()[:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    expected = gamma * (convolved - mean) / (var + 1e-3).sqrt() + beta
    tolerances.check(F.conv2d(z, weight, bias, padding=(0, 3)), expected, relative=1e-13)


def test_spatial_is_row_column_channel(plain: InceptionV3, fast: folded.FoldedInception, x: torch.Tensor) -> None:
    maps = []
    handle = plain.get_submodule("Mixed_6d.branch1x1").register_forward_hook(lambda _m, _i, out: maps.append(out))
    with torch.no_grad():
        (flat,) = plain(x, ("spatial",))
    handle.remove()
    assert maps[0].shape == (2, 192, 17, 17)
    values = maps[0].numpy()
    by_hand = [values[1, c, row, column] for row in range(17) for column in range(17) for c in range(7)]
    np.testing.assert_array_equal(flat[1], by_hand)
    assert (flat >= 0).all(), "after the ReLU"
    assert (flat > 0).any()
    tolerances.check(fast(x, ("spatial",))[0], flat, relative=tolerances.NETWORK_FP32)


def test_logits_are_the_classifier_of_the_last_features(exact: dict[str, torch.Tensor]) -> None:
    state = shared_state()
    unbiased = exact["2048"].numpy() @ state["fc.weight"].double().numpy().T
    tolerances.check(exact["logits_unbiased"], unbiased, relative=1e-6)
    tolerances.check(exact["logits"], unbiased + state["fc.bias"].double().numpy(), relative=1e-6)
    assert np.abs(state["fc.bias"].numpy()).max() > 0.1


def test_one_pass_gives_what_single_passes_give(fast: folded.FoldedInception, x: torch.Tensor) -> None:
    order = ("2048", "64", "logits", "spatial")
    together = fast(x[:1], order)
    for tap, value in zip(order, together, strict=True):
        np.testing.assert_array_equal(value, fast(x[:1], (tap,))[0], err_msg=tap)


@pytest.mark.parametrize(
    ("taps", "last"),
    [
        (("64",), "Conv2d_2b_3x3"),
        (("192", "64"), "Conv2d_4a_3x3"),
        (("spatial",), "Mixed_6d.branch1x1"),
        (("768", "spatial"), "Mixed_6e.branch_pool"),
        (("2048",), "Mixed_7c.branch_pool"),
    ],
)
def test_nothing_behind_the_last_tap_runs(plain: InceptionV3, taps: tuple[str, ...], last: str) -> None:
    ran: list[str] = []

    def spy(path: str) -> inception.Run:
        unit = plain.get_submodule(path)
        return lambda z: (ran.append(path), unit(z))[1]

    paths = [path for path, _ in inception.units()]
    fc = (plain.fc.weight, plain.fc.bias)
    with torch.no_grad():
        found = inception.walk(images(1, 75), {path: spy(path) for path in paths}, fc, taps)
    assert set(found) == set(taps)
    assert ran == paths[: paths.index(last) + 1]


def test_the_batch_does_not_matter(fast: folded.FoldedInception) -> None:
    z = images(9, 107, seed=3)
    (whole,) = fast(z)
    for i in (0, 4, 8):
        tolerances.check(fast(z[i : i + 1])[0][0], whole[i], relative=tolerances.NETWORK_BATCH)
    (reversed_,) = fast(z.flip(0))
    tolerances.check(reversed_.flip(0), whole, relative=tolerances.NETWORK_BATCH)


def test_any_layout_gives_the_same_and_the_input_is_kept(engine: str) -> None:
    made, x = folded.FoldedInception(shared_state(), CPU, "fp32"), images(2, 107)
    z = x.clone()
    (first,) = made(z)
    np.testing.assert_array_equal(z, x)
    channels_last = z.contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(made(channels_last)[0], first)
    np.testing.assert_array_equal(channels_last, x)
    strided = torch.zeros(2, 3, 107, 2 * 107)[..., ::2]
    strided.copy_(z)
    np.testing.assert_array_equal(made(strided)[0], first)


@pytest.fixture(scope="module")
def of_sizes(plain: InceptionV3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images of one size after the other, the first again at last, and what the plain network says of them."""
    z = images(1, 331)
    made = [z[:, :, :height, :width] for height, width in ((299, 299), (75, 75), (80, 141), (331, 90), (299, 299))]
    with torch.no_grad():
        return [(one, plain(one)[0]) for one in made]


def test_other_sizes_after_each_other(engine: str, of_sizes: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The fused weights are put in order for a size; a later size finds them in its own, and the same numbers."""
    made = folded.FoldedInception(shared_state(), CPU, "fp32")
    for z, expected in of_sizes:
        tolerances.check(made(z)[0], expected, relative=2 * tolerances.NETWORK_FP32, what=str(z.shape))
        first = made._runs["Conv2d_1a_3x3"]
        assert isinstance(first, folded._FusedUnit) == (engine == "fused")
        assert not isinstance(first, folded._FusedUnit) or first.ordered[0] == z.shape[2:]


def test_results_are_ordinary_tensors(fast: folded.FoldedInception) -> None:
    (value,) = fast(images(1, 75))
    assert not value.is_inference()
    assert not value.requires_grad
    (value * torch.ones(1, requires_grad=True)).sum().backward()


def test_the_plain_network_is_differentiable(plain: InceptionV3) -> None:
    z = images(1, 75).requires_grad_()
    plain(z)[0].sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().max() > 0


def test_the_callers_settings_do_not_matter(engine: str) -> None:
    made, z = folded.FoldedInception(shared_state(), CPU, "fp32"), images(2, 75)
    (expected,) = made(z)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(made(z)[0], expected)
    if not hasattr(torch.backends.mkldnn, "conv"):
        return  # before torch 2.9 there was no such setting
    mkldnn = torch.backends.mkldnn
    for holder in (torch.backends, mkldnn, mkldnn.conv, mkldnn.matmul):
        assert [mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision] == ["none", "none"]
        holder.fp32_precision = "bf16"
        try:
            narrow = mkldnn.conv.fp32_precision == "bf16"  # then it runs in float64 (tests/test_arithmetic.py)
            with pytest.warns(SlowPathWarning, match="float64") if narrow else nullcontext():
                (got,) = folded.FoldedInception(shared_state(), CPU, "fp32")(z)
            np.testing.assert_allclose(
                got, expected, rtol=0, atol=float(expected.abs().max()) * (1e-5 if narrow else 0)
            )
            assert holder.fp32_precision == "bf16", "the caller's setting is left as it was"
        finally:
            holder.fp32_precision = "none"


def test_flops_by_hand() -> None:
    first, second, third = (149**2 * 32 * 27, 147**2 * 32 * 288, 147**2 * 64 * 288)
    assert inception.flops(299, "64") == 2 * (first + second + third)
    assert inception.flops(299, "192") == inception.flops(299, "64") + 2 * (73**2 * 80 * 64 + 71**2 * 192 * 720)
    assert inception.flops(299, "logits") == inception.flops() + 2 * 2048 * 1008
    assert round(inception.flops() / 1e9, 2) == 11.42
    with pytest.raises(ValueError, match=">= 75"):
        inception.flops(74)


@pytest.mark.parametrize(("size", "tap"), [((299, 299), "2048"), ((139, 211), "2048"), ((299, 299), "spatial")])
def test_flops_as_torch_counts_them(size: tuple[int, int], tap: str) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        InceptionV3()(torch.empty(2, 3, *size), (tap,))
    assert 2 * inception.flops(size, tap) == counter.get_total_flops()


def test_chunks_are_even_and_small(fast: folded.FoldedInception) -> None:
    z = torch.empty(50, 3, 299, 299, device="meta")
    assert fast._chunk(z) == 6
    assert fast._chunk(z[:13]) == 5
    assert fast._chunk(z[:1]) == 1
    assert fast._chunk(torch.empty(2, 3, 4000, 4000, device="meta")) == 1


def test_a_changed_operator_is_noticed() -> None:
    assert not folded._has("mkldnn::no_such_operator", ())
    assert not folded._has("aten::relu", ("Tensor", "int"))
    assert folded._has("aten::relu", ("Tensor",))


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (torch.zeros(3, 299, 299), ValueError, r"\[3, 299, 299\]"),
        (torch.zeros(0, 3, 299, 299), ValueError, r"N >= 1"),
        (torch.zeros(1, 1, 299, 299), ValueError, r"\[1, 1, 299, 299\]"),
        (torch.zeros(1, 3, 74, 299), ValueError, r">= 75"),
        (torch.zeros(1, 3, 299, 299, dtype=torch.uint8), TypeError, "uint8"),
        (np.zeros((1, 3, 299, 299), np.float32), TypeError, "ndarray"),
    ],
    ids=["3-D", "empty", "grey", "small", "uint8", "numpy"],
)
def test_bad_images(
    plain: InceptionV3, fast: folded.FoldedInception, bad: torch.Tensor, error: type[Exception], says: str
) -> None:
    for network in (plain, fast):
        with pytest.raises(error, match=says):
            network(bad)


@pytest.mark.parametrize("taps", [(), ("2048", "2048"), ("1024",)])
def test_bad_taps(fast: folded.FoldedInception, taps: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="logits_unbiased"):
        fast(images(1, 75), taps)


@pytest.mark.gpu
def test_on_a_gpu(x: torch.Tensor, exact: dict[str, torch.Tensor]) -> None:
    """True float32 although cuDNN would use TF32, whose error is 100 times the bound; the setting is left as it was."""
    device = torch.device("cuda", 0)
    before = torch.backends.cudnn.allow_tf32
    for tap, value in zip(ALL, folded.FoldedInception(shared_state(), device, "fp32")(x.to(device), ALL), strict=True):
        assert value.device == device
        tolerances.check(value.cpu(), exact[tap], relative=tolerances.NETWORK_FP32, what=tap)
    for precision, (bound, spatial) in {
        "tf32": (tolerances.NETWORK_10_BITS, tolerances.NETWORK_10_BITS_SPATIAL),
        "fp16": (tolerances.NETWORK_10_BITS, tolerances.NETWORK_10_BITS_SPATIAL),
        "bf16": (tolerances.NETWORK_BF16, tolerances.NETWORK_BF16_SPATIAL),
    }.items():
        made = folded.FoldedInception(shared_state(), device, precision)
        for tap, value in zip(ALL, made(x.to(device), ALL), strict=True):
            allowed = spatial if tap == "spatial" else bound
            tolerances.check(value.cpu(), exact[tap], relative=allowed, what=f"{precision} {tap}")
            if precision == "tf32":  # or it was float32 after all
                assert np.abs(value.cpu().numpy() - exact[tap].numpy()).max() > 1e-5 * np.abs(exact[tap].numpy()).max()
        made.check()
    assert torch.backends.cudnn.allow_tf32 == before
