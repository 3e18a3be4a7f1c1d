"""``fid`` and ``stats`` end to end with a small extractor: every kind of image set, every trouble, every label."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from tolerances import check

import fastfid
from fastfid.errors import (
    BackendUnavailableError,
    BadImageError,
    BadImageWarning,
    EmptySourceError,
    IncomparableError,
    OutputError,
    ProtocolWarning,
    SlowPathWarning,
    SmallSampleWarning,
)


class Colours(torch.nn.Module):
    """12 features: the mean of each channel over the quarters of the image."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * self.scale


colours = Colours()


def images(n: int, seed: int, size: tuple[int, int] = (24, 20)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 200, (n, 1, 1, 3))
    return (base + generator.integers(0, 56, (n, *size, 3))).astype(np.uint8)


def write_folder(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index:04d}.png")
    return folder


def expected(first: np.ndarray, second: np.ndarray, ddof: int = 1) -> float:
    """By hand: Pillow-free resize (torch), NumPy moments, SciPy's root."""
    moments = []
    for pixels in (first, second):
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
        x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
        features = colours(x).numpy()
        moments.append((features.mean(0), np.cov(features, rowvar=False, ddof=ddof)))
    (m1, s1), (m2, s2) = moments
    root = scipy.linalg.sqrtm(s1 @ s2)
    return float((m1 - m2) @ (m1 - m2) + np.trace(s1 + s2) - 2 * np.trace(root.real))


REF, GEN = images(40, 1), images(50, 2)


def test_value_is_the_one_computed_by_hand() -> None:
    result = fastfid.fid(REF, GEN, extractor=colours)
    check(result.value, expected(REF, GEN), relative=2e-6, what="fid against NumPy and SciPy")
    assert result.lower <= result.value <= result.upper
    assert (result.run.ref.n, result.run.gen.n) == (40, 50)
    assert result.run.metric == "fd", "a network of one's own is not FID"
    assert float(result) == result.value == result + 0


@pytest.mark.parametrize("kind", ["folder", "npz", "npy", "tensor", "batches", "zip", "Moments", "statistics"])
def test_every_kind_of_set_gives_the_same_number(kind: str, tmp_path: Path) -> None:
    want = fastfid.fid(REF, GEN, extractor=colours).value
    given: object
    if kind == "folder":
        given = write_folder(tmp_path / "gen", GEN)
    elif kind == "npz":
        given = tmp_path / "gen.npz"
        np.savez(given, arr_0=GEN)
    elif kind == "npy":
        given = tmp_path / "gen.npy"
        np.save(given, GEN)
    elif kind == "tensor":
        given = torch.from_numpy(GEN).permute(0, 3, 1, 2)
    elif kind == "batches":
        given = (GEN[i : i + 7] for i in range(0, len(GEN), 7))
    elif kind == "zip":
        write_folder(tmp_path / "gen", GEN)
        given = shutil.make_archive(str(tmp_path / "gen"), "zip", tmp_path / "gen")
    elif kind == "Moments":
        given = fastfid.stats(GEN, extractor=colours)
    else:
        given = tmp_path / "gen.npz"
        fastfid.stats(GEN, given, extractor=colours)
    got = fastfid.fid(REF, given, extractor=colours, batch_size=16)
    check(got.value, want, relative=1e-6, what=kind)
    assert got.run.gen.n == 50


def test_mixed_sizes_in_one_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mixed", images(20, 3))
    for index, size in enumerate([(1, 9), (37, 611), (299, 299), (8, 1)] * 5):
        Image.fromarray(images(1, 100 + index, size)[0]).save(folder / f"odd{index:02d}.png")
    result = fastfid.fid(folder, GEN, extractor=colours)
    one_by_one = fastfid.fid(folder, GEN, extractor=colours, batch_size=1)
    assert result.run.ref.n == 40
    check(result.value, one_by_one.value, relative=1e-6, what="batches of mixed sizes against single images")


def test_ddof_and_mean_dtype_follow_the_protocol() -> None:
    for_nvidia = fastfid.protocol("pytorch-fid")
    zero = dataclasses.replace(for_nvidia, statistics=dataclasses.replace(for_nvidia.statistics, ddof=0))
    check(
        fastfid.fid(REF, GEN, extractor=colours, protocol=zero).value,
        expected(REF, GEN, ddof=0),
        relative=2e-6,
        what="ddof 0",
    )
    single = dataclasses.replace(
        for_nvidia, statistics=dataclasses.replace(for_nvidia.statistics, mean_dtype="float32")
    )
    exact = fastfid.fid(REF, GEN, extractor=colours).value
    rounded = fastfid.fid(REF, GEN, extractor=colours, protocol=single).value
    assert rounded != exact
    check(rounded, exact, relative=1e-5, what="float32 means")


def test_pre_resize_and_crop_are_pillows(tmp_path: Path) -> None:
    """The text-to-image habit: centre crop, Lanczos to uint8, then the protocol's own resize."""
    pixels = images(30, 5, (50, 70))
    base = fastfid.protocol("pytorch-fid")
    small = fastfid.protocols.Resize((16, 16), "lanczos3", antialias=True, quantize=True)
    habit = dataclasses.replace(base, name="habit", crop="center", pre_resize=small)
    by_pillow = np.stack(
        [np.asarray(Image.fromarray(p[:, 10:60]).resize((16, 16), Image.Resampling.LANCZOS)) for p in pixels]
    )
    got = fastfid.stats(pixels, protocol=habit, extractor=colours)
    want = fastfid.stats(by_pillow, extractor=colours)
    check(got.mean.numpy(), want.mean.numpy(), absolute=1e-12, what="means after crop and Lanczos")


def test_a_block_protocol_leaves_out_its_rest_and_says_so() -> None:
    ttur = dataclasses.replace(fastfid.protocol("ttur"), tap="2048")
    with pytest.warns(ProtocolWarning, match="leaves out the last 20 images, an incomplete block of 50"):
        moments = fastfid.stats(images(120, 6), protocol=ttur, extractor=colours, batch_size=16)
    assert moments.n == 100
    assert fastfid.stats(images(30, 6), protocol=ttur, extractor=colours).n == 30
    want = fastfid.stats(images(120, 6)[:100], protocol="torch-fidelity", extractor=colours)
    check(moments.mean.numpy(), want.mean.numpy(), absolute=1e-12, what="the first 100 images")


def test_limit_draws_the_subset_of_edm() -> None:
    pixels = images(30, 7)
    order = np.arange(30)
    np.random.RandomState(5).shuffle(order)  # the generator EDM and StyleGAN3 use
    chosen = np.sort(order[:12])
    got = fastfid.stats(pixels, extractor=colours, limit=12, seed=5)
    want = fastfid.stats(pixels[chosen], extractor=colours)
    assert got.n == 12
    check(got.mean.numpy(), want.mean.numpy(), absolute=1e-12, what="subset")
    with pytest.raises(ValueError, match="30"):
        fastfid.stats(pixels, extractor=colours, limit=31)


def test_a_broken_image_stops_the_run_with_its_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", images(20, 8))
    whole = (folder / "0007.png").read_bytes()
    (folder / "0007.png").write_bytes(whole[: len(whole) // 2])
    (folder / "0011.png").write_text("not an image")
    for workers in (0, 1):
        with pytest.raises(BadImageError, match=r"0007\.png"):
            fastfid.fid(folder, GEN, extractor=colours, num_workers=workers)
    with pytest.warns(BadImageWarning, match=r"left out 2 unreadable images: 0007\.png, 0011\.png"):
        result = fastfid.fid(folder, GEN, extractor=colours, skip_bad=True)
    assert result.run.ref.n == 18
    assert result.run.ref.skipped == ("0007.png", "0011.png")
    report = result.to_dict()
    assert report["ref"]["n_skipped"] == 2
    assert any("0007.png" in text for text in report["warnings"])


def test_empty_single_and_few(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptySourceError, match="empty"):
        fastfid.fid(tmp_path / "empty", GEN, extractor=colours)
    with pytest.raises(ValueError, match=r"gen='.*' holds 1 image; a covariance needs at least 2"):
        fastfid.fid(REF, GEN[:1], extractor=colours)
    bad = write_folder(tmp_path / "bad", GEN[:2])
    for file in bad.iterdir():
        file.write_text("x")
    with pytest.raises(EmptySourceError, match="none of the 2 images could be read"):
        fastfid.fid(REF, bad, extractor=colours, skip_bad=True)
    with pytest.warns(SmallSampleWarning, match=r"8 samples for 12 feature dimensions.*rank at most 7"):
        few = fastfid.fid(REF, GEN[:8], extractor=colours)
    assert few.rank2 == 7
    assert any("8 samples" in text for text in few.run.warnings)
    with pytest.warns(SmallSampleWarning):
        same = fastfid.fid(GEN[:8], GEN[:8], extractor=colours)
    assert same.lower <= 0.0 <= same.upper


def test_statistics_remember_what_made_them(tmp_path: Path) -> None:
    path = tmp_path / "ref.npz"
    fastfid.stats(REF, path, extractor=colours)
    with np.load(path) as file:
        assert file["mu"].shape == (12,)
        check(file["sigma"], np.asarray(fastfid.stats(REF, extractor=colours).cov()), relative=1e-15, what="sigma")
    back = fastfid.Moments.load(path)
    assert back.metadata["protocol"] == "pytorch-fid"
    assert back.metadata["weights_sha256"]
    with pytest.raises(IncomparableError, match="was made with protocol 'pytorch-fid', this comparison uses 'clean'"):
        fastfid.fid(path, GEN, protocol="clean", extractor=colours)
    other = dataclasses.replace(fastfid.protocol("pytorch-fid"), crop="center")
    with pytest.raises(IncomparableError, match="other parameters of that protocol"):
        fastfid.fid(path, GEN, protocol=other, extractor=colours)
    with pytest.raises(IncomparableError, match="was made with extractor 'Colours', the other side with 'Linear'"):
        fastfid.fid(path, GEN, extractor=torch.nn.Linear(1, 1))
    with pytest.raises(IncomparableError, match="was made with weights 'Colours'"):
        fastfid.fid(GEN, path, extractor=Colours(2.0))


def test_networks_known_only_by_name_are_pointed_out() -> None:
    def nameless(x: torch.Tensor) -> torch.Tensor:
        return colours(x)

    moments = fastfid.stats(REF, extractor=nameless)
    with pytest.warns(ProtocolWarning, match="'nameless', of which nothing but the name is known"):
        fastfid.fid(moments, GEN, extractor=nameless)


def test_what_must_fail_fails_before_the_first_set_is_read() -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the network ran")

    with pytest.raises(ValueError, match=r"limit=45, but ref='.*' holds 40 images"):
        fastfid.fid(REF, GEN, extractor=never, limit=45)
    one = iter([GEN])
    with pytest.raises(ValueError, match="ref and gen are the same iterator"):
        fastfid.fid(one, one, extractor=never)
    with pytest.raises(TypeError, match=r"^gen: "):
        fastfid.fid(REF, 5, extractor=never)


def test_statistics_can_be_added_to(tmp_path: Path) -> None:
    moments = fastfid.stats(REF, extractor=colours)
    moments.update(torch.zeros(3, 12))
    assert moments.n == 43
    more = fastfid.stats(GEN, extractor=colours)
    more.merge(fastfid.stats(GEN[:5], extractor=colours))
    more.save(tmp_path / "more.npz")
    assert fastfid.Moments.load(tmp_path / "more.npz").n == 55


def test_foreign_statistics_are_used_with_a_warning(tmp_path: Path) -> None:
    moments = fastfid.stats(REF, extractor=colours)
    np.savez(tmp_path / "foreign.npz", mu=moments.mean.numpy(), sigma=moments.cov().numpy())
    with pytest.warns(ProtocolWarning, match="do not say which protocol"):
        unknown = fastfid.fid(tmp_path / "foreign.npz", tmp_path / "foreign.npz")
    assert unknown.run.metric == "fd-unknown"
    with pytest.warns(ProtocolWarning, match="do not say which protocol"):
        result = fastfid.fid(tmp_path / "foreign.npz", GEN, extractor=colours)
    check(result.value, fastfid.fid(REF, GEN, extractor=colours).value, relative=1e-9, what="foreign statistics")
    assert result.run.ref.n is None


def test_json_report_is_complete_and_results_survive_copying() -> None:
    result = fastfid.fid(REF, GEN, extractor=colours)
    report = json.loads(json.dumps(result.to_dict()))
    assert report["fd"]["value"] == result.value
    assert "fid" not in report
    for key in ("protocol", "extractor", "weights", "n_ref", "n_gen", "warnings", "versions", "device"):
        assert key in report
    assert (report["n_ref"], report["protocol"], report["device"]) == (40, "pytorch-fid", "cpu")
    for twin in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert twin == result
        assert twin.run.ref == result.run.ref


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("batch_size", 2.5, "batch_size must be a whole number, got float 2.5"),
        ("num_workers", -1, "num_workers must be at least 0, got -1"),
        ("limit", 0, "limit must be at least 1, got 0"),
        ("seed", -1, "seed must be at least 0, got -1"),
        ("device", "gpu", "device='gpu' is not a device; accepted: auto, cpu, cuda"),
        ("device", "meta", "device='meta' is not supported"),
        ("protocol", "fid", "protocol='fid' is not known"),
        ("weights", "random", "extractor replaces the Inception network"),
        ("precision", "bf16", "extractor replaces the Inception network"),
    ],
)
def test_bad_arguments_are_named(argument: str, value: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        fastfid.fid(REF, GEN, **{"extractor": colours, argument: value})


def test_a_missing_gpu_is_an_error_not_a_fallback() -> None:
    if torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="cuda:99"):
            fastfid.fid(REF, GEN, extractor=colours, device="cuda:99")
        return
    with pytest.raises(BackendUnavailableError, match="device='cuda': this machine has 0 CUDA devices"):
        fastfid.fid(REF, GEN, extractor=colours, device="cuda")


def test_output_must_be_an_npz_and_its_folder_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"output must end in \.npz"):
        fastfid.stats(REF, tmp_path / "a.npy", extractor=colours)
    with pytest.raises(OutputError, match="does not exist"):
        fastfid.stats(REF, tmp_path / "no" / "a.npz", extractor=colours)


def test_an_interrupt_leaves_no_file(tmp_path: Path) -> None:
    def interrupted(x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastfid.stats(REF, tmp_path / "a.npz", extractor=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_the_published_cases_of_pytorch_fid(tmp_path: Path) -> None:
    """Its tests/test_fid_score.py with our functions in place of its own."""
    zeros, ones, identity = np.zeros(2048), np.ones(2048), np.eye(2048)
    assert fastfid.frechet_distance(zeros, identity, ones, identity) == 2048.0

    base = fastfid.protocol("pytorch-fid")
    unit = dataclasses.replace(base, normalize=fastfid.protocols.Normalize(1 / 255, 0.0, "x/255"))
    folder = write_folder(tmp_path / "constant", np.stack([np.full((4, 4, 3), v, np.uint8) for v in (0, 127, 255)]))
    moments = fastfid.stats(folder, tmp_path / "constant.npz", protocol=unit, extractor=lambda x: x.mean(dim=(2, 3)))
    check(moments.mean.numpy(), np.full(3, 0.5), absolute=1e-3, what="mean of constant images")
    check(moments.cov().numpy(), np.full((3, 3), 0.25), absolute=1e-5, what="their covariance")
    again = fastfid.Moments.load(tmp_path / "constant.npz")
    assert torch.equal(again.mean, moments.mean)

    for extension in sorted(base.decode.extensions):
        typed = tmp_path / extension
        typed.mkdir()
        for value in (0, 127, 255):
            Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(typed / f"{value}.{extension}")
        got = fastfid.stats(typed, protocol=unit, extractor=lambda x: x.mean(dim=(2, 3)))
        check(got.mean.numpy(), np.full(3, 0.5), absolute=5e-3, what=extension)
        assert got.n == 3


@pytest.mark.parametrize(("argument", "value"), [("tap", "63"), ("precision", "int8")])
def test_settings_of_the_network_are_checked_even_for_statistics(argument: str, value: str) -> None:
    moments = fastfid.Moments.from_features(np.random.default_rng(0).standard_normal((9, 4)))
    with pytest.raises(ValueError, match=f"{argument}='{value}'"):
        fastfid.fid(moments, moments, **{argument: value})


@pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")
def test_spatial_statistics_of_our_own_and_of_adm(tmp_path: Path) -> None:
    ours = tmp_path / "ours.npz"
    moments = fastfid.stats(images(3, 11), ours, tap="spatial", weights="random", protocol="adm")
    assert moments.dim == 2023
    same = fastfid.fid(ours, ours, tap="spatial", protocol="adm")
    assert (same.value, same.run.metric) == (0.0, "fd-random")
    with pytest.raises(IncomparableError, match="holds features of tap 'spatial', this comparison is of '2048'"):
        fastfid.fid(ours, ours, protocol="adm")
    eye = np.eye(3)
    np.savez(tmp_path / "adm.npz", mu=np.zeros(3), sigma=eye, mu_s=np.ones(3), sigma_s=4 * eye)
    np.savez(tmp_path / "plain.npz", mu_s=np.zeros(3), sigma_s=eye, mu=np.zeros(3), sigma=eye)
    assert fastfid.fid(tmp_path / "adm.npz", tmp_path / "plain.npz", tap="spatial").value == 6.0
    np.savez(tmp_path / "pool.npz", mu=np.zeros(3), sigma=eye)
    with pytest.raises(ValueError, match="mu_s"):
        fastfid.fid(tmp_path / "pool.npz", tmp_path / "adm.npz", tap="spatial")


def test_a_slow_resampler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTFID_BACKEND_RESIZE_NORMALIZE", "reference")
    with pytest.warns(SlowPathWarning, match="slow float64 reference"):
        slow = fastfid.fid(REF, GEN, extractor=colours)
    monkeypatch.undo()
    check(slow.value, fastfid.fid(REF, GEN, extractor=colours).value, relative=1e-5, what="reference resampler")
