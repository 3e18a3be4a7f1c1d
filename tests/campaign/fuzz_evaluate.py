"""``evaluate`` and its Report: metrics of small sets against the functions on features, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

from numpy.random import Generator

import fastfid
from campaign.fuzz_calls import (
    SETTINGS,
    as_set,
    distance,
    either_named,
    features_of,
    pictures,
    with_wrong_setting,
    wrong_set,
)
from campaign.trial import Entry, close, refuses, require, returns
from campaign.values import pick

BAD_METRICS: dict[str, Any] = {
    "unknown": "fjd",
    "none": (),
    "empty": "",
    "number": 3,
    "None": None,
    "numbers": [3],
    "twice the same keys": {"prdc": {}, "fjd": {}},
    "parameters a number": {"fid": 3},
    "a layer of Inception": "sfid",
    "NUL": "f\0id",
}


def evaluate(rng: Generator, folder: Path) -> None:
    kind = int(rng.integers(5))
    x, y = pictures(rng, int(rng.integers(3, 9))), pictures(rng, int(rng.integers(3, 9)))
    if kind < 2:
        sets = as_set(rng, x, folder, "x"), as_set(rng, y, folder, "y")
        subset = int(rng.integers(2, 5))
        asked = {"fid": {}, "kid": {"subsets": 2, "subset_size": subset}}
        got = returns(fastfid.evaluate, *sets, asked, label="evaluate", batch_size=int(rng.integers(1, 9)), **SETTINGS)
        size = float(features_of(x).var(0).sum() + features_of(y).var(0).sum())
        close(float(got["fid"]), distance(x, y), 5e-6 * size + 1e-5, "evaluate: fid")
        require(got["kid"].error is None, "evaluate: kid", repr(got["kid"].error))
        require([one["n"] for one in got.sets.values()] == [len(x), len(y)], "evaluate: n")
        back = fastfid.Report.from_json(json.dumps(got.to_dict(), allow_nan=False))
        require(back.to_dict() == got.to_dict(), "Report.from_json: another report")
    elif kind == 2:
        how, bad = wrong_set(rng, folder)
        sets, name = ((bad, y), "ref") if rng.integers(2) else ((x, bad), "gen")
        either_named(rng, lambda: fastfid.evaluate(*sets, "fid", **SETTINGS), f"evaluate: set {how}", name)
    elif kind == 3:
        with_wrong_setting(rng, lambda *sets, **settings: fastfid.evaluate(*sets, **settings), "evaluate", x, y)
    else:
        how = pick(rng, BAD_METRICS)
        label = f"evaluate: metrics {how}"
        refuses(fastfid.evaluate, x, y, BAD_METRICS[how], label=label, names=("metrics",), **SETTINGS)


def report(rng: Generator, _: Path) -> None:
    x, y = pictures(rng, 5), pictures(rng, 5)
    one = fastfid.evaluate(x, y, {"fid": {}, "kid": {"subsets": 2, "subset_size": 3}}, **SETTINGS)
    for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        require(again.to_dict() == one.to_dict(), "Report: not itself after pickle or copy")
    require(set(one) == {"fid", "kid"} and one.flat()["fid"] == float(one["fid"]), "Report: names")
    bad = pick(rng, ("", "{}", "[]", "3", '{"schema": "fastfid-report/1"}', "{", "null"))
    refuses(fastfid.Report.from_json, bad, label=f"Report.from_json {bad!r}", names=("schema", "JSON", "report"))


ENTRIES = [Entry("fuzz/evaluate", evaluate, ("evaluate",)), Entry("fuzz/Report", report, ("Report",))]
