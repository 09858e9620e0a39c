"""What methods on label draws leave, compared with one baseline: summary.json, report.html, tables in the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from rmjax.evaluation import curves
from rmjax.evaluation.listing import Listing
from rmjax.evaluation.pairwise import Accuracy, Comparison, compare_runs
from rmjax.evaluation.sections import ReportData
from rmjax.evaluation.summary import Row, accuracies, groups, write_summary
from rmjax.jobs.workdir import Workdir

console = Console()
BASELINE = "Bradley-Terry"


def conclude(
    work: Workdir,
    rows: Sequence[Row],
    *,
    title: str,
    testbed: str,
    lead: str,
    baselines: Mapping[str, Accuracy],
    run: Mapping[str, Any],
    facts: Mapping[str, Any],
    listings: Sequence[Listing] = (),
    remarks: Sequence[str] = (),
) -> None:
    """Writes summary.json and report.html; prints accuracies and every method's paired differences to the baseline.

    Args:
        rows: of `BASELINE` and of the methods, at every number of labels over the same runs.
        lead: what was done, in a sentence or two.
        baselines: the trivial ones.
        facts: further entries of summary.json.
        listings: tables that the page and the terminal show as well.
        remarks: lines that the terminal shows below.
    """
    found = curves.holm(compared(rows))
    common = {
        "testbed": testbed,
        "comparisons": [dataclasses.asdict(c) for c in found.values()],
        "p": f"Student's t over paired runs, Holm's correction for {len(found)} comparisons",
        "baselines": {name: dataclasses.asdict(a) for name, a in baselines.items()},
    }
    write_summary(work / "summary.json", rows, **common, **facts)
    data = ReportData(
        title=title,
        testbed=testbed,
        lead=lead,
        rows=rows,
        baselines=baselines,
        comparisons=list(found.values()),
        run=run,
        panels=tuple(listing.panel() for listing in listings),
    )
    curves.write(work / "report.html", data, baseline=BASELINE)
    shown = groups(rows)
    console.print(f"\n[bold]{escape(testbed)}[/], {rows[0].n:,} held-out pairs; over {curves.spans(shown)}")
    console.print(curves.accuracy_table(shown, baselines))
    if found:
        console.print(f"\n[bold]Minus {BASELINE}, paired over the same runs[/]")
        console.print(curves.comparison_table(found))
        console.print(curves.CORRECTED.format(len(found)))
    for listing in listings:
        console.print(f"\n[bold]{escape(listing.title)}[/]")
        console.print(listing.table())
        if listing.note:
            console.print(escape(listing.note))
    for remark in remarks:
        console.print(escape(remark))
    console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")


def compared(rows: Sequence[Row]) -> dict[curves.Point, Comparison]:
    """Every method against the baseline at each number of labels, over the same runs."""
    of = lambda method, labels: accuracies([r for r in rows if (r.method, r.labels) == (method, labels)])
    methods = dict.fromkeys(r.method for r in rows if r.method != BASELINE)
    counts = sorted({r.labels for r in rows})
    return {
        (m, n): compare_runs(of(m, n), of(BASELINE, n), names=(f"{m}, {n:,} labels", f"{BASELINE}, {n:,} labels"))
        for m in methods
        for n in counts
    }
