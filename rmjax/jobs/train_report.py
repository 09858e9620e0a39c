"""What a trained reward model is worth: summary.json, the tables, the model card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from rmjax.evaluation.baselines import against, trivial, verdict
from rmjax.evaluation.calibration import calibration
from rmjax.evaluation.length import length_figures
from rmjax.evaluation.pairwise import ItemScore, accuracy, accuracy_by
from rmjax.evaluation.summary import Row, write_summary
from rmjax.evaluation.tables import accuracy_table
from rmjax.jobs import card
from rmjax.jobs.judge import without_nan
from rmjax.jobs.score_tables import calibration_lines, length_table
from rmjax.jobs.workdir import Workdir
from rmjax.records import Preference

console = Console()


def conclude(
    work: Workdir,
    train: Sequence[Preference],
    held: Sequence[Preference],
    scores: Sequence[ItemScore],
    *,
    seed: int,
    run: Mapping[str, Any],
) -> None:
    """Writes summary.json and the export's README.md, and prints the tables."""
    seconds = (work.done("train") or {}).get("seconds", 0.0)
    row = Row.of(accuracy(scores), method="reward model", labels=len(train), seed=seed, seconds=seconds)
    simple = trivial(held, train)
    baselines = {name: accuracy(s) for name, s in simple.items()}
    beside = against(scores, simple, name=row.method, seed=seed)
    sure, lengths = calibration([s.prob_chosen for s in scores], seed=seed), length_figures(held, scores, seed=seed)
    facts = {
        "baselines": {name: dataclasses.asdict(a) for name, a in baselines.items()},
        "against_baselines": [dataclasses.asdict(c) for c in beside],
        "subsets": {name: dataclasses.asdict(a) for name, a in accuracy_by(scores, "subset").items()},
        "calibration": dataclasses.asdict(sure),
        "length": dataclasses.asdict(lengths),
        "testbed": "real data",
    }
    write_summary(work / "summary.json", [row], **without_nan(facts))
    card.write(work / "export", {"this model": row, **baselines}, run=run)
    console.print(accuracy_table([row], baselines, title=f"{len(held):,} held-out pairs"))
    console.print(verdict(beside), soft_wrap=True)
    console.print(length_table({"reward model": lengths}))
    console.print(calibration_lines({"reward model": sure}))
    console.print(f"model: [bold]{work / 'export'}[/]   held out: {work / 'held_out.jsonl'}   {work / 'summary.json'}")
