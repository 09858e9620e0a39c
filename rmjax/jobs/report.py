"""Fills the report's parts from the files that stages left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rmjax import json_file, jsonl
from rmjax.decoding import decode
from rmjax.evaluation.calibration import Calibration, calibration
from rmjax.evaluation.pairwise import ItemScore
from rmjax.evaluation.sections import Grades, Reading, pick
from rmjax.records import Judgment, Preference
from rmjax.refine.levels import Graded
from rmjax.refine.refinement import Refinement
from rmjax.refine.table import Table

SHOWN = ("train/loss", "train/rewards/accuracies", "train/rewards/margins", "train/accuracy")


def curves(folders: Mapping[str, Path]) -> dict[str, list[tuple[float, float]]]:
    """ "stage/metric" -> [(step, value)], from each stage's metrics.jsonl, where it has one."""
    out: dict[str, list[tuple[float, float]]] = {}
    for stage, folder in folders.items():
        path = folder / "metrics.jsonl"
        for _, row in jsonl.lines(path) if path.exists() else ():
            for name in SHOWN:
                if name in row:
                    out.setdefault(f"{stage}/{name.removeprefix('train/')}", []).append((row["step"], row[name]))
    return out


def grades(folder: Path, refinement: Refinement) -> Grades:
    """What refinement made, from a folder's graded.jsonl and table.json."""
    graded = jsonl.read(folder / "graded.jsonl", Graded)
    made = decode(json_file.read(folder / "table.json"), Table, str(folder / "table.json"))
    how = "1 - rank of PPL" if refinement.score == "rank" else f"exp(-PPL / {refinement.tau:g})"
    context = "given the prompt" if refinement.context == "prompt" else "alone"
    threshold = refinement.threshold if isinstance(refinement.threshold, float) else None
    return Grades.of(graded, made, score=f"{how}, reasoning {context}", threshold=threshold)


def readings(path: Path, items: Sequence[Preference], *, title: str) -> list[Reading]:
    """Some right, some wrong and some unparsed judgments of a judgments.jsonl, with their pairs."""
    by_id = {p.id: p for p in items}
    return pick((Reading.of(by_id[j.item], j, title=title) for j in jsonl.read(path, Judgment)), each=3)


def graded_readings(folder: Path, items: Sequence[Preference], *, title: str) -> list[Reading]:
    """One judgment of every level, with its grade."""
    by_id = {p.id: p for p in items}
    first: dict[str, Graded] = {}
    for g in jsonl.read(folder / "graded.jsonl", Graded):
        first.setdefault(g.level, g)
    return [Reading.graded(by_id[g.judgment.item], g, title=title) for g in first.values()]


def calibrated(scores: Sequence[ItemScore]) -> Calibration | None:
    """Calibration over the items with a probability; None where there is none."""
    known = [s.prob_chosen for s in scores if s.prob_chosen is not None]
    return calibration(known) if known else None
