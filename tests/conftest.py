"""Shared by all tests: skip-and-count GPU tests without a GPU; fixed seeds.

The oracle comparisons with the real reference packages have their own conftest in ``tests/oracles``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import switches
import torch

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


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)
