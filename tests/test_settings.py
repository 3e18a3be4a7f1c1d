"""Options: one list, one check, and an unknown name is refused with the nearest one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import fastfid
from fastfid.evaluation.settings import Options, Settings, require_known
from fastfid.sources import Shard

IMAGES = np.zeros((3, 8, 8, 3), np.uint8)
CALLS: dict[str, Any] = {
    "fid": lambda **options: fastfid.fid(IMAGES, IMAGES, **options),
    "stats": lambda **options: fastfid.stats(IMAGES, **options),
    "Evaluator": lambda **options: fastfid.Evaluator(IMAGES, **options),
}
LACKING = {"fid": {"shard"}, "stats": {"certify"}, "Evaluator": {"shard", "certify", "cache", "checkpoint"}}


def test_the_types_and_the_checked_settings_list_the_same_options() -> None:
    assert list(get_type_hints(Options)) == [field.name for field in fields(Settings)]


def test_every_option_of_a_call_is_in_its_documentation() -> None:
    words = str(fastfid.fid.__doc__) + str(fastfid.stats.__doc__)
    for field in fields(Settings):
        shown = str(field.default).replace("'", '"') if not isinstance(field.default, str) else f'"{field.default}"'
        wanted = {"protocol": '"pytorch-fid"', "shard": "None"}.get(field.name, shown)
        assert f"        {field.name} ({wanted}): " in words, field.name


@pytest.mark.parametrize("function", CALLS)
def test_an_option_that_is_none_is_refused_before_anything_else(function: str) -> None:
    with pytest.raises(TypeError, match=rf"{function}\(\) has no option 'batchsize'. Did you mean 'batch_size'\?"):
        CALLS[function](batchsize=5)
    for name in LACKING[function]:
        with pytest.raises(TypeError, match=rf"{function}\(\) has no option '{name}'"):
            CALLS[function](**{name: None})
    require_known(function, [field.name for field in fields(Settings) if field.name not in LACKING[function]])


def test_what_settings_hold_is_checked_once(tmp_path: Path) -> None:
    made = Settings.of({"protocol": "clean", "tap": "64", "shard": "1/3", "limit": np.int64(4), "cache": tmp_path})
    assert (made.protocol.name, made.protocol.tap, made.shard, made.limit) == ("clean", "64", Shard(1, 3), 4)
    assert type(made.limit) is int
    assert made.protocol.resize == fastfid.protocol("clean").resize
    assert Settings.of({}).protocol == fastfid.protocol("pytorch-fid")
    extractor = fastfid.inception_extractor("192", weights="random")
    assert Settings.of({"extractor": extractor}).protocol.tap == "192"
    for bad, message in (
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"tap": "65"}, "tap='65' is not a layer"),
        ({"precision": ["fp32"]}, r"precision=\['fp32'\] is not known"),
        ({"extractor": extractor, "tap": "64"}, "extractor replaces the Inception network"),
        ({"shard": "3/3"}, "shard 3/3"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            Settings.of(bad)
