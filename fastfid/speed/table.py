"""The table of ``fastfid bench``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastfid.speed.quick import Quick


def bench_lines(quick: Quick) -> str:
    """The figures without a table: one line per stage and variant."""
    return "\n".join(f"{line.stage}, {line.variant}: {line.p50:.3f} ms" for line in quick.lines)


def bench_table(quick: Quick) -> RenderableType:
    """One row per stage and variant; times are medians with the middle three fifths, ratios are to fastfid's first."""
    table = Table(title=f"Speed on {quick.device}; every stage was found right first", title_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("by", no_wrap=True)
    for heading in ("ms", "p20 … p80", "per second", "time, × fastfid"):
        table.add_column(heading, justify="right", no_wrap=True)
    stage, ours = "", 1.0
    for line in quick.lines:
        first = line.stage != stage
        stage, ours = line.stage, line.p50 if first else ours
        each = line.items if line.unit == "images" else 1
        table.add_row(
            Text(line.stage if first else ""),
            Text(line.variant, style="bold" if first else ""),
            f"{line.p50 / each:.3f}" + (" an image" if each > 1 else ""),
            f"{line.p20 / each:.3f} … {line.p80 / each:.3f}",
            f"{line.rate:,.1f} {line.unit}",
            f"{line.p50 / ours:.2f}",
        )
    missing = [Text(f"not measured: {name}: {reason}", style="dim") for name, reason in quick.missing.items()]
    return Group(table, *missing)
