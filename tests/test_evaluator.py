"""``Evaluator``: images come as they are made, distances equal those of ``fid``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from images import photos
from PIL import Image

import fastfid
from fastfid.errors import IncomparableError, SmallSampleWarning
from fastfid.passes.pipeline import prepare

pytestmark = pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")


class Means(torch.nn.Module):
    """12 features of an image: means over its quarters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


CPU = torch.device("cpu")
MEANS = Means()
REAL = photos(60, 20, 24)
MADE = (photos(45, 20, 24) // 2 + 40).astype(np.uint8)
NCHW = torch.from_numpy(MADE).permute(0, 3, 1, 2).contiguous()


def evaluator(ref: object = REAL, **settings: object) -> fastfid.Evaluator:
    return fastfid.Evaluator(ref, extractor=MEANS, device="cpu", **settings)


@pytest.mark.parametrize("protocol", ["pytorch-fid", "clean", "stylegan3", "ttur"])
def test_equals_fid(protocol: str) -> None:
    """Bit for bit; ttur leaves out what lies beyond the last block of 50, or keeps fewer than 50."""
    mine = evaluator(protocol=protocol, batch_size=20)
    for begin in range(0, 45, 20):
        mine.update(NCHW[begin : begin + 20])
    got = mine.compute()
    want = fastfid.fid(REAL, MADE, extractor=MEANS, device="cpu", protocol=protocol, batch_size=20)
    assert (got.value, got.lower, got.upper, got.run.gen.n) == (want.value, want.lower, want.upper, want.run.gen.n)
    assert got.run.metric == want.run.metric
    assert got.run.gen.kind == "evaluator"
    assert mine.n == 45


def test_every_kind_of_update() -> None:
    mine = evaluator(batch_size=100)
    mine.update(NCHW[:10])
    mine.update(MADE[10:20])
    mine.update(list(MADE[20:30]))
    mine.update([Image.fromarray(image) for image in MADE[30:40]])
    with torch.no_grad():
        mine.update_features(MEANS(prepare(torch.from_numpy(MADE[40:]), fastfid.protocol(), CPU)))
    whole = evaluator(batch_size=100)
    whole.update(MADE)
    assert mine.n == whole.n == 45
    assert mine.compute().value == pytest.approx(whole.compute().value, rel=1e-12)


def test_compute_changes_nothing_and_reset_forgets() -> None:
    mine = evaluator()
    mine.update(NCHW[:20])
    first = mine.compute()
    assert mine.compute().value == first.value
    mine.update(NCHW[20:])
    want = fastfid.fid(REAL, MADE, extractor=MEANS, device="cpu").value
    assert mine.compute().value == pytest.approx(want, rel=1e-12)  # the batches were cut elsewhere
    mine.reset()
    assert mine.n == 0
    mine.update(NCHW[:20])
    assert mine.compute().value == first.value


def test_the_reference_is_measured_and_factorised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastfid.distance import gaussian

    made = []
    kept = gaussian.factor
    monkeypatch.setattr(gaussian, "factor", lambda *a, **how: made.append(a[1]) or kept(*a, **how))
    reference = fastfid.stats(REAL, extractor=MEANS, device="cpu")
    mine = evaluator(reference)
    for _ in range(3):
        mine.reset()
        mine.update(NCHW)
        mine.compute()
    assert mine.reference is reference
    assert made.count("ref") == 1
    assert made.count("gen") == 3


def test_block_protocol_keeps_the_rest_for_later() -> None:
    """ttur: 45 images are all there is; 60 are one block and a rest that waits; 100 are two blocks."""
    images = np.concatenate([MADE, MADE[::-1], MADE[:10]])
    mine = evaluator(protocol="ttur")
    for end, n, dropped in ((45, 45, 0), (60, 50, 10), (100, 100, 0)):
        mine.update(images[mine.n : end])
        got = mine.compute()
        assert (got.run.gen.n, got.run.gen.dropped) == (n, dropped)
        want = fastfid.fid(REAL, images[:end], extractor=MEANS, device="cpu", protocol="ttur")
        assert got.value == pytest.approx(want.value, rel=1e-12)


def test_warnings_belong_to_their_result() -> None:
    mine = evaluator()
    mine.update(NCHW[:5])
    with pytest.warns(SmallSampleWarning, match="5 samples for 12 feature dimensions"):
        small = mine.compute()
    mine.update(NCHW[5:])
    large = mine.compute()
    assert any("5 samples" in text for text in small.run.warnings)
    assert not any("samples for" in text for text in large.run.warnings)


def test_statistics_as_reference(tmp_path: Path) -> None:
    fastfid.stats(REAL, tmp_path / "real.npz", extractor=MEANS, device="cpu")
    mine = evaluator(tmp_path / "real.npz")
    mine.update(NCHW)
    assert mine.compute().value == fastfid.fid(REAL, MADE, extractor=MEANS, device="cpu").value
    with pytest.raises(IncomparableError, match="made with protocol 'pytorch-fid'"):
        evaluator(tmp_path / "real.npz", protocol="clean")


def test_what_is_refused() -> None:
    mine = evaluator()
    with pytest.raises(TypeError, match="images must be uint8, got float32"):
        mine.update(NCHW.float() / 255)
    with pytest.raises(ValueError, match=r"gen=.*holds 0 images"):
        mine.compute()
    with pytest.raises(ValueError, match="holds 1 image;"):
        evaluator(REAL[:1])
    broken = torch.zeros(3, 12)
    broken[1, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):  # noqa: PT012  # at once, or on a GPU when it is read
        mine.update_features(broken)
        mine.compute()


NO_FEATURES = {
    "None": None,
    "text": "abc",
    "list": [[1.0] * 12],
    "texts": np.full((2, 12), "a"),
    "integers": torch.zeros(2, 12, dtype=torch.int64),
    "sparse": torch.zeros(2, 12).to_sparse(),
    "meta": torch.zeros(2, 12, device="meta"),
    "flat": torch.zeros(12),
    "three axes": torch.zeros(2, 3, 4),
    "other size": torch.zeros(2, 5),
    "NaN": torch.full((2, 12), float("nan")),
}


@pytest.mark.parametrize("kind", NO_FEATURES)
@pytest.mark.parametrize("before", [0, 3])
def test_features_that_are_none_are_named_and_not_counted(kind: str, before: int) -> None:
    mine = evaluator()
    if before:
        mine.update_features(torch.rand(before, 12, generator=torch.Generator().manual_seed(0)))
    with pytest.raises((TypeError, ValueError), match=r"^features: "):
        mine.update_features(NO_FEATURES[kind])
    assert mine.n == before


@pytest.mark.gpu
def test_on_a_gpu_and_on_any_stream() -> None:
    want = fastfid.fid(REAL, MADE, extractor=MEANS, device="cpu").value
    mine = fastfid.Evaluator(REAL, extractor=MEANS.cuda(), device="cuda")
    streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    for begin, stream in zip(range(0, 45, 15), streams, strict=True):
        with torch.cuda.stream(stream):
            mine.update(NCHW[begin : begin + 15].cuda())
    assert mine.compute().value == pytest.approx(want, rel=1e-5)
    MEANS.cpu()
