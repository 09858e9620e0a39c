"""report.html of a study in the judge world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmjax import jsonl
from rmjax.evaluation import report
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import Comparison, ItemScore, accuracy
from rmjax.evaluation.sections import Cost, ReportData
from rmjax.evaluation.summary import Row
from rmjax.jobs import report as parts
from rmjax.jobs.entries import Entry
from rmjax.jobs.workdir import Workdir
from rmjax.methods.gfriend import Gfriend
from rmjax.records import Preference

LEAD = (
    "A generated world in which the truth is known: questions with two answers, a small judge trained from scratch on "
    "faulty demonstrations, and methods that correct it with a few labelled pairs. It says how methods compare here, "
    "and nothing about real data."
)


def write(
    work: Workdir,
    *,
    entries: Sequence[Entry],
    test: Sequence[Preference],
    train: Sequence[Preference],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    run: Mapping[str, Any],
    folders: Mapping[str, str],
) -> None:
    """Writes workdir/report.html.

    Args:
      train: labelled pairs of the first draw, the most that any entry got.
      folders: entry key -> the folder under runs/ of its first run, where runs were kept.
    """
    stages = {"SFT": next(iter(sorted(work.path.glob("sft-*"))))}
    grades, calibration, readings = {}, {}, []
    for entry in entries:
        if entry.key not in folders:
            continue
        folder = work / "runs" / folders[entry.key]
        inner = [folder / f"round-{n}" for n in range(1, getattr(entry.method, "rounds", 0) + 1)] or [folder]
        stages |= {f"{entry.key}{f', round {n}' if len(inner) > 1 else ''}": f for n, f in enumerate(inner, 1)}
        found = parts.calibrated(jsonl.read(folder / "scores.jsonl", ItemScore))
        if found is not None:
            calibration[entry.key] = found
        if isinstance(entry.method, Gfriend) and entry.method.refinement.weights != "off":
            for n, place in enumerate(inner, 1):
                grades[f"{entry.name}, round {n}"] = parts.grades(place, entry.method.refinement)
            readings += parts.readings(folder / "judgments.jsonl", test, title=f"{entry.name}, held-out item")
            readings += parts.graded_readings(inner[0], train, title=f"{entry.name}, graded for training")
    done = work.done(stages["SFT"].name) or {}
    costs = [Cost(stage="SFT", seconds=done.get("seconds", 0.0), tokens=done.get("tokens"))]
    costs += [
        Cost(stage=r.method, seconds=r.seconds, labels=r.labels)
        for r in rows
        if r.seed == rows[0].seed and r.draw == rows[0].draw
    ]
    data = ReportData(
        title="GFRIEND in a controlled world",
        testbed="controlled world",
        lead=LEAD,
        rows=rows,
        baselines={name: accuracy(scores) for name, scores in trivial(test, train).items()},
        comparisons=comparisons,
        curves=parts.curves(stages),
        grades=grades,
        calibration=calibration,
        readings=readings,
        costs=costs,
        run=run,
    )
    report.write(work / "report.html", data)
