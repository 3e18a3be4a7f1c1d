"""The ``fastfid`` command: words in, words out; no arithmetic.

Exit codes: 0 done; 1 a defect in fastfid; 2 the command line is wrong; 3 the data can't be used (missing, empty or
broken images, statistics that don't belong together); 4 network weights missing or corrupt; 5 the device, a backend or
enough memory is not available; 6 another process of a distributed run failed; 7 an output can't be written; 130
interrupted; 141 nobody reads stdout any more. A number that was reached is shown whatever fails afterwards.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from fastfid.runtime.version import VERSION

EXIT_DEFECT, EXIT_DATA, EXIT_WEIGHTS, EXIT_DEVICE, EXIT_RANK, EXIT_OUTPUT = 1, 3, 4, 5, 6, 7
EXIT_INTERRUPTED, EXIT_PIPE = 130, 141
_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Program(click.Group):
    def main(self, *words: Any, **settings: Any) -> Any:
        from fastfid.report.delivery import open_streams

        code = None
        try:
            open_streams()
            code = super().main(*words, **{**settings, "standalone_mode": False})
        except (click.Abort, KeyboardInterrupt):  # before, or after, what _failures watches
            _interrupted()
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        sys.exit(code)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(VERSION, prog_name="fastfid")
def main() -> None:
    """Exact and fast Fréchet Inception Distance, by every known protocol."""


@contextmanager
def _failures() -> Iterator[None]:
    """Troubles become one clear line on stderr and their exit code; Python warnings stay out of the way."""
    from fastfid.errors import FastFIDWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FastFIDWarning)  # the result lists them
            yield
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        _fail([error])


def _fail(troubles: list[Exception]) -> None:
    """Name each trouble; end with the code of the gravest."""
    from fastfid.report.delivery import complain

    if os.environ.get("FASTFID_DEBUG"):
        raise troubles[0]
    codes = []
    for error in troubles:
        code, words = _judged(error)
        codes.append(code)
        complain(f"fastfid: {words}")
    sys.exit(min(codes))


def _judged(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and what to say."""
    from fastfid.errors import (
        BackendUnavailableError,
        OutputError,
        RankError,
        WeightsCorruptError,
        WeightsNotFoundError,
    )
    from fastfid.report.delivery import PipeClosedError

    known: list[tuple[type[Exception] | tuple[type[Exception], ...], int]] = [
        (PipeClosedError, EXIT_PIPE),
        (OutputError, EXIT_OUTPUT),
        ((WeightsNotFoundError, WeightsCorruptError), EXIT_WEIGHTS),
        (BackendUnavailableError, EXIT_DEVICE),
        (RankError, EXIT_RANK),
    ]
    for kind, code in known:
        if isinstance(error, kind):
            return code, str(error)
    if _lacks_memory(error):
        return EXIT_DEVICE, f"out of memory: {error} Try a smaller --batch-size."
    if isinstance(error, (ValueError, TypeError, OSError)):
        return EXIT_DATA, str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return EXIT_DEFECT, (
        f"a defect in fastfid {VERSION}: {type(error).__name__}: {error}{where}. Please report it, with "
        "what FASTFID_DEBUG=1 shows in addition"
    )


def _lacks_memory(error: Exception) -> bool:
    words = str(error)
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words))
    )


def _interrupted() -> None:
    from fastfid.runtime.output import leave_nothing

    leave_nothing()
    _end("interrupted", EXIT_INTERRUPTED)


def _end(words: str, code: int) -> None:
    from fastfid.report.delivery import complain

    complain(words)
    sys.exit(code)


def _deliver(
    number: str,
    table: Callable[[], str],
    report: Callable[[], dict[str, Any]],
    json_path: Any,
    failed: list[Exception] | None = None,
) -> None:
    """A result as a table, or as JSON in its place or beside it; ``failed``: what went wrong after it was known."""
    from fastfid.report.delivery import Delivery
    from fastfid.report.json_file import json_text, write_json

    delivery = Delivery(number)
    if json_path == "-":
        delivery.show(lambda: json_text(report(), ascii_only=True))
    else:
        delivery.show(table)
    if json_path not in (None, "-"):
        delivery.attempt(lambda: write_json(json_path, report()))
    if failed or delivery.troubles:
        _fail([*(failed or []), *delivery.troubles])


def _prove(json_path: str | None) -> None:
    """Before the work, on the process that will write."""
    from fastfid.runtime.output import Target

    if json_path not in (None, "-"):
        Target(str(json_path)).prove(1 << 16)


def _device(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise click.BadParameter(f"{value!r} is not auto, cpu, cuda or cuda:<index>.")
    return value


def _npz(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not value.endswith(".npz"):
        raise click.BadParameter(f"{value!r} does not end in .npz.")
    return value


def _options(command: _Command) -> _Command:
    """What ``compare`` and ``stats`` share."""
    from fastfid.extractors import PRECISIONS, TAPS
    from fastfid.protocols import DEFAULT, PROTOCOLS

    path = click.Path(exists=True, dir_okay=False)
    for option in reversed(
        [
            click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default=DEFAULT, help="Whose numbers."),
            click.option("--tap", "--dims", "tap", type=click.Choice(list(TAPS)), help="Layer to read. [protocol's]"),
            click.option("--device", default="auto", callback=_device, help="auto, cpu, cuda or cuda:<index>."),
            click.option("--batch-size", type=click.IntRange(1), default=50, help="Images per forward pass."),
            click.option("--num-workers", type=click.IntRange(0), help="Decoding processes. [by device]"),
            click.option("--limit", type=click.IntRange(1), help="Use this many images of each set, drawn by --seed."),
            click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the subset that --limit draws."),
            click.option(
                "--weights", help="Inception weights: a file, or 'random'. [FASTFID_WEIGHTS, cache, download]"
            ),
            click.option("--extractor", type=path, help="A TorchScript file in place of the Inception network."),
            click.option("--precision", type=click.Choice(list(PRECISIONS)), default="fp32", help="Of the network."),
            click.option(
                "--cache",
                type=click.Path(file_okay=False),
                envvar="FASTFID_CACHE",
                show_envvar=True,
                help="Folder that keeps features, for later runs and for going on after an interruption.",
            ),
            click.option("--checkpoint", help="Where to go on after an interruption, without a cache: a file name."),
            click.option("--alone", is_flag=True, help="Run in this process alone, whatever RANK and WORLD_SIZE say."),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0, min_open=True),
                envvar="FASTFID_TIMEOUT",
                show_envvar=True,
                help="Seconds to wait for another process of a distributed run. [1800]",
            ),
            click.option("--skip-bad", is_flag=True, help="Go on without images that can't be read; list them."),
            click.option("--quiet", is_flag=True, help="No progress bar."),
        ]
    ):
        command = option(command)
    return command


@main.command()
@click.argument("ref")
@click.argument("gen")
@_options
@click.option("--metrics", "names", default="fid", help="Which, with commas; fastfid metrics lists them.")
@click.option(
    "--set", "parameters", multiple=True, metavar="METRIC.NAME=VALUE", help="A metric's parameter: kid.subset_size=200."
)
@click.option("--certify", is_flag=True, help="Pay for proven bounds, and tight ones.")
@click.option("--json", "json_path", help="Also write the result as JSON; - for stdout, in place of the table.")
def compare(
    ref: str,
    gen: str,
    names: str,
    parameters: tuple[str, ...],
    json_path: str | None,
    quiet: bool,
    certify: bool,
    alone: bool,
    **settings: Any,
) -> None:
    """Distance between two image sets, REF and GEN, or other metrics of them.

    Each is a folder, a zip, an .npz or .npy of uint8 images, or an .npz of statistics (mu, sigma).
    """
    with _failures():
        from fastfid.api import evaluate
        from fastfid.distributed import under_launcher
        from fastfid.errors import RankError
        from fastfid.report.delivery import drawn
        from fastfid.report.table import report_lines, report_table

        distributed = under_launcher() and not alone
        writes = not distributed or os.environ["RANK"] == "0"
        if writes:
            _prove(json_path)
        failed: list[Exception] = []
        try:
            chosen = _metrics(names, parameters)
            settings |= {"progress": not quiet, "certify": certify or None, "distributed": distributed}
            report = evaluate(ref, gen, chosen, **settings)
        except RankError as error:
            if error.result is None:
                raise
            report, failed = error.result, [error]
        failed += [ValueError(f"{name}: {one.error}") for name, one in report.items() if one.error is not None]
        if writes:
            _deliver(report_lines(report), lambda: drawn(report_table(report)), report.to_dict, json_path, failed)


@main.command()
@click.argument("images")
@click.option("-o", "--output", required=True, callback=_npz, help="The .npz to write.")
@_options
@click.option("--shard", help="INDEX/OF, from 0/OF on: read only this piece; fastfid merge joins the pieces.")
def stats(images: str, output: str, quiet: bool, alone: bool, **settings: Any) -> None:
    """Write the statistics (mu, sigma, …) of an image set, to compare with many others."""
    with _failures():
        from fastfid.api import stats as measure
        from fastfid.distributed import under_launcher
        from fastfid.errors import FastFIDWarning, OutputError

        distributed = under_launcher() and not alone
        failed: list[Exception] = []
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always", FastFIDWarning)
            try:
                moments = measure(images, output, progress=not quiet, distributed=distributed, **settings)
            except OutputError as error:
                if error.moments is None:
                    raise
                moments, failed = error.moments, [error]
        if distributed and os.environ["RANK"] != "0":
            return
        lines = [f"{output}: {_counted(moments)}, protocol {settings['protocol']}"]
        unread = moments.metadata.get("unread", ())
        lines += [f"left unread: {reason} ({count})" for _, reason, count in unread]
        lines += [f"note: {note}" for note in moments.metadata.get("notes", ())]
        lines += [f"warning: {one.message}" for one in raised if issubclass(one.category, FastFIDWarning)]
        _say_all(lines, failed)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, callback=_npz, help="The .npz to write.")
def merge(files: tuple[str, ...], output: str) -> None:
    """Join statistics of disjoint sets, or of the shards of one, that fastfid stats wrote."""
    with _failures():
        from fastfid.api import merge as join
        from fastfid.errors import OutputError
        from fastfid.moments.metadata import missing_shards

        failed: list[Exception] = []
        try:
            moments, missing = join(files, output)
        except OutputError as error:
            if error.moments is None:
                raise
            moments, failed = error.moments, [error]
            missing = missing_shards(moments.metadata)
        lines = [f"{output}: {_counted(moments)}, from {len(files)} files"]
        if missing:
            lines.append(f"warning: part of a set; these shards are missing: {', '.join(missing)}")
        _say_all(lines, failed)


def _metrics(names: str, parameters: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """--metrics and --set as ``evaluate`` takes them; values are numbers where they read as such."""
    chosen: dict[str, dict[str, Any]] = {name.strip(): {} for name in names.split(",")}
    for text in parameters:
        place, equals, value = text.partition("=")
        metric, dot, name = place.partition(".")
        if not (equals and dot and metric in chosen):
            raise click.BadParameter(
                f"{text!r}; accepted: METRIC.NAME=VALUE of a metric that --metrics names.", param_hint="--set"
            )
        chosen[metric][name] = _number(value)
    return chosen


def _number(text: str) -> bool | int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _counted(moments: Any) -> str:
    return f"{moments.n} samples, {moments.dim} dimensions"


def _say_all(lines: list[str], failed: list[Exception]) -> None:
    """Statistics were made, and written unless ``failed`` says otherwise; lines that say so."""
    from fastfid.report.delivery import Delivery
    from fastfid.runtime.shown import shown

    delivery = Delivery(lines[0])
    delivery.show(lambda: "".join(f"{shown(line)}\n" for line in lines))
    if failed or delivery.troubles:
        _fail([*failed, *delivery.troubles])


@main.command()
def protocols() -> None:
    """List every protocol and what it does."""
    with _failures():
        from fastfid.protocols import PROTOCOLS
        from fastfid.report.delivery import drawn, say
        from fastfid.report.table import protocols_table

        say(drawn(protocols_table(PROTOCOLS.values())))


@main.command()
def metrics() -> None:
    """List every metric and what it reads."""
    with _failures():
        from fastfid.report.delivery import drawn, say
        from fastfid.report.table import metrics_table

        say(drawn(metrics_table()))


@main.command()
def info() -> None:
    """Versions, devices, kernels and where weights are looked for."""
    with _failures():
        from fastfid.report.delivery import drawn, say
        from fastfid.report.environment import environment_table

        say(drawn(environment_table()))


@main.command()
@click.option("--out", default="fastfid-demo", type=click.Path(file_okay=False), help="Folder for images and plot.")
@click.option(
    "--count", type=click.IntRange(2), default=40, help="Images in each disturbed set; the reference has twice as many."
)
@click.option("--weights", help="As for compare. [the published ones if they are here, else 'random']")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def demo(out: str, count: int, weights: str | None, quiet: bool) -> None:
    """The main job on embedded data, offline: disturb an image set and watch the distance grow."""
    with _failures():
        from fastfid.demo.run import PLOT, run_demo
        from fastfid.demo.table import demo_curves, demo_lines, demo_table, demo_title
        from fastfid.report.delivery import Delivery, complain, drawn
        from fastfid.report.plot import plot_disturbances
        from fastfid.runtime.shown import shown

        done = run_demo(out, count=count, weights=weights, report=complain, progress=not quiet)
        plot = done.folder / PLOT
        delivery = Delivery(demo_lines(done))
        delivery.show(lambda: drawn(demo_table(done)))

        def draw() -> None:
            plot_disturbances(demo_curves(done), plot, demo_title(done), distance="distance from the reference")
            weights_option = f" --weights {done.weights}" if done.weights else ""
            lines = [
                f"plot: {plot}",
                f"next: fastfid compare {done.reference} {done.last}{weights_option}",
                "and with your own images: fastfid compare REAL_FOLDER GENERATED_FOLDER",
            ]
            delivery.show(lambda: "".join(f"{shown(line)}\n" for line in lines))

        delivery.attempt(draw)
        if delivery.troubles:
            _fail(delivery.troubles)


@main.command()
@click.option("--device", default="auto", callback=_device, help="auto, cpu, cuda or cuda:<index>.")
@click.option("--json", "json_path", help="Also write the figures as JSON.")
@click.option("--quiet", is_flag=True, help="Don't say what is being done.")
def bench(device: str, json_path: str | None, quiet: bool) -> None:
    """How fast this machine is at each stage: distance, resize, covariance, network; about a minute.

    Every stage is first compared with something that shares no code with it; if one is wrong, no time is shown.
    """
    with _failures():
        from fastfid.report.delivery import complain, drawn
        from fastfid.speed.quick import WrongResultError, run_quick
        from fastfid.speed.table import bench_lines, bench_table

        _prove(json_path)
        try:
            quick = run_quick(device, say=lambda text: None if quiet else complain(text))
        except WrongResultError as error:
            _end(f"fastfid: {error}", EXIT_DEFECT)
        _deliver(bench_lines(quick), lambda: drawn(bench_table(quick)), quick.to_dict, json_path)
