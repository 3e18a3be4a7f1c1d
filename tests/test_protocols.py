"""Protocols are data: the table says what the packages do, and nothing but the table."""

from __future__ import annotations

import dataclasses
import json

import pytest

import fastfid
from fastfid.protocols import DEFAULT, PROTOCOLS, Normalize, Resize
from fastfid.sources import Decode


def test_the_named_presets_exist_and_know_their_names() -> None:
    named = {
        "pytorch-fid", "clean", "clean-legacy-tf", "clean-legacy-pt", "torch-fidelity", "torchmetrics",
        "torchmetrics-1.7", "ttur", "adm", "edm", "stylegan3",
    }  # fmt: skip
    assert named <= set(PROTOCOLS)
    assert DEFAULT == "pytorch-fid"
    assert all(key == entry.name for key, entry in PROTOCOLS.items())
    assert all(entry.source.startswith("https://") for entry in PROTOCOLS.values())


def test_the_facts_that_move_numbers() -> None:
    facts = {name: (p.resize, p.normalize.formula, p.statistics) for name, p in PROTOCOLS.items()}
    resize, formula, statistics = facts["clean"]
    assert resize == Resize((299, 299), "bicubic", True, a=-0.5, clamp=(0.0, 255.0), quantize=False)
    assert (formula, statistics.mean_dtype, statistics.ddof) == ("(x − 128)/128", "float32", 1)
    assert facts["pytorch-fid"][0] == Resize((299, 299), "bilinear", False, "half-pixel")
    assert facts["pytorch-fid"][1] == "2·(x/255) − 1"
    assert facts["torchmetrics"][0].antialias
    assert not facts["torchmetrics-1.7"][0].antialias
    assert facts["torch-fidelity"][0].coordinates == facts["ttur"][0].coordinates == "tf1-legacy"
    assert facts["edm"][0].coordinates == facts["stylegan3"][0].coordinates == "nvidia-grid"
    assert facts["stylegan3"][2].ddof == 0
    assert all(s.ddof == 1 for name, (_, _, s) in facts.items() if name != "stylegan3")
    assert facts["ttur"][2].block == 50


def test_which_files_count() -> None:
    decode = {name: p.decode for name, p in PROTOCOLS.items()}
    assert decode["ttur"] == Decode(recursive=False, extensions=frozenset({"jpg", "png"}), any_case=False)
    assert decode["torch-fidelity"] == Decode(recursive=False, extensions=frozenset({"png", "jpg", "jpeg"}))
    assert not decode["pytorch-fid"].recursive
    for name in ("clean", "clean-legacy-tf", "clean-legacy-pt"):
        rules = decode[name]
        assert (rules.recursive, rules.npy_files, rules.hidden, rules.follow_links) == (True, True, False, True)
        assert (rules.any_case, rules.open_archives) == (False, True)
        assert rules.extensions == decode["pytorch-fid"].extensions | {"JPEG", "JPG", "PNG"}
    assert not decode["pytorch-fid"].any_case
    assert {name for name, rules in decode.items() if rules.pillow} == {"edm", "stylegan3"}
    assert decode["torchmetrics"].any_case
    assert all(decode[name].recursive for name in ("adm", "edm", "stylegan3"))


@pytest.mark.parametrize("entry", PROTOCOLS.values(), ids=PROTOCOLS)
def test_normalisation_is_the_formula_it_names(entry: fastfid.Protocol) -> None:
    ends = {"2·(x/255) − 1": (-1.0, 1.0), "(x − 128)/128": (-1.0, 127 / 128)}[entry.normalize.formula]
    got = tuple(x * entry.normalize.scale + entry.normalize.bias for x in (0, 255))
    assert got == pytest.approx(ends, abs=1e-15)


def test_fingerprints_tell_features_apart_and_only_features() -> None:
    base = fastfid.protocol("pytorch-fid")
    prints = {name: entry.fingerprint() for name, entry in PROTOCOLS.items()}
    assert prints["torch-fidelity"] == prints["ttur"] == prints["adm"] == prints["torchmetrics-1.7"]
    assert prints["edm"] == prints["stylegan3"] == prints["clean-legacy-tf"]
    assert len({prints[n] for n in ("pytorch-fid", "clean", "clean-legacy-pt", "ttur", "edm", "torchmetrics")}) == 6
    assert dataclasses.replace(base, name="mine", source="mine").fingerprint() == base.fingerprint()
    assert dataclasses.replace(base, tap="64").fingerprint() != base.fingerprint()
    assert dataclasses.replace(base, normalize=Normalize(1.0, 0.0, "x")).fingerprint() != base.fingerprint()
    reworded = dataclasses.replace(base.normalize, formula="in other words")
    assert dataclasses.replace(base, normalize=reworded).fingerprint() == base.fingerprint()
    assert base.fingerprint() == "bf1aed371d589e71"  # stored in statistics files: a change makes them incomparable


def test_deviations_are_named_where_there_are_any() -> None:
    for entry in PROTOCOLS.values():
        assert entry.deviations, entry.name  # no package reads everything that fastfid reads
        assert entry.to_dict()["deviations"] == entry.deviations
    assert any("palette" in text for text in PROTOCOLS["edm"].deviations)
    plain = dataclasses.replace(PROTOCOLS["edm"], deviations=())
    assert plain.fingerprint() == PROTOCOLS["edm"].fingerprint()


def test_extensions_of_this_installation() -> None:
    listed = PROTOCOLS["edm"].to_dict()["decode"]["extensions"]
    assert {"png", "jpg", "gif", "webp", "tiff"} <= set(listed)
    assert PROTOCOLS["pytorch-fid"].to_dict()["decode"]["extensions"] == sorted(PROTOCOLS["ttur"].decode.extensions | {
        "bmp", "jpeg", "pgm", "ppm", "tif", "tiff", "webp",
    })  # fmt: skip


def test_protocols_are_frozen_and_written_as_json() -> None:
    entry = fastfid.protocol("clean")
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "other"  # type: ignore[misc]
    back = json.loads(json.dumps(entry.to_dict()))
    assert back["resize"]["a"] == -0.5
    assert back["fingerprint"] == entry.fingerprint()


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"protocol='cleen' is not known\. Did you mean 'clean'\? Accepted: pytorch-fid"
    ):
        fastfid.protocol("cleen")
    with pytest.raises(TypeError, match=r"protocol must be a name or a fastfid\.Protocol, got int"):
        fastfid.protocol(3)  # type: ignore[arg-type]
    mine = dataclasses.replace(fastfid.protocol("clean"), name="mine")
    assert fastfid.protocol(mine) is mine
