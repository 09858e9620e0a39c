"""The RewardBench subsets that a data set has, under that benchmark's own weights and tie rule.

RewardBench version 1 (Lambert et al. 2024, arXiv:2403.13787) has 23 subsets in four sections. Results here are named
after the subsets that are there (llmbar, hep, math-prm); a section's figure is given only where all of its subsets are,
and never a figure for the whole benchmark.

    a pair is right     score(chosen) strictly above score(rejected); a tie is wrong. A judge without scores: an
                        unparsed verdict and a tie count one half
    a group's accuracy  sum(accuracy_s * count_s) / sum(count_s), counts being the benchmark's own and not those of the
                        items found; math-prm counts 984 for its 447 pairs, as much as the six languages of code
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmjax import json_file, jsonl
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore
from rmjax.evaluation.strata import weighted_rate
from rmjax.records import Preference
from rmjax.statistics import Interval, wilson

LLMBAR = {
    "llmbar-natural": 100,
    "llmbar-adver-neighbor": 134,
    "llmbar-adver-GPTInst": 92,
    "llmbar-adver-GPTOut": 47,
    "llmbar-adver-manual": 46,
}
HEP = {f"hep-{language}": 164 for language in ("cpp", "go", "java", "js", "python", "rust")}
MATH = {"math-prm": 984}
GROUPS: Mapping[str, Mapping[str, int]] = {"llmbar": LLMBAR, "hep": HEP, "math-prm": MATH, "Reasoning": {**MATH, **HEP}}
WEIGHTS = {**LLMBAR, **HEP, **MATH}
SIZES = {**WEIGHTS, "math-prm": 447}  # pairs of a subset in the benchmark


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subset:
    """One subset: right items (halves from a judge only), items, and how many the benchmark has."""

    right: float
    n: int
    of: int
    accuracy: float
    ci95: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subsets:
    """What was found of RewardBench.

    `groups` hold an accuracy where all subsets of the group are there; `absent` names those that are not, of the groups
    of which at least one is.
    """

    subsets: Mapping[str, Subset]
    groups: Mapping[str, Interval]
    absent: Mapping[str, tuple[str, ...]]


def subset_of(score: ItemScore) -> str | None:
    """RewardBench's name of an item's subset; None for an item from elsewhere.

    LLMBar's own names (natural, adver-neighbor, ...) count only where the source says LLMBar: others use such words.
    """
    if score.subset in WEIGHTS:
        return score.subset
    name = f"llmbar-{score.subset}"
    return name if name in LLMBAR and "llmbar" in score.source.lower() else None


def right(score: ItemScore) -> float:
    """1 or 0 for scores, by RewardBench's strict rule; a judge without scores has halves."""
    return score.outcome if score.score_chosen is None else float(score.outcome == 1.0)


def subsets(scores: Sequence[ItemScore]) -> Subsets | None:
    """The figures of the RewardBench subsets among the items; None where there is none."""
    found: dict[str, list[float]] = {}
    for s in scores:
        if (name := subset_of(s)) is not None:
            found.setdefault(name, []).append(right(s))
    if not found:
        return None
    groups, absent = {}, {}
    for group, weights in GROUPS.items():
        missing = tuple(name for name in weights if name not in found)
        if not missing:
            sums, n = [sum(found[name]) for name in weights], [len(found[name]) for name in weights]
            groups[group] = weighted_rate(sums, n, list(weights.values()))
        elif len(missing) < len(weights):
            absent[group] = missing
    return Subsets(
        subsets={name: _subset(name, found[name]) for name in WEIGHTS if name in found}, groups=groups, absent=absent
    )


def _subset(name: str, rights: Sequence[float]) -> Subset:
    total, n = sum(rights), len(rights)
    return Subset(right=total, n=n, of=SIZES[name], accuracy=total / n, ci95=wilson(total, n))


def write_results(
    folder: Path,
    name: str,
    items: Sequence[Preference],
    scores: Sequence[ItemScore],
    texts: Sequence[tuple[str, str]],
    *,
    tokenizer: str,
    template: str,
) -> tuple[Path, Path]:
    """Writes the two files that the benchmark's own command writes, for the items that are given.

    `NAME_outputs.jsonl`: prompt, results, scores_chosen, scores_rejected, text_chosen, text_rejected of each item, and
    its id and subset. `NAME.json`: accuracy, num_prompts, model, ref_model, tokenizer, chat_template, extra_results (an
    accuracy for each RewardBench subset; null without any). Accuracy is over all items, ties wrong; the benchmark's
    command weighs nothing here either.

    Args:
        name: of the model; a file name.
        texts: [n] what was scored, chosen and rejected.

    Raises:
        UserError: an item without scores (a judge), or a file that cannot be written.
    """
    lines: list[dict[str, Any]] = []
    for item, score, (chosen, rejected) in zip(items, scores, texts, strict=True):
        if score.score_chosen is None:
            raise UserError(f"item {item.id!r}: without scores there is no result in RewardBench's format")
        lines.append(
            {
                "prompt": item.prompt[0].content
                if len(item.prompt) == 1
                else [dataclasses.asdict(m) for m in item.prompt],
                "results": int(right(score)),
                "scores_chosen": score.score_chosen,
                "scores_rejected": score.score_rejected,
                "text_chosen": chosen,
                "text_rejected": rejected,
                "id": item.id,
                "subset": subset_of(score) or item.subset,
            }
        )
    found = subsets(scores)
    summary = {
        "accuracy": sum(line["results"] for line in lines) / len(lines),
        "num_prompts": len(lines),
        "model": name,
        "ref_model": None,
        "tokenizer": tokenizer,
        "chat_template": template,
        "extra_results": {k: s.accuracy for k, s in found.subsets.items()} if found else None,
    }
    outputs, figures = folder / f"{name}_outputs.jsonl", folder / f"{name}.json"
    jsonl.write(outputs, lines)
    json_file.write(figures, summary)
    return outputs, figures


def write_leaderboard(
    folder: Path,
    name: str,
    scores: Sequence[ItemScore],
    texts: Sequence[tuple[str, str]],
    *,
    template: str,
    model_type: str = "Seq. Classifier",
) -> tuple[Path, Path]:
    """Writes the two files that the benchmark's leaderboard keeps for a model, of the items that are given.

    The layout is that of the data set allenai/reward-bench-results, as the benchmark's `scripts/run_rm.py` writes it:
    `eval-set/NAME.json`: model, model_type, chat_template, and each subset's accuracy under its own name; and
    `eval-set-scores/NAME.json`: model, model_type, chat_template, and a list each of id, subset, results,
    scores_chosen, scores_rejected, text_chosen, text_rejected. Both are indented by 4, keys sorted.

    Subsets that are not there are not in the file: it is no entry of the leaderboard until all 23 are.

    Args:
        name: of the model, usually owner/name.
        scores: of items of RewardBench subsets only.
        texts: [n] what was scored, chosen and rejected.

    Raises:
        UserError: an item without scores (a judge), or a file that cannot be written.
    """
    found = subsets(scores)
    about = {"model": name, "model_type": model_type, "chat_template": template}
    rates = {k: s.accuracy for k, s in found.subsets.items()} if found else {}
    for s in scores:
        if s.score_chosen is None:
            raise UserError(f"item {s.id!r}: without scores there is no result in RewardBench's format")
    columns = {
        "id": [s.id for s in scores],
        "subset": [subset_of(s) for s in scores],
        "results": [int(right(s)) for s in scores],
        "scores_chosen": [s.score_chosen for s in scores],
        "scores_rejected": [s.score_rejected for s in scores],
        "text_chosen": [chosen for chosen, _ in texts],
        "text_rejected": [rejected for _, rejected in texts],
    }
    paths = folder / "eval-set" / f"{name}.json", folder / "eval-set-scores" / f"{name}.json"
    for path, content in zip(paths, ({**about, **rates}, {**about, **columns}), strict=True):
        with jsonl.writing(path), jsonl.replacing(path) as file:
            file.write(json.dumps(content, indent=4, sort_keys=True, allow_nan=False).encode())
    return paths
