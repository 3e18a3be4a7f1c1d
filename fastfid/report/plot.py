"""Plots as PNG files. matplotlib is loaded when one is drawn, and its global state (pyplot) is not touched."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fastfid.runtime.output import Target
from fastfid.runtime.shown import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROWS, _FALLS, _QUIET = "#1f6f8b", "#c8553d", "#6b6b6b"


@dataclass(frozen=True)
class Curve:
    """A distance against the level of one disturbance.

    Attributes:
        name: the disturbance.
        parameter: what the level is, with its unit: the horizontal axis.
        levels: ascending; the first is the undisturbed set.
        values: the distance at each level.
    """

    name: str
    parameter: str
    levels: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.values) or len(self.levels) < 2:
            raise ValueError(
                f"curve {self.name!r}: levels and values must be of one length, at least 2, "
                f"got {len(self.levels)} and {len(self.values)}"
            )
        if not all(math.isfinite(number) for number in (*self.levels, *self.values)):
            raise ValueError(f"curve {self.name!r} holds a number that is not finite: {self.values}")


def plot_disturbances(
    rows: Sequence[Curve], path: str | os.PathLike[str], title: str, *, distance: str = "FID"
) -> None:
    """One panel for each disturbance: the distance against its level, with the undisturbed distance as a dashed line.

    Each panel has its own vertical scale, from zero. A step to a higher level that did not raise the distance is drawn
    in red.

    Args:
        rows: the curves, one a panel.
        path: of the PNG; replaced only when the new one is complete.
        title: what was measured: extractor, protocol, number of images.
        distance: the name of the distance, for the axis.

    Raises:
        ValueError: no curves, or numbers that are not finite.
        OutputError: the file can't be written.
    """
    if not rows:
        raise ValueError("rows must hold at least one curve, got none")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.0 * len(rows) + 0.6, 3.9), layout="constrained")
    FigureCanvasAgg(figure)  # the figure draws itself with it from now on
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, curve in zip(panels, rows, strict=True):
        _draw(axes, curve)
    panels[0].set_ylabel(distance, fontsize=11)
    figure.suptitle(shown(title).replace("$", r"\$"), fontsize=12, x=0.01, ha="left")
    legend = f"dashed: the undisturbed set      red: a higher level did not raise the {distance}"
    figure.supxlabel(legend, fontsize=9, color=_QUIET, x=0.01, ha="left")
    with Target(path).writing() as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def _draw(axes: Axes, curve: Curve) -> None:
    """One panel."""
    baseline, highest = curve.values[0], max(curve.values)
    axes.axhline(baseline, color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    steps: list[tuple[tuple[float, float], tuple[float, float]]] = list(
        pairwise(zip(curve.levels, curve.values, strict=True))
    )
    for (low, before), (high, after) in steps:
        axes.plot([low, high], [before, after], color=_GROWS if after > before else _FALLS, linewidth=2, zorder=2)
    fallen = {high for (_, before), (high, after) in steps if after <= before}
    for index, (level, value) in enumerate(zip(curve.levels, curve.values, strict=True)):
        beside = 0 < index < len(curve.levels) - 1 and curve.values[index + 1] > value  # the line goes up on the right
        colour = _FALLS if level in fallen else _GROWS
        axes.plot([level], [value], "o", color=colour, markersize=6, markeredgecolor="white", zorder=3)
        axes.annotate(
            _short(value),
            (level, value),
            xytext=(-3, 6) if beside else (0, 7),
            textcoords="offset points",
            ha="right" if beside else "center",
            fontsize=9,
            color=colour if level in fallen else "#222222",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            zorder=4,
        )
    span = max(highest, abs(baseline)) or 1.0
    axes.set_ylim(min(0.0, *curve.values) - 0.02 * span, 1.18 * span)
    reach = curve.levels[-1] - curve.levels[0]
    axes.set_xlim(curve.levels[0] - 0.12 * reach, curve.levels[-1] + 0.12 * reach)
    axes.set_xticks(curve.levels, [f"{level:g}" for level in curve.levels])
    axes.set_title(curve.name, fontsize=11, color=_FALLS if fallen else "#222222")
    axes.set_xlabel(curve.parameter, fontsize=10)
    axes.tick_params(labelsize=9, colors=_QUIET, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")


def _short(value: Any) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 123, 1.23e+05."""
    magnitude = abs(value)
    if magnitude >= 1e5 or 0 < magnitude < 1e-3:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(magnitude))) if magnitude else 0
    return f"{value:.{digits}f}"
