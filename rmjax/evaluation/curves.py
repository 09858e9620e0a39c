"""Accuracy against the number of labels: one figure, a panel a method, the baseline in each; tables of 80 columns; and
Holm's correction of the comparisons of one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from rich.markup import escape
from rich.table import Table
from scipy import stats

from rmjax import statistics
from rmjax.evaluation import report
from rmjax.evaluation.figures import MUTED, RIGHT, draw
from rmjax.evaluation.pairwise import Accuracy, Comparison
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.evaluation.summary import Group, groups
from rmjax.evaluation.tables import p_text
from rmjax.statistics import Interval

Point = tuple[str, int]  # method (or first - second), labels (or round)

NOTE = (
    "Each panel is one method (blue) and tuned Bradley-Terry (grey) on the same label draws; the bands are 95 % "
    "intervals of the mean over runs. Where all labels are taken the intervals cover seeds only (of folds, new heads, "
    "minibatches) on one set of labels. All points are of one set of held-out pairs: no interval says anything about "
    "other pairs. Whether two methods differ is said by the paired comparisons below, not by overlapping bands."
)
CORRECTED = (
    "In the comparisons p is of Student's t over the paired runs, raised by Holm's correction for all {} comparisons "
    "of this run; the intervals are not corrected. A method is ahead or behind only if p is below 0.05 as well."
)


def write(path: Path, data: ReportData, *, baseline: str) -> None:
    """The usual report with the curves before its tables, written whole. Raises UserError where it cannot be.

    The p-values of `data.comparisons` are those of `holm`, and the page says so.
    """
    note = f"{NOTE} {CORRECTED.format(len(data.comparisons))}" if data.comparisons else NOTE
    found = groups(data.rows)
    lines: dict[str, list[Dot]] = {}
    for g in found:
        lines.setdefault(g.method, []).append(Dot(g.labels, g.accuracy, g.low, g.high))
    title = "Accuracy against the number of labels"
    body = figure(lines, baseline=baseline, across="labelled pairs", label=f"{title}, by method", log=True)
    panel = Panel(id="curves", title=title, note=note, body=body)
    report.write(path, dataclasses.replace(data, panels=(panel, *data.panels)))


class Dot(NamedTuple):
    """A point of a curve with its interval."""

    x: int
    value: float
    low: float
    high: float


def figure(
    lines: Mapping[str, Sequence[Dot]],
    *,
    baseline: str,
    across: str,
    label: str,
    log: bool = False,
    ticks: Sequence[int] | None = None,
) -> Markup:
    """Accuracies as small multiples on shared axes, a panel a method, the baseline in each.

    Args:
        lines: method -> its points.
        baseline: the name of the one that is in every panel.
        across: what x is.
        label: what a screen reader says.
        log: whether x is logarithmic.
        ticks: where x is marked; None: at every point.
    """
    ordered = {m: sorted(dots) for m, dots in lines.items()}
    others = [m for m in ordered if m != baseline] or [baseline]
    columns = min(3, len(others))
    rows = -(-len(others) // columns)

    def paint(fig: Figure) -> None:
        panels = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax, method in zip(panels, others, strict=False):
            if method != baseline:
                band(ax, ordered[baseline], MUTED)
            band(ax, ordered[method], RIGHT)
            ax.set_title(method, fontsize=8.5, loc="left")
            ax.set_xscale("log" if log else "linear")
            places = [dot.x for dot in ordered[method]] if ticks is None else ticks
            ax.set_xticks(places, [f"{x:,}" for x in places])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_locator(MaxNLocator(5))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f}"))
            ax.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            ax.grid(axis="y")
            ax.set_axisbelow(True)
        for ax in panels[len(others) :]:
            ax.set_visible(False)
        fig.supxlabel(across, fontsize=8.5)
        fig.supylabel("accuracy, %", fontsize=8.5)

    return draw((2.5 * columns, 1.9 * rows + 0.3), paint, label)


def band(ax: Axes, dots: Sequence[Dot], colour: str) -> None:
    """A method's mean and its interval."""
    x = [dot.x for dot in dots]
    ax.fill_between(x, [dot.low for dot in dots], [dot.high for dot in dots], color=colour, alpha=0.2, linewidth=0)
    ax.plot(x, [dot.value for dot in dots], "o-", color=colour, markersize=3, linewidth=1.4)


def holm(found: Mapping[Point, Comparison]) -> dict[Point, Comparison]:
    """The comparisons of runs, with Student's p-values that hold for all of them at once."""
    adjusted = statistics.holm([p_value(c.difference) for c in found.values()])
    return {point: dataclasses.replace(c, p=p) for (point, c), p in zip(found.items(), adjusted, strict=True)}


def p_value(d: Interval) -> float:
    """Student's two-sided p of no difference, of a 95 % t interval over `d.n` runs."""
    error = (d.high - d.low) / 2 / stats.t.ppf(0.975, d.n - 1)
    if not error > 0:
        return float(d.value == 0)
    return float(2 * stats.t.sf(abs(d.value) / error, d.n - 1))


def accuracy_table(rows: Sequence[Group], baselines: Mapping[str, Accuracy]) -> Table:
    """Accuracy of every method at every number of labels, the trivial baselines below; `spans` says over what."""
    table = _table("method", "labels", "accuracy", "95 % interval", "ties", "s / run")
    for g in rows:
        more = f"{100 * g.ties:.1f} %" if g.ties else "", f"{g.seconds:.2f}"
        table.add_row(escape(g.method), f"{g.labels:,}", *_interval(g.accuracy, g.low, g.high), *more)
    for name, a in baselines.items():
        ties = f"{100 * a.ties / a.n:.1f} %" if a.ties else ""
        table.add_row(escape(name), "", *_interval(a.accuracy, *a.ci95), ties, "", style="dim")
    return table


def comparison_table(found: Mapping[Point, Comparison]) -> Table:
    """Every method minus the baseline, in percentage points; `found` is what `holm` returned."""
    table = _table("method", "labels", "points", "95 % interval", "Holm's p", "finding")
    for (method, labels), c in found.items():
        d = c.difference
        word = ("ahead" if d.value > 0 else "behind") if c.distinguishable else "undecided"
        points = _interval(d.value, d.low, d.high, sign="+")
        table.add_row(escape(method), f"{labels:,}", *points, p_text(c.p), word)
    return table


def spans(rows: Sequence[Group]) -> str:
    """What the intervals are over, in words, once for all numbers of labels that share it."""
    counts: dict[str, dict[int, None]] = {}
    for g in rows:
        counts.setdefault(g.over, {})[g.labels] = None
    return "; ".join(f"{over} ({', '.join(f'{n:,}' for n in ns)} labels)" for over, ns in counts.items())


def _interval(value: float, low: float, high: float, sign: str = "") -> tuple[str, str]:
    return f"{100 * value:{sign}.1f}", f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in ("method", "finding") else "right", no_wrap=True)
    return table
