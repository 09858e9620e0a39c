"""The terminal's tables of a reward model's scores: sets, lengths, calibration, RewardBench subsets."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from rmjax.evaluation.calibration import Calibration
from rmjax.evaluation.length import LengthFigures
from rmjax.evaluation.pairwise import Accuracy
from rmjax.evaluation.rewardbench import Subsets
from rmjax.evaluation.tables import halves
from rmjax.statistics import Interval


def accuracies_table(groups: Mapping[str, Accuracy], *, title: str) -> Table:
    """Accuracies of groups of items, each with n and interval."""
    table = _table(escape(title), "accuracy", "95 % interval", "n", "halves")
    for name, a in groups.items():
        low, high = a.ci95
        rate = f"{100 * a.accuracy:.1f}"
        table.add_row(escape(name), rate, _range(low, high), f"{a.n:,}", halves(a.ties / a.n, a.unparsed / a.n))
    return table


def length_table(methods: Mapping[str, LengthFigures]) -> Table:
    """How rewards go with the number of characters; "-" where a figure is not defined."""
    table = _table("reward and length", "value", "95 % interval", "n")
    for name, figures in methods.items():
        rows: dict[str, tuple[Interval | None, int]] = {
            "Pearson's r": (figures.pearson, 1),
            "Spearman's rho": (figures.spearman, 1),
            "Pearson's r within prompts": (figures.within, 1),
            "accuracy at balanced lengths": (figures.controlled, 100),
        }
        for title, (value, scale) in rows.items():
            table.add_row(escape(f"{name}: {title}"), *_cells(value, scale))
        for title, a in figures.strata.items():
            rate = f"{100 * a.accuracy:.1f}"
            table.add_row(escape(f"{name}: accuracy, {title}"), rate, _range(*a.ci95), f"{a.n:,}")
    return table


def calibration_lines(methods: Mapping[str, Calibration]) -> Table:
    """ECE and Brier score with their intervals."""
    table = _table("calibration", "ECE, %", "95 % interval", "Brier", "95 % interval", "accuracy", "n")
    for name, c in methods.items():
        table.add_row(
            escape(name),
            f"{100 * c.ece:.1f}",
            _range(*c.ece95),
            f"{c.brier:.4f}",
            f"{c.brier95[0]:.4f} to {c.brier95[1]:.4f}",
            f"{100 * c.accuracy:.1f}",
            f"{c.n:,}",
        )
    return table


def rewardbench_table(found: Subsets) -> Table:
    """The RewardBench subsets that are there, the groups under the benchmark's weights, and what is absent."""
    table = _table(
        "RewardBench subsets, ties count as wrong", "accuracy", "95 % interval", "pairs here", "in the benchmark"
    )
    for name, s in found.subsets.items():
        table.add_row(escape(name), f"{100 * s.accuracy:.1f}", _range(*s.ci95), f"{s.n:,}", f"{s.of:,}")
    table.add_section()
    for name, value in found.groups.items():
        table.add_row(f"{escape(name)}, weighted", *_cells(value, 100), "")
    for name, missing in found.absent.items():
        table.add_row(f"{escape(name)}: none, absent {escape(', '.join(missing))}", "", "", "", "", style="dim")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _cells(value: Interval | None, scale: int) -> tuple[str, str, str]:
    if value is None:
        return "-", "", ""
    digits = 1 if scale == 100 else 2
    low, high = (f"{scale * x:.{digits}f}" for x in (value.low, value.high))
    return f"{scale * value.value:.{digits}f}", f"{low} to {high}", f"{value.n:,}"


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"
