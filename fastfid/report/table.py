"""Tables for people, made with rich; every function returns a renderable and prints nothing."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastfid.evaluation.results import FIDResult, SetInfo
from fastfid.extractors import PRECISIONS
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


def result_line(result: FIDResult) -> str:
    """The value and its bounds, to the last digit."""
    return f"{result.run.metric} {result.value!r} (exact value between {result.lower!r} and {result.upper!r})"


def result_table(result: FIDResult) -> RenderableType:
    """The value with its enclosure on the first line, then what it was measured with."""
    run = result.run
    head = Text.assemble((f"{title(run.metric)}  ", "bold"), (f"{result.value:.6f}", "bold green"))
    head.append(f"   exact within −{result.value - result.lower:.1e} … +{result.upper - result.value:.1e}")
    head.append(f" ({result.proof}: {result.covers})", "dim")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("protocol", _name(f"{run.protocol.name} ({run.protocol.package})"))
    table.add_row("network", _name(f"{run.extractor}, {run.precision}, {run.device}"))
    if run.weights:
        digest = f", sha256 {run.weights_sha256[:16]}…" if run.weights_sha256 else ""
        table.add_row("weights", _name(run.weights + digest))
    table.add_row("reference", _name(_set_line(run.ref)))
    table.add_row("generated", _name(_set_line(run.gen)))
    for info in (run.ref, run.gen):
        if info.unread:
            table.add_row("left unread", _name(f"{info.description}: {listed(dict(info.unread))}"))
    for note in dict.fromkeys((*run.ref.notes, *run.gen.notes)):
        table.add_row("note", _name(note))
    ranks = f"ranks {result.rank1} and {result.rank2}"
    table.add_row(
        "terms", f"means {result.mean_term:.6g}, covariances {result.trace_term:.6g} ({result.method}, {ranks})"
    )
    for text in run.warnings:
        table.add_row(Text("warning", style="yellow"), _name(text))
    return Group(head, table)


def _name(text: str) -> Text:
    """Words of the user's: rich would read [brackets] in a str as markup, and a terminal the rest."""
    return Text(shown(text))


def _set_line(info: SetInfo) -> str:
    counted = "unknown number of samples" if info.n is None else f"{info.n} samples"
    words = [f"{info.description} ({info.kind}, {counted}"]
    if info.skipped:
        words.append(f", {len(info.skipped)} unreadable left out")
    if info.dropped:
        words.append(f", {info.dropped} at the end left out")
    if info.seconds and info.n:
        words.append(f", {info.n / info.seconds:.1f} images/s")
    return "".join(words) + ")"


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
