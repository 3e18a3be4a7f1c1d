"""The plot of the demo: what is drawn, and that drawing leaves nothing else behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fastfid.errors import OutputError
from fastfid.report.plot import Curve, _draw, _short, plot_disturbances

RISING = Curve("Gaussian blur", "σ (px)", (0.0, 1.0, 2.0, 4.0), (0.7, 13.8, 73.9, 229.0))
FALLING = Curve("Salt & pepper", "p", (0.0, 0.1, 0.2, 0.3), (0.7, 371.0, 383.0, 381.0))


def test_a_png_of_a_panel_each(tmp_path: Path) -> None:
    plot_disturbances([RISING, FALLING], tmp_path / "two.png", "A title")
    plot_disturbances([RISING] * 5, str(tmp_path / "five.png"), "A title")
    two, five = (Image.open(tmp_path / name) for name in ("two.png", "five.png"))
    assert five.size[0] > 2 * two.size[0] > 1000
    assert five.size[1] == two.size[1]
    colours = {tuple(pixel) for pixel in np.asarray(two.convert("RGB")).reshape(-1, 3)}
    assert (0x1F, 0x6F, 0x8B) in colours  # rising steps
    assert (0xC8, 0x55, 0x3D) in colours  # the falling one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["five.png", "two.png"]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_disturbances([RISING], tmp_path / name, "A title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_a_panel_shows() -> None:
    axes = Figure().subplots()
    _draw(axes, FALLING)
    assert [text.get_text() for text in axes.texts] == ["0.700", "371", "383", "381"]
    assert axes.get_title() == "Salt & pepper"
    assert axes.get_xlabel() == "p"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.1", "0.2", "0.3"]
    assert list(axes.lines[0].get_ydata()) == [0.7, 0.7]  # the undisturbed distance
    assert axes.get_ylim()[0] < 0 < 383 < axes.get_ylim()[1]
    red = [line for line in axes.lines if line.get_color() == "#c8553d"]
    assert [list(line.get_xdata()) for line in red] == [[0.2, 0.3], [0.3]]  # the step down and its end


def test_a_panel_without_growth_or_below_zero() -> None:
    for values in ((0.0, 0.0), (-1e-9, -2e-9), (5.0, 4.0)):
        axes = Figure().subplots()
        _draw(axes, Curve("x", "p", (0.0, 1.0), values))
        low, high = axes.get_ylim()
        assert low <= min(0.0, *values)
        assert high > max(values)
        assert axes.title.get_color() == "#c8553d"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.7, "0.700"),
        (0.01234, "0.0123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.0, "12345"),
        (123456.0, "1.23e+05"),
        (0.00012, "1.20e-04"),
        (-2.5, "-2.50"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert _short(value) == text


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one curve"):
        plot_disturbances([], tmp_path / "x.png", "")
    with pytest.raises(ValueError, match=r"'x': levels and values must be of one length, at least 2, got 2 and 1"):
        Curve("x", "p", (0.0, 1.0), (1.0,))
    with pytest.raises(ValueError, match="not finite"):
        Curve("x", "p", (0.0, 1.0), (1.0, float("nan")))
    with pytest.raises(OutputError, match="does not exist"):
        plot_disturbances([RISING], tmp_path / "missing" / "x.png", "")
    assert list(tmp_path.iterdir()) == []


def test_global_state_is_left_alone(tmp_path: Path) -> None:
    """Neither importing nor drawing loads pyplot or chooses a backend; importing does not load matplotlib."""
    script = f"""
import sys
from fastfid.report.plot import Curve, plot_disturbances
assert "matplotlib" not in sys.modules
plot_disturbances([Curve("x", "p", (0.0, 1.0), (1.0, 2.0))], {str(tmp_path / "x.png")!r}, "t")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=500)
