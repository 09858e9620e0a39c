"""What a fitted head is worth: summary.json, report.html, the model card, the tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from rmjax import jsonl
from rmjax.evaluation import report
from rmjax.evaluation.baselines import against, trivial, verdict
from rmjax.evaluation.calibration import calibration
from rmjax.evaluation.length import length_figures
from rmjax.evaluation.pairwise import ItemScore, accuracy, accuracy_by, compare
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.evaluation.summary import Row, write_summary
from rmjax.evaluation.tables import accuracy_table
from rmjax.jobs import card, prototype_panel
from rmjax.jobs.head_features import FeaturedPairs
from rmjax.jobs.judge import without_nan
from rmjax.jobs.score_tables import calibration_lines, length_table
from rmjax.jobs.workdir import Workdir
from rmjax.models import head_file, hf
from rmjax.models.heads import Prototypes

console = Console()
LINEAR = "its nearest linear head, for transformers"


def conclude(
    work: Workdir,
    train: FeaturedPairs,
    held: FeaturedPairs,
    *,
    title: str,
    base: str,
    file: str,
    run: Mapping[str, Any],
    seed: int,
) -> None:
    """Writes summary.json, report.html and the export's README.md, and prints the tables.

    Args:
        title: the method.
        base: the trunk's name.
        file: of the training pairs.
        run: run.json.
    """
    fit, export = work.done("fit") or {}, work / "export"
    scores = jsonl.read(work / "evaluate" / "scores.jsonl", ItemScore)
    more = {"setting": fit["setting"], "settings_tried": fit["settings_tried"], "held_loss": fit["held_loss"]}
    row = Row.of(accuracy(scores), method=title, labels=len(train.items), seed=seed, seconds=fit["seconds"], **more)
    rows, comparisons, gap = [row], [], None
    if hf.has_exact_head(export):
        linear = jsonl.read(work / "evaluate" / "linear_scores.jsonl", ItemScore)
        rows.append(Row.of(accuracy(linear), method=LINEAR, labels=len(train.items), seed=seed, seconds=0.0))
        comparisons.append(compare(linear, scores, names=(LINEAR, title), seed=seed))
        gap = head_file.read(export).nearest
    simple = trivial(held.items, train.items)
    baselines = {name: accuracy(s) for name, s in simple.items()}
    beside = against(scores, simple, name=title, seed=seed)
    sure, lengths = (
        calibration([s.prob_chosen for s in scores], seed=seed),
        length_figures(held.items, scores, seed=seed),
    )
    facts = {
        "baselines": {name: dataclasses.asdict(a) for name, a in baselines.items()},
        "against_baselines": [dataclasses.asdict(c) for c in beside],
        "comparisons": [dataclasses.asdict(c) for c in comparisons],
        "subsets": {name: dataclasses.asdict(a) for name, a in accuracy_by(scores, "subset").items()},
        "calibration": dataclasses.asdict(sure),
        "length": dataclasses.asdict(lengths),
        "testbed": f"pairs of {file}",
        "fit": fit,
        "nearest_linear_head": gap,
    }
    write_summary(work / "summary.json", rows, **without_nan(facts))
    named = {"this model": row, **({LINEAR: rows[1]} if gap else {}), **baselines}
    card.write(export, named, run=run)
    panels: list[Panel] = []
    if gap and isinstance(head_file.read(export).head, Prototypes):
        model = hf.load_model(export)
        tensors = head_file.load(export, model)
        branch = {name.removeprefix("head."): leaf for name, leaf in tensors.items() if name.startswith("head.")}
        panels.append(prototype_panel.panel(model.head, branch, model.pool, train, held, scores))
    data = ReportData(
        title="A head on a frozen model",
        testbed=f"pairs of {file}",
        lead=f"{title} on features of {base}, fitted to {len(train.items):,} labelled pairs of {file}, with the "
        f"setting of least held-out loss of {fit['settings_tried']} ({fit['setting']}). {len(held.items):,} pairs held "
        "out.",
        panels=panels,
        rows=rows,
        baselines=baselines,
        comparisons=[*comparisons, *beside],
        calibration={title: sure},
        run=run,
    )
    report.write(work / "report.html", data)
    console.print(accuracy_table(rows, baselines, title=f"{len(held.items):,} held-out pairs"))
    console.print(verdict(beside), soft_wrap=True)
    for c in comparisons:
        console.print(c.words)
    console.print(length_table({title: lengths}))
    console.print(calibration_lines({title: sure}))
    console.print(
        f"model: [bold]{export}[/]   held out: {work / 'held_out.jsonl'}   report: {work / 'report.html'}   "
        f"{work / 'summary.json'}"
    )
