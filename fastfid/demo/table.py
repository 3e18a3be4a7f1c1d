"""The demo's result for people: a table, lines without one, and the plot's panels."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fastfid.demo.run import Demo
from fastfid.report.plot import Curve
from fastfid.report.table import title


def demo_table(demo: Demo) -> RenderableType:
    """Distance from the reference at every level of every disturbance, and whether it grew throughout."""
    first = demo.series[0].results[0]
    table = Table(title=f"{title(first.run.metric)} from the reference, level by level", title_justify="left")
    table.add_column("disturbance (level)", no_wrap=True)
    for heading in ("none", "weak", "medium", "strong"):
        table.add_column(heading, justify="right")
    table.add_column("grows with its level?")
    for series in demo.series:
        one = series.disturbance
        cells = [
            f"{value:.3f}" + (f" ({level:g})" if level else "")
            for level, value in zip(one.levels, series.values, strict=True)
        ]
        verdict = Text("yes", "green") if series.grows else Text("no", "yellow")
        table.add_row(f"{one.name} ({one.parameter})", *cells, verdict)
    return table


def demo_lines(demo: Demo) -> str:
    """The distances without a table."""
    return "\n".join(f"{one.disturbance.name}: {', '.join(map(repr, one.values))}" for one in demo.series)


def demo_title(demo: Demo) -> str:
    """What was measured, for the plot."""
    first = demo.series[0].results[0]
    run = first.run
    counts = f"{run.gen.n} images a set, {run.ref.n} in the reference"
    return f"{title(run.metric)}: {run.extractor}, {run.weights}, {counts}"


def demo_curves(demo: Demo) -> list[Curve]:
    """The plot's panels."""
    return [Curve(s.disturbance.name, s.disturbance.parameter, s.disturbance.levels, s.values) for s in demo.series]
