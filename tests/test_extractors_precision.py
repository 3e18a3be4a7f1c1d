"""The network's precisions: where each can be had, what is said of it, and that an overflow is an error."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tolerances
import torch
from random_inception import images, shared_state

from fastfid.extractors import PRECISIONS, accepted_precisions, folded
from fastfid.extractors.folded import FoldedInception
from fastfid.extractors.precision import Precision, RangeGuard, check_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
RESULTS = Path(__file__).resolve().parent.parent / "bench" / "results"


@pytest.mark.parametrize(
    ("capability", "accepted"),
    [
        ((7, 5), ["fp32", "fp16"]),
        ((8, 0), ["fp32", "tf32", "bf16", "fp16"]),
        ((9, 0), ["fp32", "tf32", "bf16", "fp16"]),
    ],
)
def test_what_a_gpu_has(capability: tuple[int, int], accepted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert accepted_precisions(CUDA) == accepted
    for name in set(PRECISIONS) - set(accepted):
        with pytest.raises(ValueError, match=f"'{name}' can't be had on cuda:0: .* 7.5; accepted there: fp32, fp16$"):
            check_precision(name, CUDA)


@pytest.mark.parametrize(("bf16", "fp16"), [(False, False), (True, False), (True, True)])
def test_what_a_cpu_has(bf16: bool, fp16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: fp16)
    expected = ["fp32", *["bf16"] * bf16, *["fp16"] * fp16]
    assert accepted_precisions(CPU) == expected
    if not fp16:
        with pytest.raises(ValueError, match=f"no float16 arithmetic.*accepted there: {', '.join(expected)}$"):
            check_precision("fp16", CPU)


def test_other_devices_have_fp32() -> None:
    assert accepted_precisions(torch.device("meta")) == ["fp32"]


def test_the_figures_are_the_committed_ones() -> None:
    """The largest of each file's rows, rounded up to two digits, so that no result claims less than was measured."""
    files = sorted(RESULTS.glob("*/precision.json"))
    assert files
    rows = [row for file in files for row in json.loads(file.read_text())["rows"]]
    for name, precision in PRECISIONS.items():
        if precision.deviation is None:
            assert name == "fp32"
            continue
        own = [row for row in rows if row["precision"] == name]
        assert precision.deviation.emulated == all(row["how"] == "emulated" for row in own)
        for kind in ("change", "mixed"):
            stated, largest = getattr(precision.deviation, kind), max(row[kind] for row in own)
            step = 10.0 ** (math.floor(math.log10(largest)) - 1)
            assert largest <= stated <= largest + step, (name, kind)


def test_remarks_say_what_was_measured() -> None:
    assert PRECISIONS["fp32"].remark == ""
    assert "ran in bf16" in PRECISIONS["bf16"].remark
    assert "up to 0.94%" in PRECISIONS["bf16"].remark
    assert "emulated" not in PRECISIONS["bf16"].remark
    assert "emulated on a CPU" in PRECISIONS["tf32"].remark


def test_float16_network_is_close_and_an_overflow_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's slow float16 convolutions, which every CPU has and ``inception_extractor`` refuses for their speed."""
    if "fp16" not in accepted_precisions(CPU):
        monkeypatch.setattr(folded, "onednn_usable", lambda: False)
    x = images(1, 75)
    (exact,) = FoldedInception(shared_state(), CPU, "fp32")(x, ("192",))
    (value,) = FoldedInception(shared_state(), CPU, "fp16")(x, ("192",))
    assert value.dtype == torch.float32
    tolerances.check(value, exact, relative=tolerances.NETWORK_10_BITS)
    large = {**shared_state()}
    large["Conv2d_2b_3x3.bn.weight"] = large["Conv2d_2b_3x3.bn.weight"] * 1e5
    with pytest.raises(ValueError, match=r"precision='fp16'.*beyond 65504.*use 'bf16' or 'fp32'"):
        FoldedInception(large, CPU, "fp16")(x, ("64",))
    for precision in ("fp32", "bf16"):
        if precision in accepted_precisions(CPU):
            made = FoldedInception(large, CPU, precision)
            assert float(made(x, ("64",))[0].max()) > 65504
            made.check()


def test_on_a_gpu_the_check_comes_later_and_covers_every_batch() -> None:
    guard = RangeGuard(PRECISIONS["fp16"], CUDA)
    good, bad = torch.ones(2, 3), torch.tensor([[1.0, torch.inf, 0.0]])
    guard.check()
    guard.note((good,))
    guard.check()
    for batch in ((good,), (good, bad), (good,)):
        guard.note(batch)
    with pytest.raises(ValueError, match="fp16"):
        guard.check()
    guard.check()
    guard.note((torch.full((1, 1), torch.nan),))
    with pytest.raises(ValueError, match="fp16"):
        guard.check()


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16"])
def test_precisions_with_the_range_of_float32_check_nothing(name: str) -> None:
    guard = RangeGuard(PRECISIONS[name], CPU)
    guard.note((torch.full((1, 1), torch.inf),))  # of an image with such values: the moments' own error
    guard.check()


def test_every_name_is_its_own() -> None:
    assert [one.name for one in PRECISIONS.values()] == list(PRECISIONS) == ["fp32", "tf32", "bf16", "fp16"]
    assert all(isinstance(one, Precision) for one in PRECISIONS.values())


def test_eleven_bits_as_the_benchmark_rounds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RESULTS.parent))
    from precision import to_tf32

    rng = np.random.default_rng(0)
    values = (rng.standard_normal(10_000) * 10.0 ** rng.uniform(-20, 20, 10_000)).astype(np.float32)
    fraction, exponent = np.frexp(values.astype(np.float64))
    want = np.ldexp(np.rint(fraction * 2**11), exponent - 11)
    np.testing.assert_array_equal(to_tf32(torch.from_numpy(values)).double(), want)
