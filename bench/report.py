"""Fill README.md's measured blocks, and draw the plots, from committed result files.

    python bench/report.py            rewrite what lies between <!-- bench:NAME --> and <!-- /bench:NAME -->; draw
    python bench/report.py --check    change nothing; exit 1 where README or a plot is not what the results give

SOURCES names the file behind every block. A block is shown by putting its markers into README.md; a file that is not
named there is not shown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from growth import line_through

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
XEON, EPYC = "intel-r-xeon-r-processor-2-cores", "amd-epyc-2-cores"
SOURCES = {
    "pipeline": f"{EPYC}/pipeline.json",
    "frechet": f"{EPYC}/d006e3fbc258.json",
    "resize": f"{EPYC}/d006e3fbc258.json",
    "moments": f"{EPYC}/d006e3fbc258.json",
    "growth": f"{EPYC}/growth.json",
    "parity": f"{XEON}/parity.json",
    "bounds": f"{EPYC}/frechet_bounds.json",
    "reliability": f"{EPYC}/campaign.json",
    "plot": f"{EPYC}/pipeline.json",
}
"""Block → result file. A known block without an entry: tensors (end-to-end's)."""
LABELS = {
    "scipy sqrtm (pytorch-fid, …)": "SciPy `sqrtm` (pytorch-fid, clean-fid, EDM, …)",
    "numpy eigvals (torch-fidelity)": "NumPy `eigvals` (torch-fidelity)",
    "torch eigvals (torchmetrics)": "torch `eigvals` (torchmetrics)",
    "fastfid, certify=True": "fastfid, `certify=True` (tight enclosure)",
    "fastfid fp32": "fastfid",
    "fastfid bf16": "fastfid, bf16 (opt-in)",
    "fastfid fp16": "fastfid, fp16 (opt-in)",
    "fastfid tf32": "fastfid, tf32 (opt-in)",
}
Rows = list[dict[str, Any]]


def rows_of(document: dict[str, Any], op: str, metric: str = "time per item") -> Rows:
    """The rows of one operation and metric, in the file's order; none is an error, not an empty table."""
    found = [row for row in document["rows"] if row["op"] == op and row["metric"] == metric]
    if not found:
        raise SystemExit(f"the result file has no rows of {op}, {metric}")
    return found


def label(document: dict[str, Any], variant: str) -> str:
    """A variant as README calls it, with the package's version where the file knows it."""
    version = document["machine"].get("packages", {}).get(variant)
    return f"{variant} {version}" if version else LABELS.get(variant, variant)


def number(value: float) -> str:
    """Three significant digits, never in exponents."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def power(value: float, digits: int = 1) -> str:
    """In powers of ten: 2.4e-7."""
    return re.sub(r"e-0", "e-", f"{value:.{digits}e}") if value else "0"


def table(head: list[str], lines: list[list[str]]) -> str:
    """Markdown."""
    made = ["|" + "".join(f" {cell} |" if cell else " |" for cell in cells) for cells in (head, *lines)]
    return "\n".join([made[0], "|" + "---|" * len(head), *made[1:]])


def pipeline_block(document: dict[str, Any], name: str) -> str:
    rows = sorted(rows_of(document, "pipeline"), key=lambda row: -row["p50"])
    lines = []
    for row in rows:
        bare = re.fullmatch(r"bare network (\w+)", row["variant"])
        said = f"the bare network, {bare[1]}" if bare else label(document, row["variant"])
        lines.append([said, number(1e3 / row["p50"])])
    return table([f"{rows[0]['case']}, folder to moments (`{name}`)", "images/s"], lines)


def frechet_block(document: dict[str, Any], name: str) -> str:
    rows = [row for row in rows_of(document, "frechet") if row["case"].startswith("d=2048")]
    rows.sort(key=lambda row: -row["p50"])
    lines = [[label(document, row["variant"]), number(row["p50"] / 1e3)] for row in rows]
    return table([f"`frechet_distance`, d = 2048 (`{name}`)", "s"], lines)


def resize_block(document: dict[str, Any], name: str) -> str:
    shown = {
        "clean 256² to 299² float32": "256² → 299², `clean`",
        "clean 1024² to 299² float32": "1024² → 299², `clean`",
        "pytorch-fid 256² to 299² float32": "256² → 299², `pytorch-fid`",
        "uint8 bicubic 256² to 299²": "256² → 299², uint8 bicubic, bit-exact with Pillow",
    }
    rows = {(row["case"], row["variant"]): number(row["p50"]) for row in rows_of(document, "resize_normalize")}
    lines = []
    for case, said in shown.items():
        torch_s = [rows.get((case, name), "") for name in ("torch interpolate antialias", "torch interpolate")]
        theirs = torch_s[0] or torch_s[1]
        if (case, "torch uint8, planar") in rows:
            planar, last = rows[case, "torch uint8, planar"], rows[case, "torch uint8, channels_last"]
            theirs = f"{planar} planar, {last} channels_last (off by ≤ 2)"
        lines.append(
            [said, rows[case, "fastfid"], rows.get((case, "clean-fid"), ""), theirs, rows.get((case, "Pillow"), "")]
        )
    head = f"resize and normalise, one thread, ms per image (`{name}`)"
    return table([head, "fastfid", "clean-fid", "torch", "Pillow"], lines)


def parity_block(document: Rows, name: str) -> str:
    del name
    packages = {
        "pytorch-fid": "pytorch-fid 0.3.0",
        "torch-fidelity": "torch-fidelity 0.4.0",
        "torch-fidelity features, float64 means": "its own features with float64 means",
        "torchmetrics": "torchmetrics 1.9.0",
        "clean": "clean-fid 0.1.35",
    }
    lines = []
    for package, said in packages.items():
        full = [r["relative_difference"] for r in document if r["package"] == package and r["tap"] != "2048"]
        few = [r["relative_difference"] for r in document if r["package"] == package and r["tap"] == "2048"]
        lines.append([said, f"≤ {power(max(full))}", power(max(few)) if few else ""])
    return table(["package", "covariances of full rank", "16 images, 2048 dimensions"], lines)


def bounds_block(document: dict[str, Any], name: str) -> str:
    def count(one: dict[str, int], what: str) -> str:
        return f"{one[what]:,}" if what in one else ""

    lines = [
        [size, *(count(one, w) for w in ("cases", "probable", "outside"))] for size, one in document["totals"].items()
    ]
    return table(
        [f"exact value of what was given (`{name}`)", "cases", 'of them "probable"', "outside the bounds"], lines
    )


def moments_block(document: dict[str, Any], name: str) -> str:
    rows = rows_of(document, "moments")
    peaks = {(r["case"], r["variant"]): r["p50"] / 2**20 for r in rows_of(document, "moments", "peak_bytes")}
    lines = []
    for row in rows:
        if row["case"] == rows[0]["case"]:
            peak = number(peaks[row["case"], row["variant"]])
            cells = [number(row["p50"] / 1e3), f"{row['share_of_matmul']:.0%}", peak, power(row["max_difference"], 0)]
            lines.append([label(document, row["variant"]), *cells])
    head = [f"{rows[0]['case']} (`{name}`)", "s", "of a float64 product's rate", "peak, MiB", "largest difference"]
    return table(head, lines)


def tensors_block(document: dict[str, Any], name: str) -> str:
    rows = rows_of(document, "tensors")
    lines = []
    for row in rows:
        seconds, split = row["p50"] * row["items"] / 1e3, row.get("split")
        cells = [number(split["network_s"]), f"{split['rest_share']:.0%}"] if split else ["", ""]
        lines.append([label(document, row["variant"]), number(seconds), *cells])
    head = [f"{rows[0]['case']}, to FID (`{name}`)", "s", "the network alone, s", "everything else"]
    return table(head, lines)


def growth_block(document: dict[str, Any], name: str) -> str:
    rows, peaks = rows_of(document, "growth"), rows_of(document, "growth", "peak_bytes")
    memory = {row["case"]: row["p50"] / 2**20 for row in peaks if row["variant"] == "fastfid"}
    seconds = [row["p50"] * row["items"] / 1e3 for row in rows]
    line = line_through([row["items"] for row in rows], seconds)
    lines = [[f"{r['items']:,}", number(s), number(memory[r["case"]])] for r, s in zip(rows, seconds, strict=True)]
    said = f"A straight line through them is off by at most {line['largest_relative_residual']:.1%}."
    return table([f"images (`{name}`)", "s", "peak memory, MiB"], lines) + f"\n\n{said}"


def reliability_block(document: dict[str, Any], name: str) -> str:
    """What the campaign tried, by kind, and how often a promise was not kept."""
    said = {
        "fuzz": "calls of {n} public functions and commands with right, wrong and extreme arguments",
        "files": "damaged files of {n} formats",
        "kills": "kills and interruptions of commands at random moments, one to three before they are let through",
        "ranks": "runs of two processes, one killed or stopped at a random moment",
        "special": "pipes, sockets, links, strange names, as images and as outputs",
        "ambient": "calls under random switches of torch, NumPy, Pillow and the process",
    }
    lines = []
    for kind, one in document["kinds"].items():
        done = max(one["tried"], one["events"])  # kills are several in one trial
        lines.append([said[kind].format(n=one["entries"]), f"{done:,}", f"{one['failed']:,}"])
    return table([f"{document['seconds'] / 60:.0f} minutes (`{name}`)", "tried", "failed"], lines)


def plot_block(document: dict[str, Any], name: str) -> str:
    del document
    folder = Path(SOURCES["plot"]).parent
    return f"![Time of the distance and images per second, by package (`{name}`)](bench/results/{folder}/speed.svg)"


BLOCKS: dict[str, Callable[..., str]] = {
    "bounds": bounds_block,
    "pipeline": pipeline_block,
    "frechet": frechet_block,
    "resize": resize_block,
    "parity": parity_block,
    "moments": moments_block,
    "tensors": tensors_block,
    "growth": growth_block,
    "reliability": reliability_block,
    "plot": plot_block,
}


def filled(text: str, sources: dict[str, str] = SOURCES, results: Path = RESULTS) -> str:
    """The text with every marked block made anew; an unknown or half-marked block is an error."""
    opened, closed = re.findall(r"<!-- bench:(\w+) -->", text), re.findall(r"<!-- /bench:(\w+) -->", text)
    if opened != closed or not set(opened) <= sources.keys():
        raise SystemExit(f"README's blocks {opened}, ended {closed}; results are named for {sorted(sources)}")

    def block(match: re.Match[str]) -> str:
        path = results / sources[match[1]]
        made = BLOCKS[match[1]](json.loads(path.read_text()), path.name)
        return f"<!-- bench:{match[1]} -->\n{made}\n<!-- /bench:{match[1]} -->"

    return re.sub(r"<!-- bench:(\w+) -->.*?<!-- /bench:\1 -->", block, text, flags=re.DOTALL)


def bars(sources: dict[str, str] = SOURCES, results: Path = RESULTS) -> dict[str, list[tuple[str, float]]]:
    """Panel → (variant, value), slowest first."""
    distance, pipeline = (json.loads((results / sources[name]).read_text()) for name in ("frechet", "pipeline"))
    times = [(r["variant"], r["p50"] / 1e3) for r in rows_of(distance, "frechet") if r["case"].startswith("d=2048")]
    rates = [(r["variant"], 1e3 / r["p50"]) for r in rows_of(pipeline, "pipeline")]
    return {
        "Fréchet distance, d = 2048: seconds": sorted(times, key=lambda one: -one[1]),
        "Folder of 256² PNG to moments: images/s": sorted(rates, key=lambda one: one[1]),
    }


def digest(panels: dict[str, Any]) -> str:
    """Of the numbers that a plot shows; it stands in the file, so that --check needs no equal matplotlib."""
    return hashlib.sha256(json.dumps(panels, sort_keys=True).encode()).hexdigest()


def draw_bars(panels: dict[str, list[tuple[str, float]]], path: Path) -> None:
    """Horizontal bars, logarithmic where they span a decade, one panel each; the same bytes for the same numbers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    with mpl.rc_context({"svg.hashsalt": "fastfid", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        for axes, (title, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            names = [name for name, _ in values]
            colours = ["#1f6f8b" if "fastfid" in name else "#b0b0b0" for name in names]
            axes.barh(names, [value for _, value in values], color=colours)
            sizes = [value for _, value in values]
            if max(sizes) > 10 * min(sizes):
                axes.set_xscale("log")
                axes.set_xlim(min(sizes) / 2)
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(title, fontsize=9, loc="left")
            axes.invert_yaxis()
            axes.margins(x=0.3)
            for index, (_, value) in enumerate(values):
                axes.annotate(number(value), (value, index), (4, 0), textcoords="offset points", va="center")
            axes.spines[["top", "right"]].set_visible(False)
        _save(figure, path, digest(panels))


def draw_growth(document: dict[str, Any], path: Path) -> None:
    """Time and memory against the number of images, with the straight line."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows, peaks = rows_of(document, "growth"), rows_of(document, "growth", "peak_bytes")
    counts, seconds = [r["items"] for r in rows], [r["p50"] * r["items"] / 1e3 for r in rows]
    line = line_through(counts, seconds)
    with mpl.rc_context({"svg.hashsalt": "fastfid", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        time, memory = figure.subplots(1, 2)
        time.plot(
            [0, counts[-1]], [line["fixed_s"] + n * line["s_per_image"] for n in (0, counts[-1])], color="#b0b0b0"
        )
        time.plot(counts, seconds, "o", color="#1f6f8b")
        time.set_title(f"seconds; the line is off by ≤ {line['largest_relative_residual']:.1%}", fontsize=9, loc="left")
        for variant in dict.fromkeys(row["variant"] for row in peaks):
            values = [row["p50"] / 2**20 for row in peaks if row["variant"] == variant]
            memory.plot(counts, values, "o-", label="GPU" if variant.endswith("GPU") else "host")
        memory.set_ylim(0, 1.3 * max(row["p50"] / 2**20 for row in peaks))
        memory.legend()
        memory.set_title("peak memory, MiB", fontsize=9, loc="left")
        for axes in (time, memory):
            axes.set_xlabel("images")
        _save(figure, path, digest({"growth": [*rows, *peaks]}))


def _save(figure: Any, path: Path, data: str) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None, "Description": f"data sha256 {data}"})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def plots(sources: dict[str, str] = SOURCES, results: Path = RESULTS) -> dict[Path, tuple[str, Callable[[Path], None]]]:
    """File → (digest of its numbers, what draws it)."""
    panels = bars(sources, results)
    made = {
        results / Path(sources["plot"]).parent / "speed.svg": (digest(panels), lambda path: draw_bars(panels, path))
    }
    if "growth" in sources:
        document = json.loads((results / sources["growth"]).read_text())
        shown = {"growth": [*rows_of(document, "growth"), *rows_of(document, "growth", "peak_bytes")]}
        path = (results / sources["growth"]).parent / "growth.svg"
        made[path] = digest(shown), lambda path: draw_growth(document, path)
    return made


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where something is stale")
    check = parser.parse_args(arguments).check
    readme = root / "README.md"
    old = readme.read_text()
    new = filled(old)
    stale = [str(readme.name)] if new != old else []
    for path, (data, draw) in plots().items():
        if not path.is_file() or data not in path.read_text():
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                draw(path)
    if not check:
        readme.write_text(new)
    print("\n".join(f"{'stale' if check else 'written'}: {name}" for name in stale) or "all is as the results say")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
