"""Curves and bars as SVG pictures that an HTML page can hold."""

import base64
import io
import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from .box_labels import in_default_font, literal

# Distinct on white, also for most colour-blind readers, in this order
LINE_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#8c6d31",
    "#56b4e9",
    "#e69f00",
    "#444444",
    "#7b4ab5",
    "#b22222",
)


def line_chart(title, curves, *, xlabel="step", ylabel="", smooth=1, ylim=None, dashed=(), size=(7.2, 3.4)):
    """
    Args:
        curves (dict): label -> (steps, values).
        smooth (int): values are means over this number of neighbours; 1 = unchanged.
        ylim ((low, high)): of the vertical axis; None = from 0 to what is there.
        dashed (collection of str): labels of dashed lines, for what others are compared with.

    Returns:
        Figure: one line a label; single points are marked.
    """
    figure, axes = _titled_axes(title, size, xlabel, ylabel)
    for i, (label, (steps, values)) in enumerate(curves.items()):
        style = {"linestyle": "--" if label in dashed else "-", "color": LINE_COLORS[i % len(LINE_COLORS)]}
        style.update(linewidth=1.6, marker="o" if len(steps) < 12 else "", markersize=4)
        axes.plot(steps, running_mean(values, smooth), label=literal(label), **style)
    if ylim:
        axes.set_ylim(*ylim)
    else:
        high = max((max(values) for _, values in curves.values() if len(values)), default=0)
        axes.set_ylim(0, 1.06 * high if high > 0 else 1)  # the margin is of what is shown: no marker is cut off
    _finish(figure, axes, len(curves))
    return figure


def sweep_chart(title, points, levels, *, xlabel, ylabel, size=(7.2, 3.4)):
    """
    Args:
        points (dict): number on the horizontal axis -> (mean, spread).
        levels (dict): label -> (mean, spread) of what has no such number. A spread is a number, or None.

    Returns:
        Figure: the points as a line with their spreads, and each level as a dashed line in a band of its spread.
    """
    figure, axes = _titled_axes(title, size, xlabel, ylabel)
    means, spreads = zip(*points.values())
    bars = [s or 0 for s in spreads]
    axes.errorbar(list(points), means, yerr=bars, color=LINE_COLORS[0], marker="o", markersize=4, capsize=3)
    for i, (label, (mean, spread)) in enumerate(levels.items(), 1):
        color = LINE_COLORS[i % len(LINE_COLORS)]
        axes.axhline(mean, color=color, linestyle="--", linewidth=1.6, label=literal(label))
        axes.axhspan(mean - (spread or 0), mean + (spread or 0), color=color, alpha=0.15, linewidth=0)
    _finish(figure, axes, len(levels))
    return figure


def bar_chart(title, groups, series, *, ylabel="", size=(7.2, 3.4)):
    """
    Args:
        groups (list[str]): labels below the bars.
        series (dict): label -> one value a group; NaN leaves a gap.

    Returns:
        Figure: bars side by side.
    """
    figure, axes = _titled_axes(title, size, "", ylabel)
    width = 0.8 / max(1, len(series))
    for i, (label, values) in enumerate(series.items()):
        at = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        axes.bar(at, values, width * 0.92, label=literal(label), color=LINE_COLORS[i % len(LINE_COLORS)])
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(groups) > 6 else {}
    axes.set_xticks(range(len(groups)), list(map(literal, groups)), fontsize=8.5 if len(groups) <= 12 else 7, **slanted)
    axes.set_ylim(bottom=0)
    _finish(figure, axes, len(series))
    return figure


def _titled_axes(title, size, xlabel, ylabel):
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(literal(title), fontsize=11, loc="left")
    axes.set_xlabel(literal(xlabel), fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    return figure, axes


def _finish(figure, axes, count):
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
    if count > 1 or axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside right upper", fontsize=8.5, frameon=False)


def running_mean(values, window):
    """Mean over ``window`` neighbours, over fewer at the ends; as many values as there were."""
    values = np.asarray(values, dtype=float)
    if window <= 1 or len(values) < 2:
        return values
    half = window // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def svg_uri(figure):
    """A figure as a ``data:`` URI; text becomes outlines, so no font is needed.

    Text with characters that Matplotlib's font lacks stays text: the reader's browser has a font for it.
    """
    out = io.BytesIO()
    drawable = all(in_default_font(text.get_text()) for text in figure.findobj(Text))
    fonts = {"svg.fonttype": "path" if drawable else "none", "svg.hashsalt": "mic_det"}
    with matplotlib.rc_context(fonts), warnings.catch_warnings():
        if not drawable:
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")
