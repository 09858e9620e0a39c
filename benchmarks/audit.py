"""The noise audit where the truth is known: RMBoost's pairs of a study in the writer world, judged again.

    python -m benchmarks.audit --study runs/study_rmboost [--setting main] [--judges main "careful judges"] [--most 400]

Judges are writers of the study's settings, of the pairs' own seed; `main` judges what it wrote itself. For every judge
and direction, means over seeds with half of a 95 % t interval, in percent: `agrees`, the audit's figure; `with_right`
and `with_wrong`, the same of labels that are right and wrong by gold (pairs of equal gold are in neither); `noise`, the
share of wrong labels, `noise_kept`, the same after `--trust.action drop`, and `less`, their difference; `kept`, the
share of pairs that stay.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tyro

from rmjax import jsonl
from rmjax.jobs.evaluation import Evaluation, judge_items
from rmjax.jobs.export import load_judge
from rmjax.jobs.sources import ModelSource
from rmjax.jobs.study_rmboost import Setting, folder_of
from rmjax.jobs.synthetic_bench import noise
from rmjax.judging.votes import ItemVerdict
from rmjax.records import Preference
from rmjax.refine.audit import Agreement, Trust
from rmjax.refine.conditional import direction_of
from rmjax.sampling.policy import Sampling
from rmjax.statistics import t_interval
from rmjax.worlds.writer_world import WriterWorld


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is judged, and by whom."""

    study: Path  # workdir of study_rmboost
    setting: str = "main"  # whose pairs
    judges: tuple[str, ...] = ("main", "careful judges")  # settings whose writers judge
    judges_in: Path | None = None  # workdir of the judges, where it is another one
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    most: int = 400  # pairs of a seed, the first


def figures(
    world: WriterWorld, pairs: Sequence[Preference], verdicts: Sequence[ItemVerdict]
) -> dict[str, dict[str, float]]:
    """Direction ("all" is both) -> the module's figures of one seed, as shares."""
    sure = {p.id for p in Trust(action="drop")(pairs, verdicts)}
    gold = {p.id: tuple(world.gold(p.prompt[0].content, text) for text in (p.chosen, p.rejected)) for p in pairs}
    out = {}
    for name in ("all", "better", "worse"):
        both = [(p, v) for p, v in zip(pairs, verdicts, strict=True) if name in ("all", direction_of(p))]
        of = lambda fits, both=both: Agreement.of([v for p, v in both if fits(*gold[p.id])]).rate.value
        own, kept = [p for p, _ in both], [p for p, _ in both if p.id in sure]
        out[name] = {
            "agrees": of(lambda chosen, rejected: True),
            "with_right": of(lambda chosen, rejected: chosen > rejected),
            "with_wrong": of(lambda chosen, rejected: chosen < rejected),
            "noise": (before := noise(world, own)["noise"]),
            "noise_kept": (after := noise(world, kept)["noise"]),
            "less": before - after,
            "kept": len(kept) / len(own),
        }
    return out


def seed_of(b: Benchmark, judge: str, seed: int) -> dict[str, dict[str, float]]:
    """One judge on one seed's pairs."""
    world, folder = WriterWorld(), lambda setting: folder_of(Setting(name=setting, skill=0.0), seed)
    file = b.study / "made" / f"{folder(b.setting)}-rmboost.jsonl"
    pairs = list(jsonl.read(file, Preference))[: b.most]
    writer = (b.judges_in or b.study) / f"writer-{folder(judge)}" / "export"
    how = Sampling(temperature=0.0, max_new_tokens=80)
    found = load_judge(writer, ModelSource(), world.prompt(), how, seed=seed)
    _, verdicts = judge_items(dataclasses.replace(found, quiet=True), pairs, Evaluation(constrained=False))
    return figures(world, pairs, verdicts)


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Percent over seeds, with half of a 95 % t interval."""
    out = {}
    for name in rows[0]:
        values = 100 * np.array([row[name] for row in rows])
        found = t_interval(values)
        out[name] = f"{found.value:.1f} ± {found.high - found.value:.1f}"
    return out


def main(b: Benchmark) -> None:
    """A JSON line for every judge and direction."""
    for judge in b.judges:
        rows = [seed_of(b, judge, seed) for seed in b.seeds]
        for direction in rows[0]:
            line = {"judge": judge, "direction": direction, "seeds": len(b.seeds), "pairs": b.most}
            print(json.dumps({**line, **mean([row[direction] for row in rows])}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
