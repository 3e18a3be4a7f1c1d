"""Tables for people, made with rich; every function returns a renderable and prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastfid.evaluation.report import Report
from fastfid.extractors import PRECISIONS
from fastfid.metrics.result import Result
from fastfid.metrics.table import METRICS
from fastfid.protocols import Protocol
from fastfid.runtime.shown import shown
from fastfid.sources.unread import listed

_TITLES = {
    "fid": "FID",
    "sfid": "sFID",
    "fd": "Fréchet distance (not FID: not the published Inception weights)",
    "fd-unknown": "Fréchet distance between statistics of unknown origin",
    "fd-random": "Fréchet distance under a random network (not FID)",
}


def title(metric: str) -> str:
    """A metric's short name in words: "fid-64" is "FID (tap 64)", "fid-bf16" is "FID (network in bf16)"."""
    if metric in _TITLES:
        return _TITLES[metric]
    base, _, variant = metric.rpartition("-")
    return f"{title(base)} (network in {variant})" if variant in PRECISIONS else f"{title(base)} (tap {variant})"


def report_lines(report: Report) -> str:
    """Every value to its last digit, with its bounds, a line each."""
    return "\n".join(_line(one) for one in report.values())


def _line(one: Result) -> str:
    if one.error is not None:
        return f"{one.display_name} can't be computed: {one.error}"
    bounds = one.bounds
    return f"{one.display_name} {one.value!r}" + (
        f" (exact value between {bounds.lower!r} and {bounds.upper!r})" if bounds is not None else ""
    )


def report_table(report: Report) -> RenderableType:
    """A line for each metric, with what is known of its error, then what they were measured with."""
    values = Table.grid(padding=(0, 2))
    for style in ("bold", "bold green", ""):
        values.add_column(style=style, no_wrap=style != "")
    for one in report.values():
        if one.error is not None:
            values.add_row(_name(one.display_name), Text("–", "yellow"), _name(f"can't be computed: {one.error}"))
        else:
            values.add_row(_name(one.display_name), f"{one.value:.6f}", _name(_known(one)))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    protocol = report.protocol
    table.add_row("protocol", _name(f"{protocol['name']} ({protocol['package']})"))
    for network in report.networks.values():
        table.add_row("network", _name(f"{network['extractor']}, {network['precision']}, {report.device}"))
    for network in list(report.networks.values())[:1]:
        if network["weights"]:
            digest = f", sha256 {network['weights_sha256'][:16]}…" if network["weights_sha256"] else ""
            table.add_row("weights", _name(network["weights"] + digest))
    sets = [(word, report.sets[role]) for word, role in (("reference", "ref"), ("generated", "gen"))]
    read = [(word, side) for word, side in sets if side is not None]
    for word, side in read:
        table.add_row(word, _name(_set_line(side)))
    for _, side in read:
        if side["unread"]:
            table.add_row("left unread", _name(f"{side['description']}: {listed(side['unread'])}"))
    for note in dict.fromkeys(note for _, side in read for note in side["notes"]):
        table.add_row("note", _name(note))
    for text in report.warnings:
        table.add_row(Text("warning", style="yellow"), _name(text))
    return Group(values, table)


def _known(one: Result) -> str:
    """What is known of a value's error and its terms, in a few words."""
    words = []
    if one.interval is not None:
        words.append(f"{one.interval.level:.0%} {one.interval.lower:.4g} … {one.interval.upper:.4g}")
    if "std" in one.extra:
        words.append(f"± {one.extra['std']:.6f} over {one.extra.get('parts', 'its parts')}")
    if one.bounds is not None:
        proof = f"{one.extra['proof']}: " if "proof" in one.extra else ""
        low, high = one.value - one.bounds.lower, one.bounds.upper - one.value
        words.append(f"exact within −{low:.1e} … +{high:.1e} ({proof}{one.bounds.covers})")
    if one.convention:
        words.append(f"as {one.convention} defines it")
    return "; ".join(words)


def _name(text: str) -> Text:
    """Words of the user's: rich would read [brackets] in a str as markup, and a terminal the rest."""
    return Text(shown(text))


def _set_line(one: Mapping[str, Any]) -> str:
    counted = "unknown number of samples" if one["n"] is None else f"{one['n']} samples"
    words = [f"{one['description']} ({one['kind']}, {counted}"]
    if one["skipped"]:
        words.append(f", {len(one['skipped'])} unreadable left out")
    if one["dropped"]:
        words.append(f", {one['dropped']} at the end left out")
    if one["images_per_second"]:
        words.append(f", {one['images_per_second']:.1f} images/s")
    return "".join(words) + ")"


def metrics_table() -> RenderableType:
    """One row a metric: what it reads, and its results."""
    table = Table(title="Metrics (fastfid compare --metrics NAME,NAME)", title_justify="left", show_lines=False)
    for heading in ("name", "results", "features", "of the reference", "of the generated set", "computed by"):
        table.add_column(heading, overflow="fold")
    for name, one in METRICS.items():
        given = ", ".join(one.gives).replace("*", "convention") or name
        function = one.function.rpartition(":")[2]
        row = (given, one.space, one.ref or "–", one.gen, f"fastfid.metrics.{function}")
        table.add_row(Text(name, style="bold"), *(Text(cell) for cell in row))
    return table


def protocols_table(protocols: Iterable[Protocol]) -> RenderableType:
    """One row a protocol: everything in which packages differ; below, in what fastfid differs from a package."""
    protocols = list(protocols)
    table = Table(title="Protocols (fastfid compare --protocol NAME)", title_justify="left", show_lines=False)
    for heading in ("name", "reproduces", "files", "resize", "normalise", "mean", "ddof", "root it replaces"):
        table.add_column(heading, overflow="fold")
    for one in protocols:
        statistics = one.statistics
        table.add_row(
            Text(one.name, style="bold"),
            one.package,
            one.decode.describe(),
            one.resize.describe(),
            one.normalize.formula,
            statistics.mean_dtype + (f", whole blocks of {statistics.block}" if statistics.block else ""),
            str(statistics.ddof),
            one.root,
        )
    differ = Table.grid(padding=(0, 2))
    for text in dict.fromkeys(text for one in protocols for text in one.deviations):
        differ.add_row(Text(", ".join(one.name for one in protocols if text in one.deviations), "bold"), Text(text))
    return Group(table, Text("\nWhere fastfid reads files otherwise than the package:"), differ)
