"""What scores say: summary.json, report.html, RewardBench's files, the tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from rmjax import json_file
from rmjax.evaluation import report, rewardbench
from rmjax.evaluation.baselines import against, trivial, verdict
from rmjax.evaluation.calibration import calibration
from rmjax.evaluation.calibrator import Calibrator
from rmjax.evaluation.length import correlation, length_figures, pearson, spearman
from rmjax.evaluation.pairwise import Accuracy, ItemScore, accuracy, accuracy_by, compare
from rmjax.evaluation.sections import ReportData
from rmjax.evaluation.summary import Row, write_summary
from rmjax.evaluation.tables import accuracy_table, comparison_table
from rmjax.jobs.judge import without_nan
from rmjax.jobs.reward import RewardModel
from rmjax.jobs.score_tables import accuracies_table, calibration_lines, length_table, rewardbench_table
from rmjax.jobs.workdir import Workdir
from rmjax.records import Preference

console = Console()
MANY = 40  # subsets in a table; a file with more has them in summary.json


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResponseScore:
    """One single response; one line of scores.jsonl."""

    id: str
    score: float
    characters: int
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Pairs and their scores, by set."""

    model: str  # its name, owner/name
    labels: int  # that it was trained on; 0: not known
    sets: Mapping[str, Sequence[Preference]]
    scores: Mapping[str, Sequence[ItemScore]]
    calibrator: Calibrator

    @property
    def items(self) -> list[Preference]:
        return [p for group in self.sets.values() for p in group]

    @property
    def all(self) -> list[ItemScore]:
        return [s for group in self.scores.values() for s in group]


def conclude_pairs(
    work: Workdir,
    result: Result,
    reward: RewardModel,
    *,
    other: tuple[str, Sequence[ItemScore]] | None,
    seconds: float,
    seed: int,
    run: Mapping[str, Any],
) -> None:
    """Writes and prints all figures.

    Args:
        other: file and scores of another model on the same items.
        run: run.json.
    """
    items, scores = result.items, result.all
    compared = [] if other is None else [compare(scores, other[1], names=("this model", other[0]), seed=seed)]
    row = Row.of(accuracy(scores), method="reward model", labels=result.labels, seed=seed, seconds=round(seconds, 3))
    simple = trivial(items)
    baselines = _accuracies(simple)
    beside = against(scores, simple, name=row.method, seed=seed)
    sets, tables = {}, {}
    for name, mine in result.scores.items():
        part, by = result.sets[name], accuracy_by(mine, "subset")
        sets[name] = {
            **dataclasses.asdict(accuracy(mine)),
            "baselines": _plain(_accuracies(trivial(part))),
            "subsets": _plain(by),
            "length": dataclasses.asdict(length_figures(part, mine, seed=seed)),
        }
        tables[name] = accuracy(mine)
        if 1 < len(by) <= MANY:
            tables |= {f"{name}: {subset or '(no subset)'}": a for subset, a in by.items()}
    sure = calibration([s.prob_chosen for s in scores], seed=seed)
    figures = length_figures(items, scores, seed=seed)
    subsets = rewardbench.subsets(scores)
    facts: dict[str, Any] = {
        "baselines": _plain(baselines),
        "against_baselines": [dataclasses.asdict(c) for c in beside],
        "sets": sets,
        "calibrator": dataclasses.asdict(result.calibrator),
        "calibration": dataclasses.asdict(sure),
        "length": dataclasses.asdict(figures),
        "rewardbench_subsets": None if subsets is None else dataclasses.asdict(subsets),
        "comparisons": [dataclasses.asdict(c) for c in compared],
        "testbed": "real data",
    }
    write_summary(work / "summary.json", [row], **without_nan(facts))
    data = ReportData(
        title=f"Rewards of {result.model}",
        testbed=f"pairs of {', '.join(result.sets)}",
        rows=[row],
        baselines=baselines,
        comparisons=[*compared, *beside],
        subsets={"reward model": tables} if len(tables) > 1 else {},
        calibration={"reward model": sure},
        run=run,
    )
    report.write(work / "report.html", data)
    console.print(accuracy_table([row], baselines, title=f"{result.model} on {', '.join(result.sets)}"))
    console.print(verdict(beside), soft_wrap=True)
    if len(tables) > 1:
        console.print(accuracies_table(tables, title="by set and subset"))
    console.print(length_table({"reward model": figures}))
    console.print(calibration_lines({"reward model": sure}))
    if subsets is not None:
        _write_rewardbench(work, items, scores, reward, result.model)
        console.print(rewardbench_table(subsets))
    if compared:
        console.print(comparison_table(compared))
    console.print(f"report: [bold]{work / 'report.html'}[/]   per item: {work / 'scores.jsonl'}")


def _write_rewardbench(
    work: Workdir, items: Sequence[Preference], scores: Sequence[ItemScore], reward: RewardModel, model: str
) -> None:
    inside = [(p, s) for p, s in zip(items, scores, strict=True) if rewardbench.subset_of(s) is not None]
    found, theirs = [p for p, _ in inside], [s for _, s in inside]
    folder, texts = work / "rewardbench", reward.texts(found)
    folder.mkdir(exist_ok=True)
    template = reward.chat.contract()["template"]
    flat = model.replace("/", "-")
    rewardbench.write_results(folder, flat, found, theirs, texts, tokenizer=model, template=template)
    rewardbench.write_leaderboard(folder, model, theirs, texts, template=template)


def conclude_responses(work: Workdir, lines: Sequence[ResponseScore], *, calibrator: Calibrator, seed: int) -> None:
    """Writes and prints what there is to say of scores without labels."""
    values = np.array([[line.score] for line in lines])
    sizes = np.array([[line.characters] for line in lines], np.float64)
    found = {name: correlation(values, sizes, of, seed=seed) for name, of in CORRELATIONS.items()}
    summary = {
        "n": len(lines),
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(lines) > 1 else None,
        "quantiles": {str(q): float(np.quantile(values, q)) for q in (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)},
        "length": {name: None if value is None else dataclasses.asdict(value) for name, value in found.items()},
        "calibrator": dataclasses.asdict(calibrator),
    }
    json_file.write(work / "summary.json", summary)
    low, middle, high = (summary["quantiles"][q] for q in ("0.0", "0.5", "1.0"))
    console.print(f"{len(lines):,} responses, rewards {low:.3g} to {high:.3g}, median {middle:.3g}")
    for name, value in found.items():
        if value is not None:
            console.print(f"{name} of reward and length: {value.value:.2f} [{value.low:.2f}, {value.high:.2f}]")
    console.print(f"per item: [bold]{work / 'scores.jsonl'}[/]   numbers: {work / 'summary.json'}")


CORRELATIONS = {"Pearson's r": pearson, "Spearman's rho": spearman}


def _accuracies(methods: Mapping[str, Sequence[ItemScore]]) -> dict[str, Accuracy]:
    return {name: accuracy(s) for name, s in methods.items()}


def _plain(found: Mapping[str, Accuracy]) -> dict[str, Any]:
    return {name: dataclasses.asdict(a) for name, a in found.items()}
