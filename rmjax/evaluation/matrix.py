"""A matrix of accuracies, trained on a row's source and tested on a column's target: heat map and terminal's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.markup import escape
from rich.table import Table

from rmjax.evaluation.figures import INK, RIGHT, WRONG, draw
from rmjax.statistics import Interval

Cells = Mapping[tuple[str, str], Interval]  # (source, target)


def figure(cells: Cells, sources: Sequence[str], targets: Sequence[str], *, label: str, zero: float = 0.5) -> Markup:
    """Cells in colour and numbers: percent, or percentage points where `zero` is 0; half an interval below.

    Args:
        label: what a screen reader says.
        zero: what has no colour; blue is above, orange below. Full colour is 0.25 away (0.05 for differences).
    """
    full, sign = (0.25, "") if zero else (0.05, "+")

    def paint(fig: Figure) -> None:
        ax = fig.subplots()
        for y, source in enumerate(sources):
            for x, target in enumerate(targets):
                i = cells[source, target]
                shade = min(0.6, 0.6 * abs(i.value - zero) / full)
                colour = to_rgba(RIGHT if i.value > zero else WRONG)
                ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour, alpha=shade, linewidth=0))
                ax.text(x, y - 0.08, f"{100 * i.value:{sign}.1f}", ha="center", va="center", color=INK, fontsize=9)
                ax.text(x, y + 0.24, f"± {50 * (i.high - i.low):.1f}", ha="center", va="center", fontsize=6.5)
        ax.set_xlim(-0.5, len(targets) - 0.5)
        ax.set_ylim(len(sources) - 0.5, -0.5)
        ax.set_xticks(range(len(targets)), targets, fontsize=7.5)
        ax.set_yticks(range(len(sources)), sources, fontsize=7.5)
        ax.tick_params(length=0)
        ax.set_xlabel("tested on")
        ax.set_ylabel("trained on")

    return draw((1.3 * len(targets) + 1.2, 0.62 * len(sources) + 0.7), paint, label)


def table(cells: Cells, sources: Sequence[str], targets: Sequence[str], *, zero: float = 0.5) -> Table:
    """The same for the terminal."""
    out = Table(box=None, padding=(0, 2, 0, 0))
    out.add_column("trained on, tested on:")
    for target in targets:
        out.add_column(escape(target), justify="right")
    for source in sources:
        row = [cells[source, target] for target in targets]
        sign = "" if zero else "+"
        out.add_row(escape(source), *(f"{100 * i.value:{sign}.1f} ± {50 * (i.high - i.low):.1f}" for i in row))
    return out
