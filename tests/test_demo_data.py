"""The demo's images and the disturbances of the FID paper: values by hand, and what must hold of all of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fastfid.demo.disturbances import (
    DISTURBANCES,
    Disturbance,
    _bilinear,
    black_rectangles,
    gaussian_blur,
    gaussian_noise,
    salt_and_pepper,
    swirl,
)
from fastfid.demo.images import contact_sheet, make_images

EVERY = pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda d: d.name.replace(" ", "-"))


def flat(value: int, n: int = 1, height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((n, height, width, 3), value, np.uint8)


def test_images_are_the_same_everywhere() -> None:
    """Every fifth pixel of three small scenes, written down; one level of slack for another libm."""
    want = [
        [
            [[157, 147, 153], [155, 145, 150], [165, 155, 160], [154, 144, 150]],
            [[159, 145, 157], [180, 165, 177], [224, 199, 166], [175, 162, 172]],
            [[154, 124, 143], [197, 158, 183], [196, 163, 186], [196, 163, 186]],
            [[163, 131, 150], [185, 150, 172], [175, 141, 162], [157, 126, 145]],
        ],
        [
            [[131, 131, 126], [129, 129, 125], [121, 121, 118], [165, 167, 159]],
            [[170, 174, 164], [174, 178, 168], [164, 168, 159], [155, 159, 150]],
            [[149, 163, 150], [150, 164, 151], [156, 170, 157], [155, 169, 156]],
            [[130, 142, 131], [145, 158, 146], [138, 152, 139], [129, 141, 130]],
        ],
    ]
    got = make_images(2, 16, 7)[:, ::5, ::5].astype(int)
    assert np.abs(got - want).max() <= 1


def test_a_longer_set_begins_with_the_shorter() -> None:
    np.testing.assert_array_equal(make_images(9, 24, 3)[:4], make_images(4, 24, 3))


def test_images_are_varied_and_smooth() -> None:
    images = make_images(64, 64, 0)
    assert images.shape == (64, 64, 64, 3)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 64
    assert not np.array_equal(images, make_images(64, 64, 1))
    values = images.reshape(64, -1).astype(float)
    assert values.mean(axis=1).std() > 15  # bright and dark ones
    assert np.median(values.std(axis=1)) > 20  # with something on them
    left, right = values.reshape(64, 64, 64, 3)[:, :, :-1].ravel(), values.reshape(64, 64, 64, 3)[:, :, 1:].ravel()
    assert np.corrcoef(left, right)[0, 1] > 0.85  # neighbours agree, as in photographs
    assert np.ptp(values.reshape(64, -1, 3).mean(axis=1), axis=1).mean() > 10  # in colour


@pytest.mark.parametrize("size", [8, 9, 31, 100])
def test_images_of_any_size(size: int) -> None:
    images = make_images(8, size, 5)
    assert images.shape == (8, size, size, 3)
    assert images.std() > 15


def test_images_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        make_images(0, 64, 0)
    with pytest.raises(ValueError, match="size must be at least 8 pixels, got 7"):
        make_images(1, 7, 0)


def test_contact_sheet() -> None:
    images = np.stack([np.full((4, 6, 3), 10 * i, np.uint8) for i in range(5)])
    sheet = np.asarray(contact_sheet(images, columns=3, gap=1))
    assert sheet.shape == (1 + 2 * 5, 1 + 3 * 7, 3)
    for index in range(5):
        top, left = 1 + index // 3 * 5, 1 + index % 3 * 7
        assert (sheet[top : top + 4, left : left + 6] == 10 * index).all()
    assert (sheet[6:, 15:] == 255).all()  # the empty place
    assert (sheet[0] == 255).all()


def test_the_series_is_that_of_the_paper() -> None:
    assert [(d.name, d.levels) for d in DISTURBANCES] == [
        ("Gaussian noise", (0, 0.25, 0.5, 0.75)),
        ("Gaussian blur", (0, 1, 2, 4)),
        ("Black rectangles", (0, 0.25, 0.5, 0.75)),
        ("Swirl", (0, 1, 2, 4)),
        ("Salt & pepper", (0, 0.1, 0.2, 0.3)),
    ]


@EVERY
def test_every_disturbance(disturbance: Disturbance) -> None:
    images = make_images(12, 48, 0)
    kept = images.copy()
    distances = []
    for level in disturbance.levels:
        spoiled = disturbance.apply(images, level, 4)
        assert spoiled.dtype == np.uint8
        assert spoiled.shape == images.shape
        assert not np.shares_memory(spoiled, images)
        np.testing.assert_array_equal(spoiled, disturbance.apply(images, level, 4))
        distances.append(float(np.square(spoiled.astype(float) - images).mean()))
    np.testing.assert_array_equal(images, kept)
    assert distances[0] == 0  # level 0 changes nothing
    assert all(low < high for low, high in pairwise(distances)), distances
    with pytest.raises(ValueError, match="level must be"):
        disturbance.apply(images, -0.1, 0)
    with pytest.raises(ValueError, match="level must be"):
        disturbance.apply(images, float("nan"), 0)
    with pytest.raises(ValueError, match=r"images must be uint8 \[n, height, width, 3\], got float64"):
        disturbance.apply(images / 255, 0.5, 0)


@EVERY
def test_only_blur_is_without_chance(disturbance: Disturbance) -> None:
    images = make_images(6, 32, 0)
    same = np.array_equal(disturbance.apply(images, 0.3, 1), disturbance.apply(images, 0.3, 2))
    assert same == (disturbance.name == "Gaussian blur")


@EVERY
def test_images_need_not_be_square(disturbance: Disturbance) -> None:
    wide = make_images(3, 32, 0)[:, 5:25]
    assert disturbance.apply(wide, disturbance.levels[1], 0).shape == (3, 20, 32, 3)


def test_noise_on_white() -> None:
    """X = 1: (1 − α) + αN has mean 1 − α and deviation α/6, so levels 255 − 127.5α and 21.25α."""
    for alpha in (0.25, 0.5, 1.0):
        spoiled = gaussian_noise(flat(255, 8), alpha, 0).astype(float)
        assert abs(spoiled.mean() - (255 - 127.5 * alpha)) < 0.3  # n = 98,304: deviation of the mean 0.07·α
        assert abs(spoiled.std() / (21.25 * alpha) - 1) < 0.02
    two = gaussian_noise(flat(255), 0.5, 0)[..., :2]
    assert abs(np.corrcoef(two.reshape(-1, 2).T)[0, 1]) < 0.08  # each channel has noise of its own


def test_blur_of_a_point() -> None:
    """σ = 1: weights .39894, .24197, .05399, .00443, so a point of 255 spreads as their products."""
    images = flat(0)
    images[0, 32, 32] = 255
    spoiled = gaussian_blur(images, 1.0)[0, :, :, 1]
    want = [[15, 25, 15], [25, 41, 25], [15, 25, 15]]
    np.testing.assert_array_equal(spoiled[31:34, 31:34], want)
    assert spoiled[32, 34] == spoiled[30, 32] == 5  # .39894 · .05399 · 255 = 5.49
    assert spoiled[32, 35] == 0  # .39894 · .00443 · 255 = 0.45
    images[0] = 0
    images[0, 0, 0] = 255
    # At the corner what would fall outside comes back: weights from 0 to −4 add up to (1 + .39894)/2 = .69947.
    assert gaussian_blur(images, 1.0)[0, 0, 0, 0] == round(0.69947**2 * 255)


def test_blur_keeps_what_is_flat() -> None:
    np.testing.assert_array_equal(gaussian_blur(flat(77), 4.0), flat(77))


def test_rectangles() -> None:
    white = flat(255, 400, 8, 12)
    one = black_rectangles(white, 0.25, 0, count=1)[..., 0] == 0
    assert set(one.sum(axis=(1, 2))) == {2 * 3}  # ⌊8/4⌋ × ⌊12/4⌋
    rows, columns = np.nonzero(one.any(axis=2))[1], np.nonzero(one.any(axis=1))[1]
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 7, 0, 11)  # they reach every border
    five = black_rectangles(white, 0.25, 0)[..., 0] == 0
    assert five.sum(axis=(1, 2)).max() == 5 * 6
    assert five.sum(axis=(1, 2)).min() < 5 * 6  # some overlap
    assert not black_rectangles(white, 1.0, 0).any()
    np.testing.assert_array_equal(black_rectangles(white, 0.05, 0), white)  # less than a pixel


def test_swirl_turns_a_point() -> None:
    """At ρ = 10 with r = 70·ln 2/5 = 9.704 the strength π/2·exp(10/9.704) turns by a quarter."""
    strength = np.pi / 2 * np.exp(10 / (70 * np.log(2) / 5))
    images = flat(0, 20)
    images[:, 42, 32] = 255  # ten below the centre (32, 32)
    spoiled = swirl(images, strength, 0)[..., 0]
    right, left = spoiled[:, 32, 42], spoiled[:, 32, 22]
    assert set(zip(right.tolist(), left.tolist(), strict=True)) == {(255, 0), (0, 255)}  # both directions occur
    assert (spoiled[:, 42, 32] == 0).all()


def test_swirl_keeps_centre_and_border() -> None:
    images = make_images(5, 64, 2)
    spoiled = swirl(images, 4.0, 0)
    for part in (np.s_[:, :3], np.s_[:, -4:], np.s_[:, :, :3], np.s_[:, :, -4:], np.s_[:, 32, 32]):
        np.testing.assert_array_equal(spoiled[part], images[part])
    np.testing.assert_array_equal(swirl(flat(9), 4.0, 0), flat(9))


def test_interpolation() -> None:
    image = (np.arange(5)[:, None] * 10 + np.arange(4)[None, :])[..., None].astype(np.uint8)
    y, x = np.array([[1.5, -1.0, 0.0, 5.0]]), np.array([[0.25, 2.0, 4.0, 3.5]])
    # (1.5, .25) lies between; row −1 mirrors to 1; column 4 to 2; row 5 to 3, column 3.5 to 2.5
    np.testing.assert_allclose(_bilinear(image, y, x)[..., 0], [[15.25, 12.0, 2.0, 32.5]], rtol=0, atol=1e-12)


def test_salt_and_pepper() -> None:
    spoiled = salt_and_pepper(flat(100, 20), 0.2, 0)
    assert (spoiled == spoiled[..., :1]).all()  # all channels alike
    share = [(spoiled[..., 0] == value).mean() for value in (0, 100, 255)]
    np.testing.assert_allclose(share, [0.1, 0.8, 0.1], rtol=0, atol=0.006)  # 81,920 pixels: 4 deviations
    assert set(np.unique(salt_and_pepper(flat(100), 1.0, 0))) == {0, 255}
