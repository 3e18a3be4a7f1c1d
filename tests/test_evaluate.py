"""``evaluate``: many numbers from one decode and one forward, each what it is by itself."""

from __future__ import annotations

import importlib
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import photos, write_folder

import fastfid
import fastfid.metrics
from fastfid.cli import main
from fastfid.metrics import table
from fastfid.metrics.result import Result
from fastfid.metrics.table import Metric
from fastfid.passes.store.checkpoint import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")


class Means(torch.nn.Module):
    """12 features of an image: means over its quarters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


MEANS = Means()
REAL = photos(60, 20, 24)
MADE = (photos(45, 20, 24) // 2 + 40).astype(np.uint8)
OURS: dict[str, Any] = {"extractor": MEANS, "device": "cpu"}
KID = {"subsets": 5, "subset_size": 20}


def rows(images: np.ndarray[Any, Any], **settings: Any) -> torch.Tensor:
    """The features as the pipeline gives them."""
    parts = (fastfid.stats(images[start : start + 12], **OURS, **settings).rows for start in range(0, len(images), 12))
    return torch.cat([part for part in parts if part is not None])


def test_one_pass_gives_what_each_metric_gives_by_itself() -> None:
    report = fastfid.evaluate(REAL, MADE, {"fid": {}, "kid": KID, "mifid": {}}, batch_size=12, **OURS)
    assert list(report) == ["fid", "kid", "mifid"]
    want = fastfid.fid(REAL, MADE, batch_size=12, **OURS)
    got = report["fid"]
    assert (got.value, got.bounds.lower, got.bounds.upper) == (want.value, want.lower, want.upper)
    assert got.extra["method"] == want.method
    real, made = rows(REAL).float(), rows(MADE).float()
    kid = fastfid.metrics.kid(real, made, **KID)
    assert report["kid"].value == kid.value
    assert report["kid"].extra["std"] == kid.extra["std"]
    assert report["mifid"].value == fastfid.metrics.mifid(real, made).value


def test_results_of_one_metric_have_names_of_their_own() -> None:
    asked = {"prdc": {}, "pr": {}, "realism": {}, "authpct": {}, "mind": {}, "vendi": {}, "mmd": {}}
    report = fastfid.evaluate(REAL, MADE, asked, batch_size=12, protocol="stylegan3", **OURS)
    names = ["precision", "recall", "density", "coverage", "precision[stylegan]", "recall[stylegan]"]
    assert list(report) == [*names, *list(asked)[2:]]
    real, made = (rows(images, protocol="stylegan3").float() for images in (REAL, MADE))
    want = dict(fastfid.metrics.prdc(real, made))
    want |= fastfid.metrics.precision_recall(real, made, convention="stylegan")
    want |= {"realism": fastfid.metrics.realism(real, made), "authpct": fastfid.metrics.authenticity(real, made)}
    want |= {"mind": fastfid.metrics.mind(real, made), "vendi": fastfid.metrics.vendi(made)}
    want |= {"mmd": fastfid.metrics.mmd(real, made)}
    assert {name: one.value for name, one in report.items()} == {name: one.value for name, one in want.items()}


def test_taps_of_the_network_from_one_forward() -> None:
    """The distances of two layers and the score of a third, to the last bit those of passes of their own."""
    common = {"weights": "random", "device": "cpu", "batch_size": 4}
    report = fastfid.evaluate(REAL[:7], MADE[:6], {"fid": {}, "sfid": {}, "is": {"splits": 2}}, **common)
    for name, tap in (("fid", "2048"), ("sfid", "spatial")):
        want = fastfid.fid(REAL[:7], MADE[:6], tap=tap, **common)
        assert report[name].value == want.value
        names = ["extractor", "tap", "weights", "weights_sha256", "precision", "metric"]
        assert list(report.networks[tap]) == names
        assert report.networks[tap]["extractor"] == want.run.extractor
        assert report[name].official is False
        assert "(random" in report[name].display_name
    logits = fastfid.stats(MADE[:6], tap="logits_unbiased", **common).rows
    alone = fastfid.metrics.inception_score(logits.float(), splits=2)
    assert report["is"].value == alone.value
    assert 1.0 <= report["is"].value <= 6.0


def test_what_the_store_holds_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever metric asked first: rows serve moments and metrics on rows; a tap that is not there is added."""
    folders = write_folder(tmp_path / "real", REAL[:7]), write_folder(tmp_path / "made", MADE[:6])
    common: dict[str, Any] = {"weights": "random", "device": "cpu", "cache": tmp_path / "kept"}
    first = fastfid.evaluate(*folders, "fid", **common)
    taps: list[tuple[str, ...]] = []
    features = fastfid.Extractor.features
    monkeypatch.setattr(fastfid.Extractor, "features", lambda self, x: taps.append(self.taps) or features(self, x))
    again = fastfid.evaluate(*folders, {"fid": {}, "kid": KID | {"subset_size": 5}}, **common)
    assert taps == []
    assert again["fid"].value == first["fid"].value
    assert again["kid"].error is None
    more = fastfid.evaluate(*folders, ("sfid", "fid"), **common)
    assert set(taps) == {("spatial",)}
    assert more["fid"].value == first["fid"].value
    taps.clear()
    assert fastfid.fid(*folders, tap="spatial", **common).value == more["sfid"].value
    assert taps == []


@pytest.mark.parametrize("keeping", ["cache", "checkpoint"])
def test_an_interrupted_evaluation_goes_on_with_the_same_bits(
    keeping: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "due", lambda _self: True)
    torch.jit.script(MEANS).save(tmp_path / "net.pt")
    folders = write_folder(tmp_path / "real", REAL), write_folder(tmp_path / "made", MADE)
    common: dict[str, Any] = {"extractor": tmp_path / "net.pt", "device": "cpu", "batch_size": 8}
    asked = {"fid": {}, "kid": KID}
    want = fastfid.evaluate(*folders, asked, **common)
    kept = {keeping: tmp_path / "kept"}
    features, calls = fastfid.Extractor.features, []

    def stopping(self: fastfid.Extractor, x: torch.Tensor) -> Any:
        calls.append(len(x))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return features(self, x)

    monkeypatch.setattr(fastfid.Extractor, "features", stopping)
    with pytest.raises(KeyboardInterrupt):
        fastfid.evaluate(*folders, asked, **common, **kept)
    got = fastfid.evaluate(*folders, asked, **common, **kept)
    assert sum(calls[5:]) == 60 + 45 - 4 * 8
    assert got.flat() == want.flat()


def test_a_metric_that_cannot_be_computed_loses_no_other() -> None:
    report = fastfid.evaluate(REAL[:7], MADE[:3], {"is": {"splits": 10}, "fid": {}}, weights="random", device="cpu")
    assert math.isnan(report["is"])
    assert "splits" in report["is"].error
    assert report["fid"].value > 0
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["results"]["is"]["value"] is None
    assert plain["results"]["is"]["error"] == report["is"].error
    assert plain["results"]["fid"]["value"] == report["fid"].value
    assert list(report.flat()) == [name for name in report.flat() if name.startswith("fid")]


def test_a_report_comes_back_from_its_json() -> None:
    report = fastfid.evaluate(REAL, MADE, {"fid": {}, "kid": KID}, **OURS)
    plain = report.to_dict()
    assert plain["schema"] == "fastfid-report/2"
    back = fastfid.Report.from_json(json.dumps(plain))
    assert back.to_dict() == plain
    assert back.flat("eval/") == report.flat("eval/")
    assert plain["sets"]["ref"]["n"] == 60
    assert plain["settings"]["metrics"]["kid"] == {**KID, "convention": "torch-fidelity"}
    with pytest.raises(ValueError, match="schema None; accepted: 'fastfid-report/2'"):
        fastfid.Report.from_json("{}")


def test_what_is_refused_before_the_work(tmp_path: Path) -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the network ran")

    fastfid.stats(REAL, tmp_path / "ref.npz", **OURS)
    for arguments, message in (
        ((REAL, MADE, "fjd"), "'fjd' is not known. Did you mean 'fid'"),
        ((REAL, MADE, ()), "metrics: none"),
        ((REAL, MADE, "sfid"), "'sfid' reads the spatial layer of the Inception network"),
        ((REAL[:1], MADE, "fid"), "ref=.* holds 1 image"),
    ):
        with pytest.raises(ValueError, match=message):
            fastfid.evaluate(*arguments, extractor=never, device="cpu")
    with pytest.raises(ValueError, match=r"ref=.* holds statistics .*, but kid reads the features"):
        fastfid.evaluate(tmp_path / "ref.npz", MADE, "fid,kid", **OURS)
    with pytest.raises(TypeError, match="'kid' has parameters 3"):
        fastfid.evaluate(REAL, MADE, {"kid": 3}, extractor=never, device="cpu")


def test_statistics_of_several_layers(tmp_path: Path) -> None:
    """ADM's files hold the pooled and the spatial layer's; those of others one of them, and say which."""
    common: dict[str, Any] = {"weights": "random", "device": "cpu", "protocol": "adm"}
    want = fastfid.evaluate(REAL[:7], MADE[:6], ("sfid", "fid"), **common)
    pool, spatial = (fastfid.stats(REAL[:7], tap=tap, **common) for tap in ("2048", "spatial"))
    arrays = {"mu": pool.mean, "sigma": pool.cov(), "mu_s": spatial.mean, "sigma_s": spatial.cov()}
    np.savez(tmp_path / "adm.npz", **{name: value.numpy() for name, value in arrays.items()})
    np.savez(tmp_path / "pool.npz", mu=pool.mean.numpy(), sigma=pool.cov().numpy())
    spatial.save(tmp_path / "spatial.npz")
    got = fastfid.evaluate(tmp_path / "adm.npz", MADE[:6], ("sfid", "fid"), **common)
    for name in ("sfid", "fid"):
        assert got[name].value == pytest.approx(want[name].value, rel=1e-9), name
    for given in (tmp_path / "spatial.npz", spatial):
        assert fastfid.evaluate(given, MADE[:6], "sfid", **common)["sfid"].value == want["sfid"].value
    for given, metrics, message in (
        (tmp_path / "pool.npz", "sfid,fid", r"holds statistics of '2048', but sfid reads 'spatial' \(mu_s"),
        (tmp_path / "pool.npz", "sfid", "mu_s"),
        (spatial, "fid", "holds features of tap 'spatial', this comparison is of '2048'"),
        (spatial, "fid,sfid", "holds statistics of 'spatial', but fid reads '2048'"),
        (pool, "sfid", "holds features of tap '2048', this comparison is of 'spatial'"),
    ):
        with pytest.raises(ValueError, match=message):
            fastfid.evaluate(given, MADE[:6], metrics, **common)


def test_a_side_that_no_metric_reads_is_not_read() -> None:
    report = fastfid.evaluate(None, MADE[:4], {"is": {"splits": 2}}, weights="random", device="cpu")
    assert report.sets["ref"] is None
    assert report.sets["gen"]["n"] == 4


def test_evaluator_gives_the_same_report() -> None:
    asked = {"fid": {}, "kid": KID}
    mine = fastfid.Evaluator(REAL, asked, batch_size=12, **OURS)
    for start in range(0, 45, 12):
        mine.update(MADE[start : start + 12])
    want = fastfid.evaluate(REAL, MADE, asked, batch_size=12, **OURS)
    assert mine.compute().flat() == want.flat()
    mine.reset()
    mine.update(MADE[:30])
    mine.update_features(rows(MADE[30:]).float())
    assert mine.compute()["fid"].value == pytest.approx(want["fid"].value, rel=1e-12)
    assert isinstance(fastfid.Evaluator(REAL, **OURS).reference, fastfid.Moments)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new metric: one file, and one line in the table."""
    module = types.ModuleType("toy_metric")
    module.gap = lambda ref, gen, power=1: Result(  # type: ignore[attr-defined]
        float((ref.double().mean(0) - gen.double().mean(0)).abs().sum()) ** power, "gap", extra={"n": len(gen)}
    )
    monkeypatch.setitem(sys.modules, "toy_metric", module)
    line = {"gap": Metric("toy_metric:gap", "rows", "rows", display="Gap")}
    for user in ("fastfid.metrics.table", "fastfid.evaluation.plan", "fastfid.report.table"):
        monkeypatch.setattr(f"{user}.METRICS", {**table.METRICS, **line})


@pytest.mark.usefixtures("toy")
def test_a_new_metric_reaches_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.jit.script(MEANS).save(tmp_path / "net.pt")
    folders = write_folder(tmp_path / "real", REAL), write_folder(tmp_path / "made", MADE)
    common: dict[str, Any] = {"extractor": tmp_path / "net.pt", "device": "cpu"}
    want = float((rows(REAL).double().mean(0) - rows(MADE).double().mean(0)).abs().sum())
    for kept in ({}, {"cache": tmp_path / "kept"}, {"cache": tmp_path / "kept"}):
        report = fastfid.evaluate(*folders, ["gap"], **common, **kept)
        assert report["gap"].value == pytest.approx(want, rel=1e-6)
    words = ["compare", *folders, "--extractor", tmp_path / "net.pt", "--quiet", "--metrics", "gap,fid"]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "--set", "gap.power=2", "--json", str(tmp_path / "r.json")])
    assert not ended.value.code
    table_shown = capsys.readouterr().out
    assert f"{report['gap'].value ** 2:.6f}" in table_shown
    assert "Gap" in table_shown
    found = json.loads((tmp_path / "r.json").read_text())["results"]
    assert found["gap"]["value"] == report["gap"].value ** 2
    assert found["gap"]["extra"] == {"n": 45}
    mine = fastfid.Evaluator(folders[0], ["gap"], **common)
    mine.update(MADE)
    assert mine.compute()["gap"].value == report["gap"].value
    with pytest.raises(SystemExit):
        main(["metrics"])
    assert "gap" in capsys.readouterr().out


def test_every_metric_of_the_table_is_there() -> None:
    for name, one in table.METRICS.items():
        module, _, function = one.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name
        assert function in fastfid.metrics.__all__, name
