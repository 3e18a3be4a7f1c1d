"""Moments: values against two passes, merging, the samples it keeps, files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tolerances as tol
import torch

import fastfid
from fastfid.errors import IncomparableError
from fastfid.reference.moments import two_pass

Rng = np.random.Generator


def features(rng: Rng, n: int, d: int, mean: float = 0.4) -> np.ndarray:
    return rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + mean


def split(x: np.ndarray, sizes: list[int]) -> fastfid.Moments:
    moments = fastfid.Moments()
    start = 0
    for size in sizes:
        moments.update(x[start : start + size])
        start += size
    moments.update(x[start:])
    return moments


@pytest.mark.parametrize("n", [1, 2, 6, 7, 8, 9, 500])
@pytest.mark.parametrize("sizes", [[], [1], [0, 3, 1], [1] * 9, [8, 1]], ids=str)
def test_against_two_passes(rng: Rng, n: int, sizes: list[int]) -> None:
    x = features(rng, n, 7)
    count, mean, scatter = two_pass(x)
    got = split(x, sizes)
    assert (got.n, got.dim) == (count, 7)
    tol.check(got.mean, mean, relative=tol.MOMENTS)
    tol.check(got.scatter, scatter, relative=tol.MOMENTS, absolute=tol.MOMENTS)
    if n > 1:
        tol.check(got.cov(), np.cov(x.T), relative=tol.MOMENTS)
        tol.check(got.cov(0), np.cov(x.T, ddof=0), relative=tol.MOMENTS)


@pytest.mark.parametrize("n", [5, 40])
def test_exactly_symmetric(rng: Rng, n: int) -> None:
    cov = split(features(rng, n, 16), [2, 3]).cov()
    assert torch.equal(cov, cov.T)


@pytest.mark.parametrize("sizes", [[], [1] * 100, [64] * 300, [7000, 1, 0, 12999]], ids=["one", "singles", "64", "odd"])
def test_accuracy_far_from_zero(rng: Rng, sizes: list[int]) -> None:
    # mean/std = 500; integers scaled by 2⁻¹⁰ make the two-pass sums exact in long double
    x = np.round(rng.standard_normal((20_000, 64)) * 64 + 500 * 64) / 1024
    exact = x.astype(np.longdouble)
    centred = exact - exact.mean(axis=0)
    want = (centred.T @ centred / (len(x) - 1)).astype(np.float64)
    tol.check(split(x, sizes).cov(), want, relative=tol.MOMENTS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_low_precision_input_is_accumulated_in_float64(rng: Rng, dtype: type) -> None:
    x = features(rng, 300, 5, mean=3.0).astype(dtype)
    got = split(x, [100, 37])
    assert got.mean.dtype == got.scatter.dtype == torch.float64
    tol.check(got.cov(), np.cov(x.astype(np.float64).T), relative=tol.MOMENTS)


def test_bfloat16_and_tensor_input(rng: Rng) -> None:
    x = torch.from_numpy(features(rng, 50, 4)).bfloat16()
    got = fastfid.Moments.from_features(x)
    tol.check(got.cov(), np.cov(x.double().numpy().T), relative=tol.MOMENTS)


@pytest.mark.parametrize(("n1", "n2"), [(0, 0), (0, 5), (5, 0), (3, 3), (3, 200), (200, 3), (200, 300), (1, 1), (4, 4)])
def test_merge(rng: Rng, n1: int, n2: int) -> None:
    x = features(rng, n1 + n2, 7)
    a, b = fastfid.Moments(7), fastfid.Moments(7)
    a.update(x[:n1])
    b.update(x[n1:])
    before = (b.n, b.scatter)
    a.merge(b)
    assert a.n == n1 + n2
    assert b.n == before[0]
    assert torch.equal(b.scatter, before[1])
    if a.n:
        _, mean, scatter = two_pass(x)
        tol.check(a.mean, mean, relative=tol.MOMENTS)
        tol.check(a.scatter, scatter, relative=tol.MOMENTS, absolute=tol.MOMENTS)


def test_order_of_merging_does_not_matter(rng: Rng) -> None:
    parts = [features(rng, n, 6, mean=n) for n in (3, 50, 9, 200)]
    forward, backward = fastfid.Moments(), fastfid.Moments()
    for part in parts:
        forward.merge(fastfid.Moments.from_features(part))
    for part in reversed(parts):
        backward.merge(fastfid.Moments.from_features(part))
    tol.check(forward.cov(), backward.cov(), relative=tol.MOMENTS)


def test_rows_are_kept_up_to_d_and_then_dropped(rng: Rng) -> None:
    x = features(rng, 9, 8)
    moments = split(x[:8], [3, 2])
    assert moments.rows is not None
    np.testing.assert_array_equal(moments.rows, x[:8])
    moments.update(x[8:])
    assert moments.rows is None
    tol.check(moments.cov(), np.cov(x.T), relative=tol.MOMENTS)
    assert fastfid.Moments(8, keep_rows=False).rows is None


def test_rows_do_not_share_memory_with_the_input(rng: Rng) -> None:
    x = features(rng, 4, 8)
    want = np.cov(x.T)
    moments = fastfid.Moments.from_features(x)
    x[:] = np.nan
    tol.check(moments.cov(), want, relative=tol.MOMENTS)


def test_blocks_of_a_large_matrix(rng: Rng) -> None:
    x = features(rng, 20_000, 3).astype(np.float32)
    tol.check(fastfid.Moments.from_features(x).cov(), np.cov(x.astype(np.float64).T), relative=tol.MOMENTS)


def test_read_only_and_big_endian_arrays(rng: Rng) -> None:
    x = features(rng, 30, 4)
    want = fastfid.Moments.from_features(x).cov()
    frozen = x.copy()
    frozen.flags.writeable = False
    for given in (frozen, x.astype(">f8"), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        assert torch.equal(fastfid.Moments.from_features(given).cov(), want)


def test_empty_and_single() -> None:
    empty = fastfid.Moments()
    assert empty.n == 0
    assert empty.dim is None
    with pytest.raises(ValueError, match="no sample"):
        _ = empty.mean
    with pytest.raises(ValueError, match="no sample"):
        _ = empty.scatter
    with pytest.raises(ValueError, match="ddof: 1 with n = 0"):
        empty.cov()
    known = fastfid.Moments(3)
    known.update(np.empty((0, 3)))
    assert known.n == 0
    assert torch.equal(known.scatter, torch.zeros(3, 3, dtype=torch.float64))
    single = fastfid.Moments.from_features(np.array([[1.0, 2.0]]))
    assert single.mean.tolist() == [1.0, 2.0]
    assert torch.equal(single.cov(0), torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 2 samples"):
        single.cov()


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.zeros(4), ValueError, r"shape \[4\]"),
        (np.zeros((2, 3, 4)), ValueError, r"shape \[2, 3, 4\]"),
        (np.zeros((2, 5)), ValueError, "5 features; these Moments have 4"),
        (np.zeros((2, 4), dtype=np.int64), TypeError, "int64"),
        (np.zeros((2, 4), dtype=np.complex128), TypeError, "complex"),
        (np.zeros((2, 4), dtype=object), TypeError, "object"),
        (torch.zeros(2, 4, dtype=torch.int32), TypeError, "int32"),
        ([[1.0, 2.0, 3.0, 4.0]], TypeError, "list"),
        (np.array([[0.0] * 4, [0.0, np.nan, 0.0, 0.0]]), ValueError, r"row 1 of this batch \(sample 11\)"),
        (np.array([[0.0, -np.inf, 0.0, 0.0]]), ValueError, r"row 0 of this batch \(sample 10\)"),
    ],
    ids=["flat", "3-d", "other d", "int", "complex", "object", "int tensor", "list", "nan", "inf"],
)
def test_bad_features_change_nothing(rng: Rng, bad: object, error: type[Exception], message: str) -> None:
    x = features(rng, 10, 4)
    moments = split(x, [4])
    with pytest.raises(error, match=message):
        moments.update(bad)
    assert moments.n == 10
    tol.check(moments.cov(), np.cov(x.T), relative=tol.MOMENTS)


def test_merge_refuses_what_it_cannot_do(rng: Rng) -> None:
    moments = split(features(rng, 10, 4), [])
    with pytest.raises(TypeError, match="other: int"):
        moments.merge(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="5 features"):
        moments.merge(fastfid.Moments.from_features(features(rng, 20, 5)))
    foreign = fastfid.Moments.from_statistics(np.zeros(4), np.eye(4))
    for a, b in ((moments, foreign), (foreign, moments)):
        with pytest.raises(ValueError, match="can be compared but not merged"):
            a.merge(b)
    with pytest.raises(ValueError, match="without their number of samples"):
        foreign.update(np.zeros((1, 4)))


@pytest.mark.parametrize("n", [3, 30])
def test_merge_keeps_the_metadata_true(rng: Rng, n: int) -> None:
    a, b = (fastfid.Moments.from_features(features(rng, n, 6)) for _ in range(2))
    a.metadata = {"fingerprint": "f", "n": n, "source": "one", "skipped": ["x.png"]}
    b.metadata = {"fingerprint": "f", "n": n, "source": "two", "skipped": ["y.png"], "extractor": "e"}
    a.merge(b)
    want = {"fingerprint": "f", "n": 2 * n, "source": ["one", "two"], "skipped": ["x.png", "y.png"]}
    assert a.metadata == want
    assert b.metadata["source"] == "two"
    whole = fastfid.Moments()
    whole.merge(a)
    assert whole.metadata == want
    plain = fastfid.Moments.from_features(features(rng, n, 6))
    plain.merge(fastfid.Moments.from_features(features(rng, n, 6)))
    assert plain.metadata == {}


@pytest.mark.parametrize("key", ["fingerprint", "extractor", "weights_sha256"])
@pytest.mark.parametrize("n", [3, 30])
def test_merge_refuses_other_features(rng: Rng, n: int, key: str) -> None:
    a, b = (fastfid.Moments.from_features(features(rng, n, 6)) for _ in range(2))
    a.metadata, b.metadata = {key: "left", "n": n}, {key: "right", "n": n}
    with pytest.raises(IncomparableError, match=rf"{key}='right'.*'left'"):
        a.merge(b)
    assert (a.n, a.metadata) == (n, {key: "left", "n": n})


@pytest.mark.parametrize("n", [1, 5, 50])
@pytest.mark.parametrize("ddof", [0, 1])
def test_save_load_and_go_on(rng: Rng, tmp_path: Path, n: int, ddof: int) -> None:
    x = features(rng, n + 20, 8)
    first = fastfid.Moments.from_features(x[:n])
    path = tmp_path / "stats.npz"
    first.save(path, ddof=ddof, metadata={"protocol": "clean", "n": [1, 2]})
    assert [file.name for file in tmp_path.iterdir()] == ["stats.npz"]
    loaded = fastfid.Moments.load(path)
    assert loaded.n == n
    assert loaded.metadata == {"protocol": "clean", "n": [1, 2]}
    assert (loaded.rows is None) == (n > 8)
    tol.check(loaded.scatter, first.scatter, relative=tol.MOMENTS, absolute=tol.MOMENTS)
    loaded.update(x[n:])
    tol.check(loaded.cov(), np.cov(x.T), relative=tol.MOMENTS)


def test_file_is_what_other_packages_read(rng: Rng, tmp_path: Path) -> None:
    x = features(rng, 30, 6)
    path = tmp_path / "stats.npz"
    fastfid.Moments.from_features(x).save(path)
    with np.load(path) as file:  # what pytorch-fid, clean-fid, ADM and EDM do
        mu, sigma = file["mu"][:], file["sigma"][:]
        assert file["n"] == 30
        assert json.loads(str(file["metadata"])) == {}
    assert mu.dtype == sigma.dtype == np.float64
    tol.check(mu, x.mean(0), relative=tol.MOMENTS)
    tol.check(sigma, np.cov(x.T), relative=tol.MOMENTS)


def test_foreign_files(rng: Rng, tmp_path: Path) -> None:
    mu, sigma = rng.standard_normal(4), np.diag([1.0, 2.0, 3.0, 4.0])
    path = tmp_path / "adm.npz"
    np.savez(path, mu=mu.astype(np.float32), sigma=sigma, mu_s=mu[:3], sigma_s=sigma[:3, :3])
    loaded = fastfid.Moments.load(path)
    assert loaded.n is None
    assert loaded.dim == 4
    np.testing.assert_array_equal(loaded.cov(), sigma)
    spatial = fastfid.Moments.load(path, keys=("mu_s", "sigma_s"))
    np.testing.assert_array_equal(spatial.mean, mu[:3])
    theirs = tmp_path / "theirs.npz"
    for words in ({"metadata": "no JSON"}, {"metadata": "[1, 2]", "format": 1}, {"metadata": "no JSON", "format": 1}):
        np.savez(theirs, mu=mu, sigma=sigma, **words)
        assert fastfid.Moments.load(theirs).metadata == {}


def test_files_that_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.npz"
    text.write_text("no archive")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as \.npz"):
        fastfid.Moments.load(text)
    np.savez(tmp_path / "b.npz", mu=np.zeros(2), cov=np.eye(2))
    with pytest.raises(ValueError, match="no sigma; it holds mu, cov"):
        fastfid.Moments.load(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.zeros(2))
    with pytest.raises(ValueError, match="single array"):
        fastfid.Moments.load(tmp_path / "c.npy")
    np.savez(tmp_path / "d.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(ValueError, match=r"d\.npz"):  # never unpickled
        fastfid.Moments.load(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", mu=np.float64(1.0), sigma=np.float64(2.0))
    with pytest.raises(ValueError, match=r"e\.npz.*shape \[\]"):
        fastfid.Moments.load(tmp_path / "e.npz")
    np.savez(tmp_path / "f.npz", mu=np.zeros(2), sigma=np.array([[1.0, np.nan], [np.nan, 1.0]]))
    with pytest.raises(ValueError, match="NaN"):
        fastfid.Moments.load(tmp_path / "f.npz")
    with pytest.raises(FileNotFoundError):
        fastfid.Moments.load(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="nothing to save"):
        fastfid.Moments().save(tmp_path / "g.npz")


def test_interrupted_save_leaves_the_old_file(rng: Rng, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stats.npz"
    moments = fastfid.Moments.from_features(features(rng, 30, 6))
    moments.save(path)
    before = path.read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
        moments.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["stats.npz"]


def test_from_statistics_refuses(rng: Rng) -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        fastfid.Moments.from_statistics(np.zeros(2), np.eye(2), 0)
    with pytest.raises(ValueError, match="mean: 3 entries"):
        fastfid.Moments.from_statistics(np.zeros(3), np.eye(2))
    with pytest.raises(ValueError, match="not symmetric"):
        fastfid.Moments.from_statistics(np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]))


@pytest.mark.gpu
def test_on_the_gpu(rng: Rng) -> None:
    x = features(rng, 300, 64)
    moments = fastfid.Moments()
    for start in range(0, 300, 50):
        moments.update(torch.from_numpy(x[start : start + 50]).cuda().float())
    assert moments.scatter.is_cuda
    tol.check(moments.cov().cpu(), np.cov(x.astype(np.float32).astype(np.float64).T), relative=tol.MOMENTS)
