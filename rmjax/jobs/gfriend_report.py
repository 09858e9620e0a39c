"""What the main job shows at its end: the table in the terminal, summary.json, report.html."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from rmjax import jsonl
from rmjax.evaluation import report
from rmjax.evaluation.baselines import against, trivial, verdict
from rmjax.evaluation.pairwise import ItemScore, accuracy, accuracy_by, compare
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.sections import Cost, ReportData
from rmjax.evaluation.summary import Row, write_summary
from rmjax.evaluation.tables import accuracy_table, comparison_table
from rmjax.jobs import report as parts
from rmjax.jobs.workdir import Workdir
from rmjax.methods.gfriend import Gfriend
from rmjax.records import Preference

console = Console()


def conclude(
    work: Workdir,
    train: Sequence[Preference],
    held: Sequence[Preference],
    *,
    method: Gfriend,
    seed: int,
    provenance: Provenance,
    contract: Mapping[str, Any],
) -> None:
    """Writes summary.json, run.json and report.html of a finished run and prints its table."""
    done = work.done("evaluate")["rows"]
    scores = {name: jsonl.read(work / "evaluate" / f"{r['slug']}.scores.jsonl", ItemScore) for name, r in done.items()}
    trained = sum(c.seconds for c in costs(work, len(train), method.rounds) if c.stage != "evaluate")
    rows = [
        Row.of(
            accuracy(found),
            method=name,
            labels=0 if done[name]["slug"] == "first" else len(train),
            seed=seed,
            seconds=0.0 if done[name]["slug"] == "first" else trained,
        )
        for name, found in scores.items()
    ]
    (first, before), (last, after) = scores.items()
    found = [compare(after, before, names=(last, first), seed=seed)]
    simple = trivial(held, train)
    baselines = {name: accuracy(s) for name, s in simple.items()}
    beside = against(after, simple, name=last, seed=seed)
    rounds = range(1, method.rounds + 1)
    folders = {f"M-DPO, round {n}": work / f"mdpo-{n}" for n in rounds}
    grades = {f"round {n}": parts.grades(work / f"refine-{n}", method.refinement) for n in rounds}
    readings = parts.readings(work / "evaluate" / "gfriend.judgments.jsonl", held, title="held-out pair")
    readings += parts.graded_readings(work / "refine-1", train, title="graded for training")
    calibration = {name: c for name, s in scores.items() if (c := parts.calibrated(s)) is not None}
    facts = {
        "baselines": {name: dataclasses.asdict(a) for name, a in baselines.items()},
        "against_baselines": [dataclasses.asdict(c) for c in beside],
        "comparisons": [dataclasses.asdict(c) for c in found],
        "testbed": "real data",
    }
    write_summary(work / "summary.json", rows, **facts)
    data = ReportData(
        title="GFRIEND: a generative reward model",
        testbed="real data",
        lead=f"{len(train):,} labelled pairs trained on, {len(held):,} pairs held out.",
        rows=rows,
        baselines=baselines,
        comparisons=[*found, *beside],
        subsets={name: accuracy_by(s, "subset") for name, s in scores.items()},
        curves=parts.curves({"SFT": work / "sft", **folders}),
        grades=grades,
        calibration=calibration,
        readings=readings,
        costs=costs(work, len(train), method.rounds),
        run=provenance.finish(contract=dict(contract)),
    )
    report.write(work / "report.html", data)
    console.print(accuracy_table(rows, baselines, title=f"{len(held):,} held-out pairs"))
    console.print(verdict(beside), soft_wrap=True)
    console.print(comparison_table(found))
    console.print(
        f"report: [bold]{work / 'report.html'}[/]   model: {work / 'export'}   numbers: {work / 'summary.json'}"
    )


def costs(work: Workdir, labels: int, rounds: int) -> list[Cost]:
    """What each stage took, in the order of the run."""
    stages = ["sft", *(f"{s}-{n}" for n in range(1, rounds + 1) for s in ("sample", "refine", "mdpo")), "evaluate"]
    done = {stage: work.done(stage) or {} for stage in stages}
    return [
        Cost(
            stage=stage,
            seconds=d.get("seconds", 0.0),
            tokens=d.get("tokens"),
            labels=labels if stage.startswith("sample") else None,
        )
        for stage, d in done.items()
    ]
