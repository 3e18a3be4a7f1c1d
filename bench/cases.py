"""The registry of benchmark cases: what is timed, where the shape comes from, what it must at least move.

A module of cases offers ``cases(device) -> list[Case]`` and is named in MODULES with its operations; that is all it
takes to be run by ``python bench/run.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

MODULES = {
    "resize_cases": ("resize_normalize",),
    "frechet_cases": ("frechet", "frechet_moments", "frechet_many"),
    "moments_cases": ("moments", "grouped_moments"),
    "evaluator_cases": ("evaluator",),
    "network_cases": ("network",),
    "decode_cases": ("decode",),
    "pairwise_cases": ("pairwise",),
}
"""Module → the operations it has cases of; only the modules that are asked for are imported."""


@dataclass(frozen=True)
class Case:
    """One shape of one operation.

    Attributes:
        op: the operation, e.g. "resize_normalize".
        name: the shape in words; unique within an operation.
        origin: where the shape comes from (a protocol, a workload, a paper).
        gate: the test that must be green before anything is timed, as pytest takes it.
        items: how many images (matrices, …) one call handles; times are reported per item.
        bytes: least that one call reads and writes, in bytes: the floor of a memory-bound operation.
        flops: least floating-point operations of one call; 0 where memory is the floor.
        dtype: of the result.
        threads: CPU threads used by all variants, unless their name says otherwise.
        variants: name → a call that returns its result; the first is fastfid's, the others are baselines.
        bounds: name → largest absolute difference from the first variant's result that is accepted; a variant that
            computes something else on purpose (torch's 8-bit path, say) has an entry that says how far off it is.
        missing: baselines that can't run here → why.
        arithmetic: of the roof that the flops are compared with (a key of ``roofs.ARITHMETIC``); "" leaves it out.
        rounds: least number of turns of each variant; fewer than 7 only where one takes seconds.
        inputs: makes the inputs, so that they do not count; where given, every variant's peak memory is measured too.
    """

    op: str
    name: str
    origin: str
    gate: str
    items: int
    bytes: int
    flops: int
    dtype: str
    threads: int
    variants: Mapping[str, Callable[[], object]]
    bounds: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    arithmetic: str = ""
    rounds: int = 7
    inputs: Callable[[], object] | None = None


def load(device: torch.device, op: str = "", match: str = "") -> list[Case]:
    """The cases that make sense on a device, of one operation where it is named, whose name contains ``match``."""
    modules = [module for module, ops in MODULES.items() if op == "" or op in ops]
    made = [case for module in modules for case in importlib.import_module(module).cases(device)]
    return [case for case in made if op in ("", case.op) and match in case.name]
