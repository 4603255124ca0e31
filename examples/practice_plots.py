"""The figures of lenet5_keras.py: reports of Kronnx and a model's matrices in, matplotlib figures out."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from kronnx.tools.report.quantities import digits, duration, percent, quantity
from kronnx.tools.report.records import LayerRecord, Report
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from scipy.stats import binomtest

BEFORE, AFTER, PALE, RED, DARK = "#9aa5b1", "#1f6feb", "#c8d3df", "#d1242f", "#24292f"

NOTE = """The ranks were not read off these curves:
they follow the same matrices weighted
with the curvature, G$^{1/2}$ W A$^{1/2}$."""

Point = tuple[int, float, int]  # bytes, accuracy, test images


def wilson(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a `share` of `samples` (Wilson, 1927)."""
    found = binomtest(round(share * samples), samples).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def chosen_rank(layer: LayerRecord) -> int | None:
    """The rank that is left of the layer's matrix, if it was cut: the narrowest of the pieces that run it.

    None where nothing was cut, and for forms that cut another matrix than this one (spatial, Tucker, stripes).
    """
    rank = min((min(piece.matrix[1:]) for piece in layer.after), default=0)
    own = len(layer.after) < 2 or layer.form.startswith("low rank")
    return rank if own and rank < min(layer.matrix[1:]) and "block-sparse" not in layer.form else None


def spectra_figure(matrices: Mapping[str, np.ndarray], layers: Sequence[LayerRecord]) -> Figure:
    """The singular values of each layer's matrix [out, in], with the rank that was chosen for it."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle("Singular values of the layers' matrices, and the ranks that were chosen")
    axes = figure.subplots(2, 3).flat
    for ax, layer in zip(axes, layers, strict=False):
        _draw_spectrum(ax, layer, np.linalg.svd(matrices[layer.name], compute_uv=False))
    for ax in list(figure.axes)[len(layers) :]:
        ax.set_axis_off()
    figure.axes[-1].legend(handles=_spectra_key(), loc="upper left", frameon=False, fontsize=9)
    figure.axes[-1].text(0.05, 0.35, NOTE, fontsize=9, color=DARK, transform=figure.axes[-1].transAxes)
    return figure


def _draw_spectrum(ax: Axes, layer: LayerRecord, values: np.ndarray) -> None:
    ranks, chosen = np.arange(1, len(values) + 1), chosen_rank(layer)
    kept = ranks <= (len(values) if chosen is None else chosen)
    ax.plot(ranks, values, color=PALE, linewidth=1, zorder=1)
    ax.scatter(ranks[kept], values[kept], s=12, color=AFTER, zorder=2)
    ax.scatter(ranks[~kept], values[~kept], s=12, color=BEFORE, zorder=2)
    if chosen is not None:
        ax.axvline(chosen + 0.5, color=RED, linewidth=1, linestyle="--")
    ax.set_ylim(bottom=0)
    ax.set_title(f"{layer.name}, {layer.matrix[1]} x {layer.matrix[2]}", fontsize=10, loc="left")
    ax.set_xlabel(_rank_text(layer, chosen, len(values)), fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _rank_text(layer: LayerRecord, chosen: int | None, full: int) -> str:
    if chosen is not None:
        return f"rank {chosen} of {full}"
    own = len(layer.after) == 1
    return f"rank {full}, not cut" if own else f"{layer.form.split(',')[0]}: another matrix was cut"


def _spectra_key() -> list[Line2D]:
    dots = ((AFTER, "up to the rank that was chosen"), (BEFORE, "beyond it"))
    keys = [Line2D([], [], color=color, marker="o", markersize=4, linestyle="", label=said) for color, said in dots]
    return [*keys, Line2D([], [], color=RED, linestyle="--", linewidth=1, label="the cut")]


def front_figure(report: Report, reports: Sequence[Report]) -> Figure:
    """Accuracy on the test images against the size of the file, with 95 % intervals: the original, the model within the
    limit of `report`, and those of `reports`."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    original, within, shares = _originals([report, *reports])[:1], _points([report]), _points(reports)
    edge = efficient([*original, *within, *shares])
    ax.plot(*_coordinates(edge), color=PALE, linewidth=3, zorder=1, label="Pareto front")
    _draw_points(ax, shares, AFTER, "o", "compressed to a share of the size")
    _draw_points(ax, within, RED, "D", "compressed within the limit")
    _draw_points(ax, original, DARK, "s", "original")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(lambda size, _: f"{size / 1000:g} kB")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="size of the file", ylabel="accuracy on test images, %, with 95 % intervals")
    ax.set_title("What accuracy is left at which size", loc="left")
    ax.grid(color="#eaeef2")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right", frameon=False)
    return figure


def _points(reports: Sequence[Report]) -> list[Point]:
    return [(r.after.bytes, r.accuracy.after, r.accuracy.samples) for r in reports if r.accuracy]


def _originals(reports: Sequence[Report]) -> list[Point]:
    return [(r.before.bytes, r.accuracy.before, r.accuracy.samples) for r in reports if r.accuracy]


def efficient(points: Sequence[Point]) -> list[Point]:
    """The points that no other is both smaller and more accurate than, by size."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def _coordinates(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [p[0] for p in points], [100 * p[1] for p in points]


def _draw_points(ax: Axes, points: Sequence[Point], color: str, marker: str, label: str) -> None:
    if not points:
        return
    sizes, shares = _coordinates(points)
    errors = np.array([_error(share, samples) for _, share, samples in points]).T
    ax.errorbar(sizes, shares, errors, fmt=marker, color=color, markersize=6, capsize=3, linewidth=1, label=label)


def _error(share: float, samples: int) -> tuple[float, float]:
    """How far the 95 % interval goes down and up, in points."""
    low, high = wilson(share, samples)
    return 100 * (share - low), 100 * (high - share)


def overview_figure(report: Report) -> Figure:
    """Before and after: the parameters and multiply-adds of each layer with its sensitivity, then the accuracy, the
    size and the latency of the whole."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(f"Before and after: {report.pipeline}")
    top, bottom = figure.subplots(2, 3)
    layers, names = report.layers, [layer.name for layer in report.layers]
    counts = "parameters", [x.parameters for x in layers], [x.after_parameters for x in layers]
    _draw_pairs(top[0], names, *counts)
    _draw_pairs(top[1], names, "multiply-adds", [x.macs for x in layers], [x.after_macs for x in layers])
    _draw_sensitivity(top[2], layers)
    _draw_accuracy(bottom[0], report)
    _draw_whole(bottom[1], "size of the file", [report.before.bytes, report.after.bytes], lambda x: quantity(x, "B"))
    _draw_latency(bottom[2], report)
    top[0].legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def _draw_pairs(ax: Axes, names: Sequence[str], title: str, before: Sequence[int], after: Sequence[int]) -> None:
    rows = np.arange(len(names))
    for shift, values, color, label in ((-0.2, before, BEFORE, "before"), (0.2, after, AFTER, "after")):
        bars = ax.barh(rows + shift, values, 0.38, color=color, label=label)
        ax.bar_label(bars, [quantity(value) for value in values], padding=3, fontsize=7)
    _finish_bars(ax, names, title)


def _draw_sensitivity(ax: Axes, layers: Sequence[LayerRecord]) -> None:
    values = [layer.sensitivity or 0.0 for layer in layers]
    bars = ax.barh(range(len(layers)), values, 0.5, color=DARK)
    ax.bar_label(bars, [digits(value) for value in values], padding=3, fontsize=7)
    _finish_bars(ax, [layer.name for layer in layers], "sensitivity (trace of the curvature)")


def _draw_accuracy(ax: Axes, report: Report) -> None:
    found = report.accuracy
    if found is None:
        ax.set_axis_off()
        return
    for row, share, color in ((0, found.before, BEFORE), (1, found.after, AFTER)):
        errors = np.array([_error(share, found.samples)]).T
        ax.errorbar([100 * share], [row], xerr=errors, fmt="o", color=color, capsize=4, markersize=7)
        ax.annotate(percent(share), (100 * share, row), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    _finish_bars(ax, ["before", "after"], "accuracy, % of test images, with 95 % intervals")
    ax.margins(x=0.15, y=0.5)


def _draw_whole(ax: Axes, title: str, values: Sequence[float], said: Callable[[float], str], spread=None) -> None:
    bars = ax.barh([0, 1], values, 0.5, xerr=spread, color=[BEFORE, AFTER], ecolor=DARK, capsize=4)
    ax.bar_label(bars, [said(value) for value in values], padding=4, fontsize=8)
    _finish_bars(ax, ["before", "after"], title)


def _draw_latency(ax: Axes, report: Report) -> None:
    timing, before, after = report.timing, report.before, report.after
    if timing is None or before.latency_us is None or after.latency_us is None:
        ax.set_axis_off()
        return
    spreads = [before.latency_spread_us or 0.0, after.latency_spread_us or 0.0]
    title = f"latency, batch {timing.batch}: {timing.ratio:.2f} x ({timing.low:.2f} to {timing.high:.2f})"
    _draw_whole(ax, title, [before.latency_us, after.latency_us], duration, spreads)


def _finish_bars(ax: Axes, names: Sequence[str], title: str) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_title(title, fontsize=10, loc="left")
    ax.tick_params(labelsize=8)
    ax.margins(x=0.22)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(lambda value, _: quantity(value) if abs(value) >= 1000 else f"{value:g}")
