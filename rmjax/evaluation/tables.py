"""The terminal's tables (rich): results, comparisons, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from rmjax.evaluation.calibration import Calibration
from rmjax.evaluation.pairwise import Accuracy, Comparison
from rmjax.evaluation.summary import Row, groups


def accuracy_table(rows: Sequence[Row], baselines: Mapping[str, Accuracy], *, title: str = "") -> Table:
    """Accuracy of every method with its interval and n, the trivial baselines below it on the same items."""
    table = Table(title=escape(title) or None, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("method")
    for name in ("labels", "accuracy", "95 % interval", "over", "halves", "seconds"):
        table.add_column(name, justify="left" if name == "over" else "right")
    for g in groups(rows):
        table.add_row(
            escape(g.method),
            f"{g.labels:,}",
            f"{100 * g.accuracy:.1f}",
            f"{100 * g.low:.1f} to {100 * g.high:.1f}",
            g.over,
            halves(g.ties, g.unparsed),
            f"{g.seconds:,.0f}",
        )
    if baselines:
        table.add_section()
    for name, a in baselines.items():
        low, high = a.ci95
        table.add_row(
            escape(name),
            "",
            f"{100 * a.accuracy:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{a.n:,} items",
            halves(a.ties / a.n, a.unparsed / a.n),
            "",
            style="dim",
        )
    return table


def halves(ties: float, unparsed: float) -> str:
    """The shares of items that counted one half, in words; empty where there are none."""
    parts = [f"{100 * share:.1f} % {name}" for share, name in ((ties, "ties"), (unparsed, "unparsed")) if share]
    return ", ".join(parts)


def comparison_table(comparisons: Sequence[Comparison], *, title: str = "") -> Table:
    """Paired differences in percentage points; where none can be told, it says so."""
    table = Table(title=escape(title) or None, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("A", "B", "A - B, points", "95 % interval", "p", "over", "finding"):
        table.add_column(name, justify="right" if name in ("A - B, points", "95 % interval", "p") else "left")
    for c in comparisons:
        d = c.difference
        table.add_row(
            escape(c.a),
            escape(c.b),
            f"{100 * d.value:+.1f}",
            f"{100 * d.low:+.1f} to {100 * d.high:+.1f}",
            p_text(c.p),
            c.over,
            finding(c),
        )
    return table


def finding(c: Comparison) -> str:
    """A comparison's outcome in two or three words."""
    return ("A ahead" if c.difference.value > 0 else "B ahead") if c.distinguishable else "not distinguishable"


def p_text(p: float | None) -> str:
    """A p-value with the digits it deserves; empty where there is none."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def calibration_table(methods: Mapping[str, Calibration], *, title: str = "") -> Table:
    """Expected calibration error, Brier score, mean confidence and accuracy of every method with probabilities."""
    table = Table(title=escape(title) or None, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("method")
    for name in ("ECE", "Brier", "confidence", "accuracy", "n"):
        table.add_column(name, justify="right")
    for name, c in methods.items():
        table.add_row(
            escape(name),
            f"{100 * c.ece:.1f}",
            f"{c.brier:.3f}",
            f"{100 * c.confidence:.1f}",
            f"{100 * c.accuracy:.1f}",
            f"{c.n:,}",
        )
    return table
