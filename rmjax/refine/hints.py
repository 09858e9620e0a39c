"""More judgments for items whose samples are all right or all wrong, and so make no pair.

Retries sample the same prompts again. Hints (Con-J, arXiv:2410.03742) name the missing verdict in the prompt; the
completion is then attached to the prompt without the hint, so that nothing is ever trained on a hinted prompt, and its
log-probabilities are computed anew under that prompt: those recorded belong to the hinted one.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rmjax.judging.asks import SLOTS, Order
from rmjax.judging.judge import Judge
from rmjax.judging.rescoring import token_scores
from rmjax.records import Judgment, Preference, Slot


def lacking(judgments: Sequence[Judgment]) -> dict[Order, list[Slot]]:
    """The verdicts that are missing, per prompt of those items that make no pair.

    An item makes a pair where one slot order has a right and a wrong judgment. Of the others, each slot order that was
    asked lacks the right verdict, the wrong one, or (all unparsed) both. A tie is a wrong verdict.
    """
    seen: dict[Order, set[bool | None]] = {}
    for j in judgments:
        seen.setdefault((j.item, j.slot), set()).add(j.correct)
    paired = {item for (item, _), found in seen.items() if {True, False} <= found}
    return {
        (item, slot): [v for v in SLOTS if (v == slot) not in found]
        for (item, slot), found in seen.items()
        if item not in paired
    }


def retry(
    judge: Judge,
    items: Sequence[Preference],
    judgments: Sequence[Judgment],
    *,
    rounds: int,
    samples: int,
    folder: Path | None,
) -> list[Judgment]:
    """Samples items that make no pair again, up to `rounds` times, `samples` per slot order that was asked.

    Returns:
        The new judgments alone.
    """
    new: list[Judgment] = []
    for number in range(1, rounds + 1):
        bare = lacking([*judgments, *new])
        if not bare:
            break
        counts = Counter((j.item, j.slot) for j in (*judgments, *new))
        path = folder / f"retry_{number}.jsonl" if folder else None
        new += judge.further(items, {order: counts[order] for order in bare}, samples=samples, path=path)
    return new


def hint(
    judge: Judge, items: Sequence[Preference], judgments: Sequence[Judgment], *, samples: int, folder: Path | None
) -> list[Judgment]:
    """Asks for the verdicts that are missing, by name.

    Returns:
        The judgments that reached the verdict named, under their unhinted prompt; `hint` says which it was, and
        `prob_a` is None, because it was read under the hint.
    """
    wanted = {(*order, verdict) for order, missing in lacking(judgments).items() for verdict in missing}
    made = judge.hinted(items, wanted, samples=samples, path=folder / "hinted.jsonl" if folder else None)
    prompts = {(j.item, j.slot): j.prompt for j in judgments}
    reached = [dataclasses.replace(j, prompt=prompts[j.item, j.slot]) for j in made if j.verdict == j.hint]
    scores = token_scores(judge.model, judge.params, [(j.prompt, j.tokens) for j in reached])
    return [
        dataclasses.replace(j, logps=tuple(map(float, logps)), prob_a=None)
        for j, logps in zip(reached, scores, strict=True)
    ]
