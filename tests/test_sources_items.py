"""One rule for items: generated structures whose images are known, in streams and in ``Evaluator.update`` alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import fastfid
from fastfid.errors import EmptySourceError
from fastfid.sources import open_source

SIDE = 6


class Maker:
    """Images that are told apart by their pixels, and everything that may stand beside them."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.made: list[np.ndarray] = []

    def _pixels(self) -> np.ndarray:
        image = np.full((SIDE, SIDE + 2, 3), len(self.made) % 251, np.uint8)
        image[0, 0] = (len(self.made) // 251, 7, 9)
        self.made.append(image)
        return image

    def image(self, kind: str) -> Any:
        pixels = self._pixels()
        if kind == "PIL":
            return Image.fromarray(pixels)
        return pixels if kind == "array" else torch.from_numpy(pixels).permute(2, 0, 1)

    def batch(self, n: int) -> Any:
        pixels = np.stack([self._pixels() for _ in range(n)])
        return pixels if self.draw.random() < 0.5 else torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def run(self) -> Any:
        kind = self.draw.choice(["PIL", "array", "tensor"])
        images = [self.image(kind) for _ in range(self.draw.randint(1, 5))]
        return images if self.draw.random() < 0.5 else tuple(images)

    def label(self, n: int) -> Any:
        return self.draw.choice(
            [
                3, "cat", None, 2.5, torch.arange(n), torch.rand(n, 4), np.arange(n * 2).reshape(n, 2),
                ["a"] * n, tuple(range(n)), {"boxes": torch.rand(2, 4), "masks": torch.zeros(1, 2, SIDE, SIDE)}, [],
                [{"boxes": torch.rand(1, 4)}] * n, torch.tensor(1), torch.zeros(2, 2, 2, 2, 2), (None, (1, "x")),
            ]
        )  # fmt: skip

    def beside_a_batch(self, n: int) -> Any:
        masks = torch.zeros(n, SIDE, SIDE, dtype=self.draw.choice([torch.uint8, torch.int64, torch.bool]))
        return masks if self.draw.random() < 0.4 else self.label(n)

    def sequence(self, elements: list[Any]) -> Any:
        return elements if self.draw.random() < 0.5 else tuple(elements)

    def good(self) -> Any:
        """An item whose images are exactly those in ``made``."""
        shape = self.draw.choice(["bare", "run", "labelled batch", "labelled run", "labelled image", "uncollated"])
        n = self.draw.randint(1, 5)
        if shape == "bare":
            return self.draw.choice([lambda: self.batch(n), lambda: self.image("array"), lambda: self.image("PIL")])()
        if shape == "run":
            return self.run()
        if shape == "labelled image":
            elements = [self.image("tensor"), *(self.label(n) for _ in range(self.draw.randint(1, 3)))]
        elif shape == "uncollated":
            pairs = [(self.image("PIL"), self.label(n), index) for index in range(n)]
            return self.sequence([self.sequence(list(pair)) for pair in pairs])
        else:
            images = self.batch(n) if shape == "labelled batch" else self.run()
            elements = [images, *(self.beside_a_batch(n) for _ in range(self.draw.randint(1, 3)))]
        self.draw.shuffle(elements)
        return self.sequence(elements)

    def ambiguous(self) -> tuple[Any, int, int]:
        """An item with two image-like elements, and where they are."""
        n = self.draw.randint(2, 4)
        groups = [lambda: self.batch(n), self.run]
        elements = [self.draw.choice(groups)(), self.draw.choice(groups)()]
        elements += [self.beside_a_batch(n) for _ in range(self.draw.randint(0, 2))]
        order = list(range(len(elements)))
        self.draw.shuffle(order)
        first, second = sorted((order.index(0), order.index(1)))
        return self.sequence([elements[i] for i in order]), first, second


def read(source: Any, **options: Any) -> list[bytes]:
    batches = open_source(source, **options).batches(3)
    return [image.numpy().tobytes() for batch in batches for image in batch.images]


def pixels_of(images: list[np.ndarray]) -> list[bytes]:
    return [image.tobytes() for image in images]


@pytest.mark.parametrize("seed", range(300))
def test_images_of_generated_items(seed: int) -> None:
    maker = Maker(seed)
    items = [maker.good() for _ in range(3)]
    assert read(items) == pixels_of(maker.made)
    assert read(iter([{"x": item, "y": maker.label(2)} for item in items]), key="x") == pixels_of(maker.made)


@pytest.mark.parametrize("seed", range(150))
def test_two_image_like_elements_are_named(seed: int) -> None:
    maker = Maker(seed)
    item, first, second = maker.ambiguous()
    with pytest.raises(ValueError, match=rf"elements {first} and {second} are both images\. Pass key={first} or"):
        read([item])
    if not isinstance(item, list) or not any(isinstance(one, (list, tuple)) for one in item):
        chosen = Maker(seed)
        want = chosen.ambiguous()[0][second]
        assert read([item], key=second) == read([want])
    with pytest.raises(ValueError, match="both images"):
        shared_evaluator().update(item)


class Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


REFERENCE = np.random.default_rng(0).integers(0, 255, (30, SIDE, SIDE, 3)).astype(np.uint8)
SETTINGS: dict[str, Any] = {"extractor": Means(), "device": "cpu", "batch_size": 2}


@cache
def reference(protocol: str) -> fastfid.Moments:
    return fastfid.stats(REFERENCE, protocol=protocol, **SETTINGS)


@cache
def shared_evaluator() -> fastfid.Evaluator:
    return fastfid.Evaluator(REFERENCE, **SETTINGS)


pytestmark = pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")


@pytest.mark.parametrize("seed", range(60))
def test_update_takes_what_a_stream_takes(seed: int) -> None:
    """The same moments, bit for bit, as ``stats`` of a stream of the same single item."""
    maker = Maker(1000 + seed)
    item = maker.good()
    shared_evaluator().reset()
    shared_evaluator().update(item)
    assert shared_evaluator().n == len(maker.made)
    want = fastfid.stats(iter([item]), **SETTINGS)
    state = shared_evaluator()._tally.gathered[""].moments.state()
    assert state["n"] == want.n
    assert torch.equal(state["rows"] if state["rows"] is not None else state["mean"], want.state()["rows"]) or (
        torch.equal(state["scatter"].tril(), want.state()["scatter"].tril())
    )


NCHW = torch.arange(7 * 3 * SIDE * SIDE).remainder(251).to(torch.uint8).reshape(7, 3, SIDE, SIDE)
IMAGE = NCHW[0]
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "images and masks": ([NCHW, NCHW[:, :1]], ValueError, "elements 0 and 1 are both images"),
    "two batches": ([NCHW, NCHW], ValueError, "elements 0 and 1 are both images.*one batch at a time"),
    "an image and its mask": ((IMAGE, IMAGE[:1]), ValueError, r"element 0 is uint8 tensor \[3, 6, 6\] and element 1"),
    "a PIL image and its mask": (
        (Image.new("RGB", (4, 4)), Image.new("L", (4, 4))),
        ValueError,
        r"element 0 is a PIL image \(RGB, 4×4\) and element 1 is a PIL image \(L, 4×4\)",
    ),
    "float images": (NCHW.float() / 255, TypeError, "images must be uint8, got float32"),
    "float images, labels": ([NCHW.float(), torch.arange(7)], TypeError, "element 0 of images: .*got float32"),
    "labels, float images": ((torch.arange(7), NCHW.double()), TypeError, "element 1 of images: .*got float64"),
    "a run with a float": ([IMAGE, IMAGE, IMAGE.float()], TypeError, "element 2 of images: .*got float32"),
    "a run with four channels": ([IMAGE, torch.cat([IMAGE, IMAGE[:1]])], ValueError, "element 1 of images: .*Alpha"),
    "wrong axes": (NCHW.permute(0, 2, 3, 1), ValueError, r"x\.permute\(0, 3, 1, 2\)"),
    "labels alone": ([torch.arange(3), "cat"], TypeError, r"images is list of 2 \(int64 tensor \[3\], str\); accepted"),
    "a dict": ({"a": 1, "image": NCHW}, TypeError, r"key='image'\."),
    "a dict beside labels": (({"img": NCHW}, 4), TypeError, r"key='img'\."),
    "nothing": ([], TypeError, "images is list of 0; accepted"),
    "empty batch": (NCHW[:0], EmptySourceError, "holds no images"),
    "a generator that fails": ((NCHW[:2] if i < 3 else NCHW.float() for i in range(4)), TypeError, "item 3 of gen.*"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("protocol", ["pytorch-fid", "ttur"])  # the latter keeps a rest of a block
def test_nothing_of_a_refused_update_is_taken(name: str, protocol: str) -> None:
    item, error, message = REFUSED[name]
    if name == "a generator that fails":
        item = (NCHW[:2] if i < 3 else NCHW.float() for i in range(4))
    mine = fastfid.Evaluator(reference(protocol), protocol=protocol, **SETTINGS)
    twin = fastfid.Evaluator(reference(protocol), protocol=protocol, **SETTINGS)
    for one in (mine, twin):
        one.update(NCHW)
    with pytest.raises(error, match=message):
        mine.update(item)
    assert mine.n == 7
    for one in (mine, twin):
        one.update(REFERENCE[:9])
    got, want = mine.compute(), twin.compute()
    assert (got.value, got.lower, got.upper, got.run.gen.n) == (want.value, want.lower, want.upper, want.run.gen.n)


class Poisoned(torch.nn.Module):
    """NaN features for an image whose first pixel is near 255, and another width for one near 200."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        corner = x[:, 0, 0, 0]
        if ((corner > 0.3) & (corner < 0.8)).any():
            return rows[:, :5]
        return rows.masked_fill((corner > 0.9)[:, None], float("nan"))


@pytest.mark.parametrize("corner", [200, 255])
@pytest.mark.parametrize("at", [0, 3, 8])
@pytest.mark.parametrize("taken", [0, 5, 20])  # before, while rows are kept, and with a scatter matrix
@pytest.mark.parametrize("protocol", ["pytorch-fid", "ttur"])
def test_features_that_fail_in_a_later_batch(corner: int, at: int, taken: int, protocol: str) -> None:
    mine = fastfid.Evaluator(REFERENCE // 2, protocol=protocol, extractor=Poisoned(), device="cpu", batch_size=3)
    if taken:
        mine.update(REFERENCE[:taken] // 2)
    before, rest = mine._tally.gathered[""].moments.state(), mine._tally.gathered[""].rest
    images = REFERENCE[:9] // 2
    images[at, :2, :2] = corner
    with pytest.raises(ValueError, match=r"NaN or infinity|where 12 are expected"):
        mine.update(images)
    after = mine._tally.gathered[""].moments.state()
    assert mine.n == taken
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert same, name
    left = mine._tally.gathered[""].rest
    assert torch.equal(rest, left) if rest is not None else left is None


class Scenes(Dataset):
    """A detection dataset: images of different sizes, and targets that are dicts."""

    def __init__(self, n: int, second: Callable[[int], Any]) -> None:
        self.n, self.second = n, second

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        return torch.full((3, 4 + index % 3, 5), index % 256, dtype=torch.uint8), self.second(index)


def target(index: int) -> dict[str, torch.Tensor]:
    return {"boxes": torch.zeros(index % 4, 4), "masks": torch.zeros(index % 4, 9, 9, dtype=torch.uint8)}


@pytest.mark.parametrize("batch_size", [1, 7, 16])
def test_detection_collate_gives_every_image(batch_size: int) -> None:
    loader = DataLoader(Scenes(160, target), batch_size=batch_size, collate_fn=lambda b: tuple(zip(*b, strict=True)))
    assert [image[0, 0, 0].item() for image in images_of(loader)] == list(range(160))
    assert fastfid.stats(loader, **SETTINGS).n == 160


def images_of(x: Any, **options: Any) -> Iterator[torch.Tensor]:
    for batch in open_source(x, **options).batches(5):
        yield from (batch.images[i] for i in range(len(batch)))


@pytest.mark.parametrize("workers", [0, 1])
def test_datasets_of_pairs_need_a_key(workers: int) -> None:
    """(image, mask): named and refused; key=0 takes the images, key=1 the masks."""
    masks = Scenes(5, lambda index: torch.full((1, 4, 4), 100 + index, dtype=torch.uint8))
    pairs = Scenes(5, lambda index: torch.full((3, 4, 4), 100 + index, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"item 0 of Scenes dataset is tuple of 2 .*key=0 or key=1"):
        list(open_source(masks).batches(4, num_workers=workers))
    with pytest.raises(ValueError, match="item 0 of Scenes dataset holds several images"):
        list(open_source(pairs).batches(4, num_workers=workers))
    for dataset in (masks, pairs):
        for key, start in ((0, 0), (1, 100), (-1, 100)):
            got = [int(image[0, 0, 0]) for image in images_of(dataset, key=key)]
            assert got == list(range(start, start + 5))


def test_keys_reach_fid_stats_and_evaluator() -> None:
    dicts = [{"image": REFERENCE[i : i + 5], "mask": REFERENCE[i : i + 5, :, :, :1]} for i in range(0, 30, 5)]
    want = fastfid.fid(REFERENCE, NCHW, **SETTINGS).value
    loose = {"rel": 1e-9}  # batches are cut at other places
    assert fastfid.fid(dicts, NCHW, key="image", **SETTINGS).value == pytest.approx(want, **loose)
    assert fastfid.stats(dicts, key="image", **SETTINGS).n == 30
    mine = fastfid.Evaluator(dicts, key="image", **SETTINGS)
    mine.update({"x": NCHW, "y": 1}, key="x")
    assert mine.compute().value == pytest.approx(want, **loose)
    with pytest.raises(TypeError, match=r"item 0 of list of batches is dict .*key='image'\."):
        fastfid.fid(dicts, NCHW, **SETTINGS)


@pytest.mark.parametrize(
    ("key", "item", "error", "message"),
    [
        ("image", {"img": IMAGE}, ValueError, r"which has no key='image'"),
        ("image", [{"image": IMAGE}, {"img": IMAGE}], ValueError, r"element 1 of item 0 .* no key='image'"),
        (2, (IMAGE, 1), ValueError, r"which has no element key=2"),
        (-3, (IMAGE, 1), ValueError, r"which has no element key=-3"),
        (0, [IMAGE, IMAGE], ValueError, "would take only one of a run"),
        (0, [(IMAGE, 1), (IMAGE, 1)], ValueError, "would take only one of a run"),
        (1, (IMAGE, "label"), TypeError, "is str; accepted"),
        (True, (IMAGE, 1), TypeError, "key=True is bool; accepted"),
        (1.5, (IMAGE, 1), TypeError, "key=1.5 is float; accepted"),
    ],
)
def test_keys_that_select_nothing(key: Any, item: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read([item], key=key)
    with pytest.raises(error, match=message.replace("item 0 .* no", "images .* no")):
        shared_evaluator().update(item, key=key)


def test_keys_leave_alone_what_has_no_elements() -> None:
    assert len(read([NCHW], key="image")) == len(read([NCHW], key=0)) == len(read(NCHW, key="image")) == 7
    assert len(read([[IMAGE, IMAGE]], key="image")) == 2
    assert len(read([[{"image": IMAGE}, {"image": IMAGE}]], key="image")) == 2


@pytest.mark.parametrize("protocol", ["pytorch-fid", "ttur"])
def test_features_that_are_refused_are_not_taken(protocol: str) -> None:
    mine = fastfid.Evaluator(REFERENCE, protocol=protocol, **SETTINGS)
    bad = torch.zeros(3, 12)
    bad[1, 2] = float("inf")
    for features, message in (
        (bad, "row 1 of this batch.*NaN or infinity"),
        (torch.zeros(3, 5), "5 features; the reference has 12"),
    ):
        mine.update_features(torch.rand(7, 12, generator=torch.Generator().manual_seed(0)))
        n = mine.n
        with pytest.raises(ValueError, match=message):
            mine.update_features(features)
        assert mine.n == n
    assert mine.compute().run.gen.n == 14
