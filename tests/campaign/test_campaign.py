"""The campaign as a test: every count reached, nothing failed.

FASTFID_CAMPAIGN_SECONDS (120) is its time, FASTFID_CAMPAIGN_SEED (0) its seed, FASTFID_CAMPAIGN_JOBS (2) how many
processes share it, FASTFID_CAMPAIGN_ONLY a part of the names of what is wanted, FASTFID_CAMPAIGN_JSON a file for the
result. A failure is seen again by
``campaign.worker.trials(NAME, range(SEED, SEED + 1))``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from campaign.registry import ENTRIES, FLOORS
from campaign.runner import Campaign, table

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(0),  # the campaign has its own limits, for every trial
    pytest.mark.skipif(sys.platform != "linux", reason="limits, heartbeats and kills are those of Linux"),
]


def test_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = float(os.environ.get("FASTFID_CAMPAIGN_SECONDS", "120"))
    seed, jobs = int(os.environ.get("FASTFID_CAMPAIGN_SEED", "0")), int(os.environ.get("FASTFID_CAMPAIGN_JOBS", "2"))
    result = Campaign(seconds, seed, jobs, os.environ.get("FASTFID_CAMPAIGN_ONLY", "")).run()
    wanted = os.environ.get("FASTFID_CAMPAIGN_JSON")
    if wanted:
        Path(wanted).write_text(json.dumps(result, indent=1) + "\n")
    with capsys.disabled():
        sys.stdout.write(f"\n{table(result)}\n")
    few = {name: one["tried"] for name, one in result["entries"].items() if one["tried"] < FLOORS[ENTRIES[name].kind]}
    assert not few, f"too few trials: {few}"
    failed = {name: sorted(one["faults"]) for name, one in result["entries"].items() if one["failed"]}
    assert not failed, json.dumps(failed, indent=1)
