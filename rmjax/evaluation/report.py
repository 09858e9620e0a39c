"""report.html: one self-contained page of a run's results. No script, no network; text of models is shown as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from rmjax import jsonl
from rmjax.evaluation import figures
from rmjax.evaluation.sections import Grades, Reading, ReportData
from rmjax.evaluation.summary import Group, groups
from rmjax.evaluation.tables import halves, p_text

FOLDER = Path(__file__).parent
FIRST_METRICS = ("loss", "accuracy", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")


def write(path: Path, data: ReportData) -> None:
    """Renders the page and writes it whole. Raises UserError where it cannot be written."""
    save(path, render(data))


def save(path: Path, page: str) -> None:
    """Writes a page whole. Raises UserError where it cannot be written."""
    with jsonl.writing(path), jsonl.replacing(path) as file:
        file.write(page.encode("utf-8", "xmlcharrefreplace"))  # a model may emit lone surrogates


def render(data: ReportData) -> str:
    """The page as HTML."""
    rows = groups(data.rows)
    shown = [(g.low, g.high) for g in rows] + [b.ci95 for b in data.baselines.values()]
    differences = [(c.difference.low, c.difference.high) for c in data.comparisons]
    named = {"pct": percent, "points": points, "duration": duration, "count": count, "p": p_text, "device": device}
    return template("report.html", **named).render(
        data=data,
        groups=rows,
        halves=halves,
        below=lambda g: below(g, rows[0].n),
        axis=Axis.around(shown, 0.5),
        zero=Axis.around(differences, 0.0),
        stages=curve_figures(data.curves),
        histograms={name: histogram_figure(g) for name, g in data.grades.items()},
        reliability={name: figures.reliability(c, name) for name, c in data.calibration.items()},
        outcomes=outcomes(data.readings),
        settings=flatten(data.run.get("config", {})),
        missing=missing(data),
    )


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """A template of this folder with these filters: text is escaped, and a name that is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)


@dataclasses.dataclass(frozen=True)
class Axis:
    """A horizontal axis inside a table column; positions are percentages of its width."""

    low: float
    high: float
    ticks: tuple[float, ...]
    reference: float  # a line that is always on the axis: chance, or no difference

    @classmethod
    def around(cls, intervals: Sequence[tuple[float, float]], reference: float) -> Axis:
        """An axis with round ticks that holds every interval and the reference."""
        ends = [reference, *(x for pair in intervals for x in pair)]
        low, high = min(ends), max(ends)
        step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if s == 0.5 or (high - low) / s <= 6)
        first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
        last = max(last, first + 1)
        return cls(first * step, last * step, tuple(i * step for i in range(first, last + 1)), reference)

    def at(self, value: float) -> str:
        """CSS: where a value is."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def width(self, low: float, high: float) -> str:
        """CSS: how wide an interval is."""
        return f"{100 * (high - low) / (self.high - self.low):.2f}%"


def curve_figures(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Per stage: its figures, those to look at first apart from the rest."""
    stages = []
    for stage, metrics in figures.curves_by_stage({k: v for k, v in curves.items() if len(v)}).items():
        drawn = {}
        for metric, points_ in metrics:
            svg, left_out = figures.curve(points_, f"{stage} {metric} by step")
            drawn[metric] = {"svg": svg, "last": points_[-1][1], "left_out": left_out}
        names = sorted(drawn, key=lambda m: FIRST_METRICS.index(m) if m in FIRST_METRICS else len(FIRST_METRICS))
        first = names[: max(3, sum(m in FIRST_METRICS for m in names))]
        stages.append(
            {
                "name": stage,
                "first": {m: drawn[m] for m in first},
                "rest": {m: drawn[m] for m in names if m not in first},
            }
        )
    return stages


def histogram_figure(g: Grades) -> Markup | None:
    """The histogram of a round's scores, or None where it has none."""
    if not len(g.right) + len(g.wrong):
        return None
    label = f"Histogram of {g.score} for right and wrong judgments"
    return figures.histogram(g.right, g.wrong, threshold=g.threshold, label=label)


def outcomes(readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    """Readings by outcome: wrong ones first, because they teach more."""
    found = {name: [r for r in readings if r.outcome == name] for name in ("wrong", "right", "tie", "unparsed")}
    return {name: group for name, group in found.items() if group}


def flatten(value: Any, at: str = "") -> dict[str, str]:
    """A JSON tree as dotted field -> text, as the command line writes them; class paths are left out."""
    if isinstance(value, Mapping):
        return {
            k: v
            for key, inner in value.items()
            if key != "class"
            for k, v in flatten(inner, f"{at}.{key}" if at else str(key)).items()
        }
    return {at: ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)}


def missing(data: ReportData) -> list[str]:
    """The sections that are left out."""
    parts = {
        "accuracy": data.rows,
        "trivial baselines": data.baselines,
        "paired comparisons": data.comparisons,
        "training curves": data.curves,
        "grades and levels": data.grades,
        "calibration": data.calibration,
        "judgments to read": data.readings,
        "cost": data.costs,
        "command and settings": data.run,
    }
    return [name for name, part in parts.items() if not part]


def below(g: Group, usual: int) -> list[str]:
    """What stands in small type below a method's name: its runs, an unusual number of items, ties, unparsed."""
    runs = f"{len(g.values)} runs: {g.over}" if len(g.values) > 1 else ""
    items = f"{g.n:,} items" if g.n != usual else ""
    return [line for line in (runs, items, halves(g.ties, g.unparsed)) if line]


def device(d: Mapping[str, Any]) -> str:
    """The device entry of run.json in words."""
    return f"CPU, {d['cores']} cores" if d["platform"] == "cpu" else f"{d['count']} × {d['kind']}"


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage without its sign."""
    return f"{100 * value:.{digits}f}"


def points(value: float) -> str:
    """A difference in percentage points, with a true minus."""
    return f"{100 * value:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(value: float | None) -> str:
    """A number with thousands separated; empty where unknown."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
