"""Accuracy against the number of labels: one figure, a panel a method, the baseline in each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from rmjax import jsonl
from rmjax.evaluation import report
from rmjax.evaluation.figures import MUTED, RIGHT, draw
from rmjax.evaluation.sections import ReportData
from rmjax.evaluation.summary import Group, groups

NOTE = (
    "Each panel is one method (blue) and the tuned Bradley-Terry head (grey) on the same label draws; the bands are "
    "95 % intervals of the mean over runs. At the largest number all labels are taken, so its band covers seeds only "
    "(folds, minibatches). All points are of the same held-out pairs: the bands say nothing about other pairs. "
    "Whether two methods differ is said by the paired comparisons below, not by overlapping bands."
)


def write(path: Path, data: ReportData, *, baseline: str) -> None:
    """The usual report with the curves before its tables, written whole. Raises UserError where it cannot be."""
    section = Markup(
        '<section id="curves">\n<h2>Accuracy against the number of labels</h2>\n'
        '<p class="note"><b>How to read this.</b> {}</p>\n<div>{}</div>\n</section>\n\n'
    ).format(NOTE, figure(groups(data.rows), baseline=baseline))
    mark = '<section id="accuracy">'
    page = report.render(data).replace(mark, str(section) + mark, 1)  # a Markup would escape the mark
    with jsonl.writing(path), jsonl.replacing(path) as file:
        file.write(page.encode("utf-8", "xmlcharrefreplace"))


def figure(found: Sequence[Group], *, baseline: str) -> Markup:
    """Small multiples on shared axes.

    Args:
        found: methods at numbers of labels; the baseline among them.
        baseline: its name.
    """
    methods = list(dict.fromkeys(g.method for g in found))
    others = [m for m in methods if m != baseline] or [baseline]
    line = lambda method: sorted((g for g in found if g.method == method), key=lambda g: g.labels)
    columns = min(3, len(others))
    rows = -(-len(others) // columns)

    def paint(fig: Figure) -> None:
        panels = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax, method in zip(panels, others, strict=False):
            if method != baseline:
                band(ax, line(baseline), MUTED)
            band(ax, line(method), RIGHT)
            ax.set_title(method, fontsize=8.5, loc="left")
            ax.set_xscale("log")
            counts = [g.labels for g in line(method)]
            ax.set_xticks(counts, [f"{n:,}" for n in counts])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_locator(MaxNLocator(5))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f}"))
            ax.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            ax.grid(axis="y")
            ax.set_axisbelow(True)
        for ax in panels[len(others) :]:
            ax.set_visible(False)
        fig.supxlabel("labelled pairs", fontsize=8.5)
        fig.supylabel("accuracy, %", fontsize=8.5)

    return draw((2.5 * columns, 1.9 * rows + 0.3), paint, "Accuracy against the number of labels, by method")


def band(ax: Axes, points: Sequence[Group], colour: str) -> None:
    """A method's mean and its interval over the numbers of labels."""
    x = [g.labels for g in points]
    ax.fill_between(x, [g.low for g in points], [g.high for g in points], color=colour, alpha=0.2, linewidth=0)
    ax.plot(x, [g.accuracy for g in points], "o-", color=colour, markersize=3, linewidth=1.4)
