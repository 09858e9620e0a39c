"""What the proxy study found: summary.json, report.html and tables; means over seeds, paired differences.

Holm's correction is over the comparisons of one question: is the proxy ahead of the direct way, is a selection ahead of
random, is either way ahead of the seed policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.console import Console

from rmjax import json_file
from rmjax.evaluation import report
from rmjax.evaluation.curves import Dot, band, holm
from rmjax.evaluation.figures import MUTED, RIGHT, draw
from rmjax.evaluation.listing import Listing
from rmjax.evaluation.pairwise import Comparison, compare_runs
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.evaluation.tables import p_text
from rmjax.jobs.workdir import Workdir
from rmjax.statistics import t_interval

console = Console()
Key = tuple[str, str, int]  # way, selection, budget
SEED_POLICY, DIRECT, PROXY, GOLD = "seed policy", "direct", "proxy", "all gold"
COLOURS = {DIRECT: MUTED, PROXY: RIGHT}
MEASURES = ("sampled", "sampled_best", "sampled_zero", "greedy", "greedy_best")
FACTS = ("proxy_accuracy", "given_accuracy", "bought", "given")
LEAD = (
    "A generated world in which the truth is known: a small policy, trained from scratch on answers of middling worth, "
    "and a budget of labels from an expert who knows the gold reward. It says nothing about real data."
)
CURVE = (
    "Mean gold reward of sampled answers to test questions, {} the best. Each panel is one selection: the budget spent "
    "directly (grey) and through a proxy that labels more prompts (blue), with 95 % intervals over {} seeds; dashed "
    "below the seed policy, above DPO on the gold labels of all prompts. Overlapping bands decide nothing: the paired "
    "differences below do."
)
MEANS = (
    "Given: labels by the proxy. Right: of pairs for sale that nobody bought, those that it orders as gold does. Of "
    "sampled answers, gold: the mean reward with its 95 % interval; best: the share of the highest reward; zero: of "
    "none. Greedy: the mean reward of greedy answers."
)
FAMILY = (
    "Gold of sampled answers, paired by seed, with 95 % t intervals, which are not corrected; p of Student's t with "
    "Holm's correction for the {} comparisons of this table."
)


def conclude(
    work: Workdir, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], provenance: Provenance
) -> None:
    """Writes summary.json, run.json and report.html; prints means and comparisons."""
    of = by_key(rows)
    means = [mean_row(key, found) for key, found in of.items()]
    compared = comparisons(of)
    summary = {
        "rows": means,
        "comparisons": {
            question: [{**dataclasses.asdict(c), "finding": finding(c)} for c in found.values()]
            for question, found in compared.items()
        },
        **facts,
    }
    json_file.write(work / "summary.json", summary)
    listings = [mean_listing(means), *(comparison_listing(question, found) for question, found in compared.items())]
    note = CURVE.format(f"{facts['best']:g}", means[0]["seeds"])
    curve = Panel(id="gold", title="Gold reward against labels bought", note=note, body=figure(means))
    data = ReportData(
        title="A budget of labels, spent directly and through a proxy",
        testbed=facts["testbed"],
        lead=LEAD,
        panels=[curve, *(x.panel() for x in listings)],
        run=provenance.finish(),
    )
    report.write(work / "report.html", data)
    for x in listings:
        console.print(f"\n[bold]{x.title}[/]")
        console.print(x.table())
    console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")


def by_key(rows: Sequence[Mapping[str, Any]]) -> dict[Key, list[Mapping[str, Any]]]:
    """The runs of every row of the table, in order of first appearance."""
    out: dict[Key, list[Mapping[str, Any]]] = {}
    for r in rows:
        out.setdefault((r["way"], r["selection"], r["budget"]), []).append(r)
    return out


def mean_row(key: Key, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds with 95 % t intervals; counts and accuracies where the way has them."""
    out: dict[str, Any] = dict(zip(("way", "selection", "budget"), key, strict=True)) | {"seeds": len(found)}
    for name in (*MEASURES, *FACTS):
        if all(r.get(name) is not None for r in found):
            out[name] = dataclasses.asdict(t_interval([r[name] for r in found]))
    return out


def comparisons(of: Mapping[Key, Sequence[Mapping[str, Any]]]) -> dict[str, dict[Key, Comparison]]:
    """Question -> differences of sampled gold, paired by seed; p by Holm over the question's comparisons."""
    spent = [key for key in of if key[0] in (DIRECT, PROXY)]
    questions = {
        "proxy - direct": [(key, (DIRECT, *key[1:])) for key in spent if key[0] == PROXY],
        "selection - random": [(key, (key[0], "random", key[2])) for key in spent if key[1] != "random"],
        "random - seed policy": [(key, (SEED_POLICY, "", 0)) for key in spent if key[1] == "random"],
    }
    return {name: _compared(of, pairs) for name, pairs in questions.items() if pairs}


def _compared(of: Mapping[Key, Sequence[Mapping[str, Any]]], pairs: Sequence[tuple[Key, Key]]) -> dict[Key, Comparison]:
    values = {key: {(0, r["seed"]): r["sampled"] for r in rows} for key, rows in of.items()}
    return holm({a: compare_runs(values[a], values[b], names=(label(a), label(b))) for a, b in pairs})


def label(key: Key) -> str:
    """A row's name."""
    way, selection, budget = key
    return f"{way}, {selection}, {budget} labels" if selection else way


def finding(c: Comparison) -> str:
    """In a word or two."""
    return ("ahead" if c.difference.value > 0 else "behind") if c.distinguishable else "not distinguishable"


def mean_listing(means: Sequence[Mapping[str, Any]]) -> Listing:
    """Every way, selection and budget: what the proxy gave, and what the policy is worth."""
    lines = []
    for r in means:
        mean = {name: r[name]["value"] for name in (*MEASURES, *FACTS) if name in r}
        name, labels = (f"{r['way']}, {r['selection']}", f"{r['budget']}") if r["selection"] else (r["way"], "")
        given = f"{mean['given']:,.0f}" if mean.get("given") else ""
        right = f"{100 * mean['proxy_accuracy']:.0f} %" if "proxy_accuracy" in mean else ""
        gold = f"{mean['sampled']:.1f} ± {(r['sampled']['high'] - r['sampled']['low']) / 2:.1f}"
        shares = [f"{100 * mean[share]:.0f} %" for share in ("sampled_best", "sampled_zero")]
        lines.append((name, labels, given, right, gold, *shares, f"{mean['greedy']:.1f}"))
    names = ("", "labels", "given", "right", "gold", "best", "zero", "greedy")
    return Listing(id="means", title="Means over seeds", names=names, lines=lines, note=MEANS)


def comparison_listing(question: str, found: Mapping[Key, Comparison]) -> Listing:
    """The paired differences under one question."""
    lines = []
    for (way, selection, budget), c in found.items():
        d = c.difference
        gold = f"{d.value:+.2f} ± {(d.high - d.low) / 2:.2f}"
        lines.append((f"{way}, {selection}", f"{budget}", gold, p_text(c.p), finding(c)))
    names = ("", "labels", "gold", "Holm's p", "finding")
    note = FAMILY.format(len(found))
    return Listing(id=question.replace(" ", "-"), title=f"Compared: {question}", names=names, lines=lines, note=note)


def figure(means: Sequence[Mapping[str, Any]]) -> Markup:
    """Gold reward by labels bought: a panel a selection, a line a way, the two that buy nothing dashed."""
    lines: dict[str, dict[str, list[Dot]]] = {}
    for r in means:
        if r["selection"]:
            dot = Dot(r["budget"], *(r["sampled"][k] for k in ("value", "low", "high")))
            lines.setdefault(r["selection"], {}).setdefault(r["way"], []).append(dot)
    levels = [r["sampled"]["value"] for r in means if not r["selection"]]
    columns = min(3, len(lines))
    height = -(-len(lines) // columns)

    def paint(fig: Figure) -> None:
        panels = fig.subplots(height, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax, (selection, ways) in zip(panels, lines.items(), strict=False):
            for level in levels:
                ax.axhline(level, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            for way, dots in ways.items():
                band(ax, sorted(dots), COLOURS[way])
            places = sorted({dot.x for dots in ways.values() for dot in dots})
            ax.set_title(selection, fontsize=8.5, loc="left")
            ax.set_xscale("log")
            ax.set_xticks(places, [f"{x:,}" for x in places])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.tick_params(labelbottom=True)  # below the last panel of a row that is not full as well
            ax.grid(axis="y")
            ax.set_axisbelow(True)
        for ax in panels[len(lines) :]:
            ax.set_visible(False)
        fig.supxlabel("labels bought", fontsize=8.5)
        fig.supylabel("gold reward", fontsize=8.5)

    return draw((2.5 * columns, 1.9 * height + 0.3), paint, "Gold reward against labels bought, by way and selection")
