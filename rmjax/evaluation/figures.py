"""The report's figures: matplotlib, as inline SVG whose colours and fonts the page decides, so that it can be dark.

Every figure is drawn in sentinel colours, which are then replaced by CSS variables; text stays text. Names that come
from elsewhere stand in the page, never in a figure.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rmjax.evaluation.calibration import Calibration

INK, MUTED, RULE, RIGHT, WRONG = "#010203", "#010204", "#010205", "#010206", "#010207"
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", RIGHT: "--right", WRONG: "--wrong"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rmjax",  # the same data draws the same bytes
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
}
WIDEN = 1.35  # at most so much is a figure drawn larger than it was made: its letters grow with it


def draw(size: tuple[float, float], paint: Callable[[Figure], None], label: str) -> Markup:
    """An SVG element.

    Args:
        size: width and height in inches.
        paint: draws on the figure.
        label: what a screen reader says.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)  # the page's style rules
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # needless inside HTML
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)  # the page sets the size
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font(-family)?: [^;\"]*;?", _font_size, svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    most = WIDEN * size[0]
    head = Markup('<svg role="img" aria-label="{}" style="max-width: {:.2f}in"').format(label, most)
    return Markup(svg.replace("<svg", head, 1))


def _font_size(match: re.Match) -> str:
    size = re.search(r"[\d.]+px", match[0])
    return f"font-size: {size[0]};" if size else ""


def curve(points: Sequence[tuple[float, float]], label: str) -> tuple[Markup, int]:
    """One training curve: every logged value faintly, and from 40 values on their moving mean.

    Returns:
        The SVG, and how many values were not finite and are not drawn.
    """
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        smooth = len(y) >= 40
        ax.plot(x, y, color=RIGHT, linewidth=0.8 if smooth else 1.5, alpha=0.35 if smooth else 1.0)
        if smooth:
            ax.plot(x, moving_mean(y, max(3, len(y) // 20)), color=RIGHT, linewidth=1.6)
        if len(y) == 1:
            ax.plot(x, y, "o", color=RIGHT, markersize=4)
        _ticks(ax)
        if len(y) < 2:
            ax.set_xticks(x)
        ax.set_xlabel("step", loc="right", labelpad=1)

    return draw((2.6, 1.45), paint, label), int((~finite).sum())


def moving_mean(y: np.ndarray, width: int) -> np.ndarray:
    """The centred mean over `width` values, over fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    i = np.arange(len(y))
    low, high = np.maximum(0, i - width // 2), np.minimum(len(y), i + (width + 1) // 2)
    return (total[high] - total[low]) / (high - low)


def _ticks(ax: Axes) -> None:
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.margins(x=0.01, y=0.12)


def histogram(right: Sequence[float], wrong: Sequence[float], *, threshold: float | None, label: str) -> Markup:
    """Scores of the judgments with a right and with a wrong verdict on one axis, and the threshold between levels."""
    groups = [np.asarray(right, np.float64), np.asarray(wrong, np.float64)]
    both = np.concatenate(groups)
    edges = np.histogram_bin_edges(both, bins=min(40, max(8, int(2 * len(both) ** (1 / 3)))))

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        for scores, colour, text in zip(groups, (RIGHT, WRONG), ("right", "wrong"), strict=True):
            ax.hist(scores, edges, histtype="stepfilled", color=colour, alpha=0.22, linewidth=0)
            ax.hist(scores, edges, histtype="step", color=colour, linewidth=1.4, label=f"{text} ({len(scores):,})")
        if threshold is not None:
            ax.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            ax.text(threshold, 1.0, f" threshold {threshold:.3g}", transform=ax.get_xaxis_transform(), va="bottom")
        _ticks(ax)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_xlabel("score")
        ax.set_ylabel("judgments")
        ax.legend(frameon=False, fontsize=8.5, handlelength=1.0, labelcolor=INK, loc="best")

    return draw((4.6, 2.2), paint, label)


def reliability(c: Calibration, name: str) -> Markup:
    """Accuracy against confidence by bin with Wilson intervals, the diagonal, and how many items each bin holds."""
    filled = [b for b in c.bins if b.n]
    percent = FuncFormatter(lambda v, _: f"{100 * v:.0f}")

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        lowest = min([0.4, *(b.ci95[0] for b in filled if b.n >= 5)])
        top.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for b in filled:
            top.plot([b.confidence] * 2, b.ci95, color=RIGHT, linewidth=1.2)
        top.plot([b.confidence for b in filled], [b.accuracy for b in filled], "o", color=RIGHT, markersize=4.5)
        top.set_ylim(max(-0.02, lowest - 0.03), 1.02)
        top.set_xlim(0.49, 1.01)
        top.set_ylabel("accuracy, %")
        top.yaxis.set_major_formatter(percent)
        top.grid(axis="y")
        top.tick_params(bottom=False)
        bottom.bar([b.low for b in c.bins], [b.n for b in c.bins], c.bins[0].high - 0.5, 0, align="edge", color=RULE)
        bottom.yaxis.set_major_locator(MaxNLocator(1, integer=True))
        bottom.xaxis.set_major_formatter(percent)
        bottom.set_ylabel("items")
        bottom.set_xlabel("confidence, %")
        for ax in (top, bottom):
            ax.set_axisbelow(True)

    return draw((2.7, 2.7), paint, f"Reliability diagram of {name}")


def curves_by_stage(curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, list[tuple[str, Sequence]]]:
    """Splits `stage/metric` names at the first slash: stage -> [(metric, points)]; names without one are under ''."""
    stages: dict[str, list[tuple[str, Sequence]]] = {}
    for name, points in curves.items():
        stage, slash, metric = name.partition("/")
        stages.setdefault(stage if slash else "", []).append((metric if slash else name, points))
    return stages
