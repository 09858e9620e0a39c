"""What a study of synthetic pairs found: tables in the terminal, summary.json, report.html with the curves of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from rich.console import Console
from rich.table import Table

from rmjax.evaluation import curves, report
from rmjax.evaluation.curves import Dot, Point
from rmjax.evaluation.figures import INK, MUTED, RIGHT, WRONG, draw
from rmjax.evaluation.pairwise import Comparison, compare_runs, over_runs
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.evaluation.summary import Row, accuracies, groups, write_summary
from rmjax.evaluation.tables import p_text
from rmjax.jobs.workdir import Workdir

console = Console()
REAL, MIXED, OURS = "real", "real + rmboost", "rmboost"
NOISE = "label noise"
COLOURS = {"rmboost": RIGHT, "rlaif": WRONG, "rlcd": MUTED, "west-of-n": INK}
LEAD = (
    "A generated world in which the truth is known: one small model, trained from scratch on faulty demonstrations, "
    "writes answers, edits them in a direction and judges pairs. Its demonstrators' skill decides what methods are "
    "worth here; it says nothing about real data."
)
NOISE_NOTE = (
    "Wrong labels among the pairs whose gold rewards differ; means over seeds with 95 % t intervals. Left: the skill "
    "with which demonstrators follow a direction. Right: the same demonstrators, imitated for longer or shorter, which "
    "makes the model a better writer and judge at once."
)
FAMILY = "p: Student's t over paired seeds, Holm's correction for the {} comparisons of this table; intervals are not."


def conclude(
    work: Workdir,
    study: Any,
    *,
    made: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Writes summary.json, run.json and report.html; prints the tables.

    Args:
        study: the job (`study_rmboost.StudyRmboost`).
        made: lines of made.jsonl; those of the search's seeds are left out.
        rows: lines of rows.jsonl.
        chosen: what the search found, by method.
    """
    main = study.settings[0]
    made = [r for r in made if r["seed"] in study.seeds]
    shown = [row_of(r, main.name) for r in rows]
    families = {
        NOISE: compared_noise(study, made),
        "accuracy": compared_accuracy(study, shown),
        "real labels": compared_mixing(study, shown),
    }
    facts = {
        "testbed": "controlled world",
        "comparisons": {k: [dataclasses.asdict(c) for c in found.values()] for k, found in families.items()},
        "noise": noise_facts(study, made),
        "search": chosen,
    }
    write_summary(work / "summary.json", shown, **facts)
    curve, table, mixing = noise_figure(study, made), cost_table(study, made), mixing_figure(shown)
    panels = [Panel(id="noise", title="Label noise", note=NOISE_NOTE, body=curve)] if curve else []
    note = (
        "Means over seeds; within a setting every method had as many generator calls, the judge's work not among them."
    )
    panels.append(Panel(id="cost", title="What the pairs are and cost", note=note, body=html(table)))
    if mixing:
        note = "Accuracy on held-out gold pairs: real labels alone (grey), and with RMBoost's pairs (blue)."
        panels.append(Panel(id="mixing", title="Real labels with synthetic pairs", note=note, body=mixing))
    for name, found in families.items():
        body = html(differences(name, found))
        panels.append(
            Panel(id=name.replace(" ", "-"), title=f"Compared: {name}", note=FAMILY.format(len(found)), body=body)
        )
    data = ReportData(
        title="Synthetic pairs in the writer world",
        testbed="controlled world",
        lead=f"{LEAD} {len(study.seeds)} seeds, {study.test:,} test pairs.",
        panels=panels,
        rows=shown,
        run=provenance.finish(),
    )
    report.write(work / "report.html", data)
    console.print(table)
    console.print(curves.accuracy_table(groups(shown), {}))
    for name, found in families.items():
        if found:
            console.print(differences(name, found))
            console.print(FAMILY.format(len(found)))
    console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")


def title_of(method: str, setting: str, main: str) -> str:
    """A method's name in the tables: with its setting, unless that is the main one."""
    return method if setting == main else f"{method} ({setting})"


def row_of(line: Mapping[str, Any], main: str) -> Row:
    """A line of rows.jsonl for summary.json."""
    names = ("labels", "seed", "accuracy", "n", "ties", "unparsed", "seconds")
    extra = {k: line[k] for k in ("setting", "trained_on", "rate", "steps", "weight")}
    return Row(
        method=title_of(line["method"], line["setting"], main),
        ci95=tuple(line["ci95"]),
        extra=extra,
        **{k: line[k] for k in names},
    )


def noise_of(made: Sequence[Mapping[str, Any]], setting: str, method: str) -> dict[tuple[int, int], float]:
    """Label noise by run; runs that made no pair with a label to judge are left out."""
    return {
        (0, r["seed"]): r["noise"]
        for r in made
        if (r["setting"], r["method"]) == (setting, method) and r["noise"] is not None
    }


def versus(
    a: Mapping[tuple[int, int], float], b: Mapping[tuple[int, int], float], names: tuple[str, str]
) -> Comparison | None:
    """The comparison over the seeds that both have; None with fewer than two."""
    runs = a.keys() & b.keys()
    if len(runs) < 2:
        return None
    return compare_runs({r: a[r] for r in runs}, {r: b[r] for r in runs}, names=names)


def tested(found: Mapping[Point, Comparison | None]) -> dict[Point, Comparison]:
    """Those that there are, as one family under Holm's correction."""
    return curves.holm({k: c for k, c in found.items() if c is not None})


def compared_noise(study: Any, made: Sequence[Mapping[str, Any]]) -> dict[Point, Comparison]:
    """RMBoost's label noise minus each other method's, in every setting; below 0 is better."""
    found = {}
    for setting in study.settings:
        for method in setting.made:
            if method != OURS and OURS in setting.made:
                names = tuple(title_of(m, setting.name, study.settings[0].name) for m in (OURS, method))
                pair = (noise_of(made, setting.name, m) for m in (OURS, method))
                found[f"{names[0]} - {method}", 0] = versus(*pair, names)
    return tested(found)


def compared_accuracy(study: Any, rows: Sequence[Row]) -> dict[Point, Comparison]:
    """RMBoost's reward models against each other method's, in every setting."""
    found = {}
    for setting in study.settings:
        for method in setting.trained:
            if method != OURS and OURS in setting.trained:
                names = tuple(title_of(m, setting.name, study.settings[0].name) for m in (OURS, method))
                found[f"{names[0]} - {method}", 0] = versus(*(_accuracies(rows, n, 0) for n in names), names)
    return tested(found)


def compared_mixing(study: Any, rows: Sequence[Row]) -> dict[Point, Comparison]:
    """Real labels with RMBoost's pairs, against the same labels alone."""
    found = {}
    for labels in study.labels:
        names = f"{MIXED}, {labels:,} labels", f"{REAL}, {labels:,} labels"
        found[f"{MIXED} - {REAL}", labels] = versus(*(_accuracies(rows, m, labels) for m in (MIXED, REAL)), names)
    return tested(found)


def _accuracies(rows: Sequence[Row], method: str, labels: int) -> dict[tuple[int, int], float]:
    return accuracies([r for r in rows if (r.method, r.labels) == (method, labels)])


def noise_facts(study: Any, made: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For summary.json: noise with its interval, pairs and costs, means over seeds, by setting and method."""
    out = []
    for setting in study.settings:
        for method in setting.made:
            lines = [r for r in made if (r["setting"], r["method"]) == (setting.name, method)]
            values = noise_of(made, setting.name, method)
            mean = lambda of, lines=lines: sum(map(of, lines)) / max(1, len(lines))
            found = over_runs(values)[0] if len(values) > 1 else None
            out.append(
                {
                    "setting": setting.name,
                    "method": method,
                    "skill": setting.skill,
                    "writer_steps": setting.steps or study.sft.steps,
                    "seeds": len(values),
                    "noise": found and found.value,
                    "ci95": found and [max(0.0, found.low), min(1.0, found.high)],
                    "pairs": mean(lambda r: r["pairs"]),
                    "even": mean(lambda r: r["even"]),
                    "unreadable": mean(lambda r: r["unreadable"]),
                    "calls": mean(lambda r: r["spent"]["calls"]),
                    "tokens": mean(lambda r: r["spent"]["read"] + r["spent"]["wrote"]),
                    "judged": mean(lambda r: r["spent"]["judged"]),
                    "scored": mean(lambda r: r["spent"]["scored"]),
                    "sampled": mean(lambda r: r["sampled"]),
                }
            )
    return out


def cost_table(study: Any, made: Sequence[Mapping[str, Any]]) -> Table:
    """Pairs, noise and costs, a row a setting and method."""
    table = Table(box=None, padding=(0, 2, 0, 0), title="Synthetic pairs, means over seeds", title_justify="left")
    for name in ("setting", "method", "pairs", "even", "noise", "95 % interval", "calls", "sampled", "judged"):
        table.add_column(name, justify="left" if name in ("setting", "method") else "right")
    for f in noise_facts(study, made):
        noise = ("", "") if f["noise"] is None else (percent(f["noise"]), " to ".join(map(percent, f["ci95"])))
        counts = (f"{f[k]:,.0f}" for k in ("calls", "sampled", "judged"))
        table.add_row(f["setting"], f["method"], f"{f['pairs']:,.0f}", f"{f['even']:,.0f}", *noise, *counts)
    return table


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f}"


def differences(family: str, found: Mapping[Point, Comparison]) -> Table:
    """A family of comparisons, in points."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"Paired differences: {family}", title_justify="left")
    for name in ("A - B", "labels", "points", "95 % interval", "Holm's p", "A"):
        table.add_column(name, justify="left" if name.startswith("A") else "right")
    less, more = ("less noise", "more noise") if family == NOISE else ("behind", "ahead")
    for (name, labels), c in found.items():
        d = c.difference
        interval = f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"
        word = (more if d.value > 0 else less) if c.distinguishable else "not distinguishable"
        table.add_row(name, f"{labels:,}" if labels else "", f"{100 * d.value:+.1f}", interval, p_text(c.p), word)
    return table


def html(table: Table) -> Markup:
    """A table of the terminal as HTML; its cells are escaped."""
    cells = [[str(c) for c in column.cells] for column in table.columns]
    tag = lambda name, value: Markup(f"<{name}>{{}}</{name}>").format(value)
    head = Markup("").join(tag("th", column.header) for column in table.columns)
    rows = [Markup("").join(tag("td", v) for v in row) for row in zip(*cells, strict=True)]
    return Markup("<table><tr>{}</tr>{}</table>").format(head, Markup("").join(tag("tr", row) for row in rows))


def noise_figure(study: Any, made: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Label noise against the demonstrators' skill and against how long they were imitated; None without intervals."""
    main = study.settings[0]
    steps = lambda s: s.steps or study.sft.steps
    sweeps = {
        "skill of demonstrators": [
            (s.skill, s.name) for s in study.settings if (s.faults, steps(s)) == (main.faults, steps(main))
        ],
        "updates of the writer": [
            (steps(s), s.name) for s in study.settings if (s.faults, s.skill) == (main.faults, main.skill)
        ],
    }
    lines: dict[str, dict[str, list[Dot]]] = {}
    for title, places in sweeps.items():
        for method in COLOURS:
            for x, name in sorted(places):
                values = noise_of(made, name, method)
                if len(values) > 1:
                    i = over_runs(values)[0]
                    lines.setdefault(title, {}).setdefault(method, []).append(Dot(x, i.value, i.low, i.high))
    if not lines:
        return None

    def paint(fig: Figure) -> None:
        for ax, (title, by_method) in zip(
            fig.subplots(1, len(lines), sharey=True, squeeze=False)[0], lines.items(), strict=True
        ):
            for method, dots in by_method.items():
                curves.band(ax, dots, COLOURS[method])
                ax.annotate(
                    method, (dots[-1].x, dots[-1].value), (4, 2), textcoords="offset points", color=COLOURS[method]
                )
            ax.set_xlabel(title)
            _percentages(ax)
            ax.margins(x=0.25)
        fig.supylabel("wrong labels, %", fontsize=8.5)

    return draw((6.6, 2.6), paint, "Label noise against the writers' skill")


def mixing_figure(rows: Sequence[Row]) -> Markup | None:
    """Accuracy against real labels, with and without RMBoost's pairs."""
    lines: dict[str, list[Dot]] = {}
    for g in groups([r for r in rows if r.method in (REAL, MIXED)]):
        lines.setdefault(g.method, []).append(Dot(g.labels, g.accuracy, g.low, g.high))
    if not lines:
        return None

    def paint(fig: Figure) -> None:
        ax = fig.subplots()
        for method, dots in lines.items():
            colour, dots = MUTED if method == REAL else RIGHT, sorted(dots)
            curves.band(ax, dots, colour)
            ax.annotate(method, dots[-1][:2], (6, 0), textcoords="offset points", color=colour, va="center")
        places = sorted({dot.x for dots in lines.values() for dot in dots})
        ax.set_xscale("log")
        ax.set_xticks(places, [f"{x:,}" for x in places])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.25)
        _percentages(ax)
        ax.set_xlabel("real labels")
        ax.set_ylabel("accuracy, %")

    return draw((6.6, 2.6), paint, "Accuracy against real labels")


def _percentages(ax: Axes) -> None:
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f}"))
    ax.grid(axis="y")
