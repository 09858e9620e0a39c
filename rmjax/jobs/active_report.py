"""What a study of selection leaves: curves, labels saved against random, paired tests; report.html, summary.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmjax.evaluation import curves, labels_saved, report
from rmjax.evaluation.labels_saved import Saved
from rmjax.evaluation.listing import Listing
from rmjax.evaluation.pairwise import Accuracy, Comparison, compare_runs, points
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.rounds import grid, grid_table
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.evaluation.summary import Row, groups, write_summary
from rmjax.evaluation.tables import p_text
from rmjax.jobs.workdir import Workdir
from rmjax.statistics import Interval

console = Console()
BASELINE = "random"
MARKS = 5  # numbers of labels that tables show and axes mark
NOTE = (
    "Each panel is one strategy (blue) and random (grey) over the same runs, which begin with the same labels; the "
    "bands are 95 % intervals of the mean over runs. {} Whether a strategy differs from random is said by the tests "
    "below, not by bands."
)
SAVED = (
    "Labels saved are how many fewer labels than random a strategy needs for the same accuracy (below 0: more), on "
    "mean curves made monotone, averaged over all accuracies that both reach and at the highest of them; intervals "
    "resample runs. The area is the accuracy averaged over the numbers of labels, minus random's, paired over runs; p "
    "is Student's t with Holm's correction for all {} strategies. A strategy is ahead or behind only where p is below "
    "0.05."
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One strategy against random."""

    saved: Saved
    area: Comparison  # p is Holm's


def marks(counts: Sequence[int]) -> list[int]:
    """A few of the numbers of labels, the first and the last among them."""
    place = np.linspace(0, len(counts) - 1, min(MARKS, len(counts))).round().astype(int)
    return [counts[i] for i in place]


def conclude(
    work: Workdir,
    provenance: Provenance,
    lines: Sequence[Mapping[str, Any]],
    counts: Sequence[int],
    *,
    order: Sequence[str],
    seed: int,
    testbed: str,
    covers: str,
    over: str,
    lead: str,
    baselines: Mapping[str, Accuracy],
    facts: Mapping[str, Any],
) -> None:
    """Writes summary.json, run.json and report.html; prints the tables.

    Args:
        lines: of rows.jsonl: a strategy, a run, and its accuracies and ties at every number of labels.
        counts: numbers of labels.
        order: of strategies, random first.
        covers: what the intervals generalise over and what not, a sentence.
        over: the runs, counted in words.
        facts: further entries of run.json.
    """
    rows = rows_of(lines, counts, order, seed)
    table = {name: runs_of(lines, name) for name in order}
    found = findings(table, counts)
    write_summary(
        work / "summary.json",
        rows,
        testbed=testbed,
        against_random={name: dataclasses.asdict(f) for name, f in found.items()},
        p=f"Student's t over paired runs, Holm's correction for {len(found)} comparisons",
        baselines={name: dataclasses.asdict(a) for name, a in baselines.items()},
    )
    run = provenance.finish(**facts)
    shown = groups(rows)
    dots: dict[str, list[curves.Dot]] = {}
    for g in shown:
        dots.setdefault(g.method, []).append(curves.Dot(g.labels, g.accuracy, g.low, g.high))
    few = marks(counts)
    body = curves.figure(
        dots, baseline=BASELINE, across="labels bought", label="Accuracy against labels bought, by strategy", ticks=few
    )
    marked = {name: [d for d in line if d.x in few] for name, line in dots.items()}
    body += grid(marked, across="labels")
    note = SAVED.format(len(found))
    panels = [Panel(id="curves", title="Accuracy against labels bought", note=NOTE.format(covers), body=body)]
    if found:
        title, lines = "Labels saved against random", [(name, *cells(f)) for name, f in found.items()]
        panels.append(Listing(id="saved", title=title, note=note, names=HEAD, lines=lines).panel())
    data = ReportData(
        title="Which labels to buy",
        testbed=testbed,
        lead=lead,
        panels=panels,
        rows=[r for r in rows if r.labels == counts[-1]],
        baselines=baselines,
        comparisons=[f.area for f in found.values()],
        run=run,
    )
    report.write(work / "report.html", data)
    console.print(f"\n[bold]{escape(testbed)}[/], {shown[0].n:,} held-out pairs; over {over}")
    console.print(accuracy_table(marked, baselines))
    if found:
        console.print("\n[bold]Against random[/], over the same runs")
        console.print(saved_table(found))
        console.print(note)
    console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")


def rows_of(lines: Sequence[Mapping[str, Any]], counts: Sequence[int], order: Sequence[str], seed: int) -> list[Row]:
    """A row for each strategy, number of labels and run, in this order."""
    out = []
    for name in order:
        runs = [x for x in lines if x["strategy"] == name]
        for i, labels in enumerate(counts):
            for x in runs:
                result = Accuracy.of(x["accuracy"][i], x["n"], x["ties"][i])
                spent = x["seconds"] / len(counts)
                out.append(Row.of(result, method=name, labels=labels, seed=seed, draw=x["run"], seconds=spent))
    return out


def runs_of(lines: Sequence[Mapping[str, Any]], name: str) -> dict[int, list[float]]:
    """Run -> accuracies of a strategy, by run."""
    return dict(sorted((x["run"], x["accuracy"]) for x in lines if x["strategy"] == name))


def findings(table: Mapping[str, Mapping[int, Sequence[float]]], counts: Sequence[int]) -> dict[str, Finding]:
    """Every strategy against random over the same runs, the p-values corrected for all of them."""
    of = lambda name: np.array(list(table[name].values()))
    area = lambda name: {(i, 0): a for i, a in zip(table[name], labels_saved.area(of(name), counts), strict=True)}
    others = [name for name in table if name != BASELINE]
    compared = {
        (name, counts[-1]): compare_runs(area(name), area(BASELINE), names=(f"{name}, area", f"{BASELINE}, area"))
        for name in others
    }
    held = curves.holm(compared)
    return {
        name: Finding(labels_saved.saved(of(name), of(BASELINE), counts), held[name, counts[-1]]) for name in others
    }


def word(f: Finding) -> str:
    """ahead, behind or not distinguishable."""
    if not f.area.distinguishable:
        return "not distinguishable"
    return "ahead" if f.area.difference.value > 0 else "behind"


def span(d: Interval) -> str:
    """Labels with their interval."""
    return f"{d.value:+.0f} [{d.low:+.0f}, {d.high:+.0f}]"


def cells(f: Finding) -> tuple[str, ...]:
    """What the tables show of a finding."""
    return span(f.saved.on_average), span(f.saved.at_end), points(f.area.difference), p_text(f.area.p), word(f)


HEAD = ("strategy", "saved on average", "saved at the end", "area", "Holm's p", "finding")


def saved_table(found: Mapping[str, Finding]) -> Table:
    """The findings for the terminal: the area in points, without its interval, and the finding in a word."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("strategy", "saved, average", "saved, end", "area", "p", "finding"):
        table.add_column(name, justify="left" if name in ("strategy", "finding") else "right", no_wrap=True)
    for name, f in found.items():
        average, end, _, p, finding = cells(f)
        finding = finding if f.area.distinguishable else "undecided"
        table.add_row(escape(name), escape(average), escape(end), f"{100 * f.area.difference.value:+.1f}", p, finding)
    return table


def accuracy_table(marked: Mapping[str, Sequence[curves.Dot]], baselines: Mapping[str, Accuracy]) -> Table:
    """Mean accuracies with half their intervals at a few numbers of labels, the trivial baselines below the last."""
    table = grid_table(marked, across="labels")
    for name, a in baselines.items():
        table.add_row(escape(name), *[""] * (len(table.columns) - 2), f"{100 * a.accuracy:.1f}", style="dim")
    return table
