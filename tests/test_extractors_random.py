"""``weights="random"``: the same bits everywhere, activations of order one, features that see what is in an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_inception import images

from fastfid.extractors import find_weights, inception_extractor, random_weights
from fastfid.extractors.inception import TAPS, parameter_shapes
from fastfid.extractors.weights import load_weights, state_sha256

DIGESTS = {
    0: "2a6c4933149a4062eb0e881aa79b1248fb6e584aa70090c1d841150bd330e785",
    1: "ad4a9c2f2b091cc3ec83690fe37a5c2d0a0511096155de3ac3396123a03d9ecf",
}


def test_the_default_seed_gives_the_written_bits() -> None:
    """Results of different machines may be compared only because this digest is the same on all of them."""
    state = random_weights.random_state()
    assert {name: tuple(value.shape) for name, value in state.items()} == parameter_shapes()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert state_sha256(state) == DIGESTS[0]


def test_the_callers_threads_and_defaults_do_not_matter() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            state = random_weights.random_state(1)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_num_threads(threads)
    assert state_sha256(state) == DIGESTS[1]


def test_the_generator_by_hand() -> None:
    """Philox4x64-10 with counter 1 (NumPy counts before it draws), written out as in Salmon et al. 2011."""
    mask, counter, key = 2**64 - 1, [1, 0, 0, 0], [7, 3]
    for turn in range(10):
        if turn:
            key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
        low, high = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [(high >> 64) ^ counter[1] ^ key[0], high & mask, (low >> 64) ^ counter[3] ^ key[1], low & mask]
    expected = [word >> shift & 0xFFFF for word in counter for shift in (0, 16, 32, 48)]
    np.testing.assert_array_equal(random_weights._integers(7, 3, 15), expected[:15])


def test_weights_have_the_stated_distribution() -> None:
    weight = random_weights._weight(0, 4, (320, 100, 3, 3)).double()
    bound = np.sqrt(6 / 900)
    assert weight.abs().max() < bound
    assert weight.abs().max() > 0.9999 * bound
    count = weight.numel()
    assert abs(weight.mean()) < 4 * np.sqrt(2 / 900 / count)
    assert abs(weight.var() / (2 / 900) - 1) < 4 * np.sqrt(0.8 / count)


def test_statistics_have_eight_bits() -> None:
    values = torch.tensor([1 + 2**-8, 1 + 2**-8 + 2**-40, -3.1415926, 1e-3, 0.0], dtype=torch.float64)
    rounded = random_weights._round(values)
    np.testing.assert_array_equal(rounded[:2], [1.0, 1 + 2**-7])
    assert rounded[4] == 0
    mantissa = torch.frexp(rounded)[0] * 256
    np.testing.assert_array_equal(mantissa, mantissa.round())
    np.testing.assert_array_less(((rounded - values) / values)[:4].abs(), 2**-8 + 1e-12)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "0", True])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises(ValueError, match=r"0 <= seed < 2\*\*64"):
        random_weights.random_state(seed)  # type: ignore[arg-type]


def test_it_cannot_be_mistaken_for_fid() -> None:
    info = load_weights("random:1")[1]
    assert (info.official, info.label, info.origin, info.path) == (False, "random(seed=1)", "random", None)
    assert info.sha256 == DIGESTS[1] != DIGESTS[0]
    assert find_weights("random:1") == info


def test_activations_are_of_order_one_and_differ_between_images() -> None:
    made = inception_extractor(tuple(TAPS), weights="random")
    for tap, values in zip(TAPS, made.features(images(6)), strict=True):
        scale = values.double().square().mean().sqrt()
        spread = values.double().std(0).mean() / scale
        assert 0.3 < scale < 5, tap
        assert spread > 0.01, tap
        assert (values.std(0) > 0).float().mean() > (0.9 if tap == "spatial" else 0.999), tap


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The Fréchet distance of two small samples, by the nuclear norm of the product of their centred features."""
    a, b = a.double(), b.double()
    centred = [(v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (a, b)]
    cross = torch.linalg.matrix_norm(centred[0] @ centred[1].T, "nuc")
    squares = sum(float(c.square().sum()) for c in centred)
    return float((a.mean(0) - b.mean(0)).square().sum()) + squares - 2 * float(cross)


def _blurred(z: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """A Gaussian blur."""
    position = torch.arange(-12.0, 13.0)
    window = torch.exp(-(position**2) / (2 * sigma_px**2))
    window = (window / window.sum()).expand(3, 1, 1, 25)
    padded = F.pad(z, (12, 12, 12, 12), mode="reflect")
    return F.conv2d(F.conv2d(padded, window, groups=3), window.mT, groups=3)


def test_the_distance_grows_with_noise_and_with_blur() -> None:
    made = inception_extractor(("64", "2048"), weights="random")
    z = images(12, 91, seed=5)
    clean = made.features(z)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
    series = {
        "noise": [(z + level * noise).clamp(-1, 1) for level in (0.05, 0.1, 0.2, 0.4)],
        "blur": [_blurred(z, sigma) for sigma in (0.5, 1.0, 2.0, 4.0)],
    }
    for what, levels in series.items():
        found = [made.features(level) for level in levels]
        for i, tap in enumerate(made.taps):
            distances = [0.0, *(_distance(clean[i], features[i]) for features in found)]
            assert np.all(np.diff(distances) > 0), (what, tap, distances)
            assert distances[-1] > 4 * distances[1], (what, tap, distances)
