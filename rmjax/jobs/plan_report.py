"""What the plan job shows: findings in the terminal, and report.html with each curve, its band and the wish."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmjax.evaluation import ledger, report
from rmjax.evaluation.figures import INK, MUTED, RIGHT, WRONG, draw
from rmjax.evaluation.ledger import Entry, Prices
from rmjax.evaluation.listing import Listing
from rmjax.evaluation.planner import Plan
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.statistics import Interval

NOTE = (
    "Dots are mean accuracies over label draws, their lines 95 % intervals; hollow ones were left out of the fit. The "
    "blue line is the law a - b n^-c that fits them best, the band where 95 % of the laws lie that fit label draws "
    "drawn anew. Right of the last dot it is a forecast: it holds if more labels are of the same kind and the curve "
    "keeps its form. All of it is about these held-out pairs."
)
SPENT = (
    "Labels that several runs read are counted once in the sum, by the content of their file; held-out pairs are "
    "labels as well. What a run cannot know is not known in the sum. “At least”: an attempt was killed or is not over, "
    "and its last seconds and tokens are missing."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """A number of labels that was left out of the fit: what was predicted, and what is."""

    labels: int
    predicted: Interval  # of a mean that is measured there
    law: Interval  # of the law alone
    measured: float

    @property
    def inside(self) -> bool:
        """Whether what is measured lies where a measurement was expected."""
        return self.predicted.low <= self.measured <= self.predicted.high

    @property
    def in_law(self) -> bool:
        """Whether it lies where the law was expected, as if it were measured without noise."""
        return self.law.low <= self.measured <= self.law.high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One method of one file."""

    name: str
    of: str  # the file
    plan: Plan
    checks: Sequence[Check]

    def words(self, wish: float, prices: Prices | None, budget: float) -> list[str]:
        """The findings."""
        top, plan = plan_asymptote(self.plan), self.plan
        out = [plan.needed(wish).words] if wish else []
        out.append(plan.step(prices).words)
        if budget:
            out.append(plan.budget(budget, prices.label, prices.currency).words)
        return [*out, top]

    def facts(self, wish: float, prices: Prices | None, budget: float) -> dict[str, Any]:
        """The entry of summary.json."""
        plan, law = self.plan, self.plan.curve
        slope, low, high = plan.slope
        return {
            "file": self.of,
            "method": self.name,
            "labels": plan.points.labels.astype(int).tolist(),
            "accuracy": plan.points.means.tolist(),
            "standard_error": plan.points.errors.tolist(),
            "runs": plan.points.counts.astype(int).tolist(),
            "law": {"a": float(law.a[0]), "b": float(law.b[0]), "c": float(law.c[0])},
            "misfit": plan.misfit,
            "asymptote": dataclasses.asdict(plan.asymptote),
            "rise_per_doubling": {"value": slope, "low": low, "high": high},
            "needed": dataclasses.asdict(plan.needed(wish)) if wish else None,
            "next_doubling": dataclasses.asdict(plan.step(prices)),
            "budget": dataclasses.asdict(plan.budget(budget, prices.label, prices.currency)) if budget else None,
            "left_out": [{**dataclasses.asdict(c), "inside": c.inside, "in_law": c.in_law} for c in self.checks],
        }


def plan_asymptote(plan: Plan) -> str:
    """What the curve tends to, in words; or why that cannot be told."""
    if plan.alike or plan.bent:
        return plan.alike or plan.bent
    top = plan.asymptote
    return f"tends to {100 * top.value:.1f} % ({100 * top.low:.1f} to {100 * top.high:.1f})"


def show(
    console: Console,
    curves: Sequence[Curve],
    entries: Sequence[Entry],
    wish: float,
    prices: Prices | None,
    budget: float,
) -> None:
    """Prints the findings."""
    for c in curves:
        console.print(f"\n[bold]{escape(c.name or 'curve')}[/], {escape(c.of)}")
        for line in c.words(wish, prices, budget):
            console.print(f"  {escape(line)}", highlight=False)
    checks = [(c, check) for c in curves for check in c.checks]
    if checks:
        console.print(check_table(checks))
        inside = sum(check.inside for _, check in checks)
        law = sum(check.in_law for _, check in checks)
        console.print(
            f"{inside} of {len(checks)} accuracies that were left out lie in their 95 % interval, {law} in that of the "
            "law, which leaves out the noise of the measurement"
        )
    if entries:
        console.print(ledger.table(entries, prices))


def check_table(checks: Sequence[tuple[Curve, Check]]) -> Table:
    """Predictions against what was left out."""
    out = Table(title="Left out of the fit", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("method", "file", "labels", "predicted", "95 % interval", "measured", "inside"):
        out.add_column(name, justify="left" if name in ("method", "file") else "right")
    for c, check in checks:
        p = check.predicted
        numbers = f"{100 * p.value:.1f}", f"{100 * p.low:.1f} to {100 * p.high:.1f}", f"{100 * check.measured:.1f}"
        file = Path(c.of).name
        out.add_row(escape(c.name), escape(file), f"{check.labels:,}", *numbers, "yes" if check.inside else "no")
    return out


def write(
    path: Path,
    curves: Sequence[Curve],
    entries: Sequence[Entry],
    wish: float,
    prices: Prices | None,
    budget: float,
    *,
    run: dict[str, Any],
) -> None:
    """report.html: the curves, and what was spent. Raises UserError where it cannot be written."""
    panels = []
    form = Markup('<h3>{}</h3><figure class="wide"><figcaption>{}</figcaption>{}</figure><ul>{}</ul>')
    parts = []
    for c in curves:
        items = Markup("").join(Markup("<li>{}</li>").format(line) for line in c.words(wish, prices, budget))
        title = ", ".join(filter(None, (c.name, Path(c.of).stem)))
        parts.append(form.format(title, f"accuracy against labels, {c.of}", figure(c, wish), items))
    if parts:
        title = "Learning curve" if len(parts) == 1 else "Learning curves"
        panels.append(Panel(id="curves", title=title, note=NOTE, body=Markup("").join(parts)))
    if entries:
        names, *lines = ledger.rows(entries, prices)
        panels.append(Listing(id="spent", title="What was spent", note=SPENT, names=names, lines=lines).panel())
    title = "Learning curves and what more labels would bring" if curves else "What runs spent"
    report.write(path, ReportData(title=title, testbed="plan", panels=panels, run=run))


def figure(c: Curve, wish: float) -> Markup:
    """Points, the law, its band, and the wished accuracy."""
    p, plan = c.plan.points, c.plan
    far = max([p.labels[-1] * 4, *(2 * check.labels for check in c.checks)])
    if wish and (need := plan.needed(wish)).finding == "told":
        far = max(far, min(need.high, 100 * p.labels[-1]))
    x = np.geomspace(p.labels[0], far, 80)
    value, low, high = plan.band(x)

    def paint(fig: Figure) -> None:
        ax = fig.subplots()
        ax.fill_between(x, low, high, color=RIGHT, alpha=0.2, linewidth=0)
        ax.plot(x, value, color=RIGHT, linewidth=1.5)
        ax.axvline(p.labels[-1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        for n, mean, half in zip(p.labels, p.means, p.halves, strict=True):
            ax.plot([n, n], [mean - half, mean + half], color=INK, linewidth=1)
        ax.plot(p.labels, p.means, "o", color=INK, markersize=4)
        for check in c.checks:
            ax.plot(check.labels, check.measured, "o", markerfacecolor="none", color=INK, markersize=5)
        if wish:
            ax.axhline(wish, color=WRONG, linewidth=1.2)
            ax.text(1.0, wish, f"wished {100 * wish:.1f}", transform=ax.get_yaxis_transform(), va="bottom", ha="right")
        ax.set_xscale("log")
        places = [*p.labels, *(check.labels for check in c.checks), far]
        ax.set_xticks(places, [f"{int(n):,}" for n in places], rotation=30)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_locator(MaxNLocator(6))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g}"))
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        ax.set_xlabel("labelled pairs")
        ax.set_ylabel("accuracy, %")

    return draw((4.6, 2.8), paint, "Accuracy against labels with the fitted law and its band")
