"""Shared by all tests: skip-and-count GPU tests without a GPU; fixed seeds; threads that wait asleep.

The oracle comparisons with the real reference packages have their own conftest in ``tests/oracles``.

GNU OpenMP's threads spin where they wait (``OMP_WAIT_POLICY``, read once when torch loads it). Beside this suite's own
threads and processes that costs more than the work: on two busy cores three to four times the processor time of
test_ambient.py, test_extractors_network.py and test_sources_items.py. It changes no number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported; the tests' own processes inherit it

import numpy as np
import pytest
import switches
import torch

from fastfid.extractors import weights

AT_FIRST = switches.settings()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    marker = pytest.mark.skip(reason="no NVIDIA GPU here")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(marker)


@pytest.fixture(autouse=True)
def _no_switch_is_left_changed() -> Iterator[None]:
    yield
    switches.put_back(AT_FIRST)


@pytest.fixture(scope="session", autouse=True)
def _random_weights_are_made_once() -> Iterator[None]:
    """Two seconds each; tests/test_extractors_random.py asks for them where they are made."""
    made = lru_cache(maxsize=2)(weights.random_state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "random_state", lambda seed: {name: v.clone() for name, v in made(seed).items()})
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)
