"""The ``fastfid`` command: words in, words out; no arithmetic.

Exit codes: 0 done; 1 a defect in fastfid; 2 the command line is wrong; 3 the data can't be used (missing, empty or
broken images, statistics that don't belong together); 4 network weights missing or corrupt; 5 the device or a backend
is not available; 6 another process of a distributed run failed; 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

import fastfid

EXIT_DEFECT, EXIT_DATA, EXIT_WEIGHTS, EXIT_DEVICE, EXIT_RANK, EXIT_INTERRUPTED = 1, 3, 4, 5, 6, 130
_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(fastfid.__version__, prog_name="fastfid")
def main() -> None:
    """Exact and fast Fréchet Inception Distance, by every known protocol."""


@contextmanager
def _failures() -> Iterator[None]:
    """Known troubles become one clear line on stderr and their exit code; Python warnings stay out of the way."""
    from fastfid.errors import (
        BackendUnavailableError,
        FastFIDWarning,
        RankError,
        WeightsCorruptError,
        WeightsNotFoundError,
    )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FastFIDWarning)  # the result lists them
            yield
    except (WeightsNotFoundError, WeightsCorruptError) as error:
        _fail(error, EXIT_WEIGHTS)
    except BackendUnavailableError as error:
        _fail(error, EXIT_DEVICE)
    except (ValueError, TypeError, OSError) as error:
        _fail(error, EXIT_DATA)
    except RankError as error:
        _fail(error, EXIT_RANK)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        _fail(RuntimeError(f"{error} Try a smaller --batch-size."), EXIT_DEVICE)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: BaseException, code: int) -> None:
    if os.environ.get("FASTFID_DEBUG"):
        raise error
    click.echo(f"fastfid: {error}", err=True)
    sys.exit(code)


def _print(renderable: Any) -> None:
    """To stdout; wide enough not to fold where there is no terminal to say how wide it is."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=220)
    console.print(renderable)


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
@click.option("--certify", is_flag=True, help="Pay for the tight enclosure of the distance.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Also write the result as JSON; - for stdout, in place of the table.",
)
def compare(
    ref: str, gen: str, json_path: str | None, quiet: bool, certify: bool, alone: bool, **settings: Any
) -> None:
    """Distance between two image sets, REF and GEN.

    Each is a folder, a zip, an .npz or .npy of uint8 images, or an .npz of statistics (mu, sigma).
    """
    with _failures():
        from fastfid._atomic import require_folder
        from fastfid.api import fid
        from fastfid.distributed import under_launcher
        from fastfid.report.json_file import json_text, write_json
        from fastfid.report.table import result_table

        if json_path not in (None, "-"):
            require_folder(str(json_path))
        distributed = under_launcher() and not alone
        result = fid(ref, gen, progress=not quiet, certify=certify or None, distributed=distributed, **settings)
        if distributed and os.environ["RANK"] != "0":
            return
        if json_path == "-":
            click.echo(json_text(result.to_dict()), nl=False)
            return
        if json_path is not None:
            write_json(json_path, result.to_dict())
        _print(result_table(result))


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
        from fastfid.errors import FastFIDWarning

        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always", FastFIDWarning)
            distributed = under_launcher() and not alone
            moments = measure(images, output, progress=not quiet, distributed=distributed, **settings)
        if distributed and os.environ["RANK"] != "0":
            return
        click.echo(f"{output}: {moments.n} samples, {moments.dim} dimensions, protocol {settings['protocol']}")
        for note in moments.metadata.get("notes", ()):
            click.echo(f"note: {note}")
        for one in raised:
            if issubclass(one.category, FastFIDWarning):
                click.echo(f"warning: {one.message}")


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, callback=_npz, help="The .npz to write.")
def merge(files: tuple[str, ...], output: str) -> None:
    """Join statistics of disjoint sets, or of the shards of one, that fastfid stats wrote."""
    with _failures():
        from fastfid._atomic import require_folder
        from fastfid.api import merge as join

        require_folder(output)
        moments, missing = join(files, output)
        click.echo(f"{output}: {moments.n} samples, {moments.dim} dimensions, from {len(files)} files")
        if missing:
            click.echo(f"warning: part of a set; these shards are missing: {', '.join(missing)}")


@main.command()
def protocols() -> None:
    """List every protocol and what it does."""
    from fastfid.protocols import PROTOCOLS
    from fastfid.report.table import protocols_table

    _print(protocols_table(PROTOCOLS.values()))


@main.command()
def info() -> None:
    """Versions, devices, kernels and where weights are looked for."""
    with _failures():
        from fastfid.report.environment import environment_table

        _print(environment_table())


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
        from fastfid.demo.run import run_demo
        from fastfid.report.plot import plot_disturbances
        from fastfid.report.table import demo_curves, demo_table, demo_title

        def report(text: str) -> None:
            click.echo(text, err=True)

        done = run_demo(out, count=count, weights=weights, report=report, progress=not quiet)
        plot = done.folder / "distances.png"
        _print(demo_table(done))
        plot_disturbances(demo_curves(done), plot, demo_title(done), distance="distance from the reference")
        weights_option = f" --weights {done.weights}" if done.weights else ""
        click.echo(f"plot: {plot}")
        click.echo(f"next: fastfid compare {done.reference} {done.last}{weights_option}")
        click.echo("and with your own images: fastfid compare REAL_FOLDER GENERATED_FOLDER")


@main.command()
@click.option("--device", default="auto", callback=_device, help="auto, cpu, cuda or cuda:<index>.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, allow_dash=True), help="Also write the figures as JSON."
)
@click.option("--quiet", is_flag=True, help="Don't say what is being done.")
def bench(device: str, json_path: str | None, quiet: bool) -> None:
    """How fast this machine is at each stage: distance, resize, covariance, network; about a minute.

    Every stage is first compared with something that shares no code with it; if one is wrong, no time is shown.
    """
    with _failures():
        from fastfid._atomic import require_folder
        from fastfid.bench.quick import WrongResultError, run_quick
        from fastfid.report.bench import bench_table
        from fastfid.report.json_file import json_text, write_json

        if json_path not in (None, "-"):
            require_folder(str(json_path))
        try:
            quick = run_quick(device, say=lambda text: None if quiet else click.echo(text, err=True))
        except WrongResultError as error:
            _fail(error, EXIT_DEFECT)
        if json_path == "-":
            click.echo(json_text(quick.to_dict()), nl=False)
            return
        if json_path is not None:
            write_json(json_path, quick.to_dict())
        _print(bench_table(quick))
