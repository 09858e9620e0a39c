"""What RMBoost is compared with, on the same parts: RLAIF, West-of-N, RLCD and edits without a direction.

    RLAIF (arXiv:2309.00267)      two answers, then a judge says which is better
    West-of-N (arXiv:2401.12086)  N answers, then the best and the worst by a reward model
    RLCD (arXiv:2307.12950)       both answers under steering words; the one steered for the better is preferred
    random edit                   an edit by a generator that is not told a direction; the label is drawn all the same

Random edits are a control: their labels carry nothing, so what a model learns from them is the style of editing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.methods.rmboost import Edit, RmBoost
from rmjax.methods.synthetic import Cost, Models, Recipe, Synthetic, answers, distinct, write
from rmjax.records import Messages, Pair
from rmjax.refine.conditional import Drop, pair
from rmjax.refine.writers import Ask, Item


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rlaif:
    """Two samples of the plain prompt; the judge's choice is the label. Ties and "can't tell" are dropped."""

    recipe: Recipe = Recipe()
    name = "rlaif"
    calls = 2

    def make(self, models: Models, items: Sequence[Item], *, seed: int, folder: Path | None) -> Synthetic:
        """See `methods.synthetic.Method`. Raises UserError without a judge."""
        if models.judge is None:
            raise UserError("method rlaif: there is no judge; give one")
        found, drops, cost = answers(models, items, self.recipe, samples=2, seed=seed, folder=folder)
        by_id = {item.id: item for item in items}
        asked: dict[str, Pair] = {}
        for id, (first, second) in found.items():
            guards = self.recipe.guards
            if (reason := guards.fault_of_first(first) or guards.fault(first, second)) is not None:
                drops.append(Drop(item=id, reason=reason, text=second))
            else:
                asked[id] = Pair(prompt=by_id[id].prompt, first=first, second=second, id=f"{id}|{self.name}")
        pairs = []
        votes = models.judge.label(list(asked.values())) if asked else []
        for (id, both), vote in zip(asked.items(), votes, strict=True):
            if vote.choice not in ("first", "second"):
                drops.append(Drop(item=id, reason="judge undecided"))
                continue
            chosen, rejected, prob = both.first, both.second, vote.prob_first
            if vote.choice == "second":
                chosen, rejected, prob = rejected, chosen, None if prob is None else 1.0 - prob
            told = {} if prob is None else {"prob_chosen": prob}
            origin = {"generator": models.generator.name, "judge": vote.by, **told}
            pairs.append(pair(by_id[id], chosen, rejected, method=self.name, **origin))
        return Synthetic(preferences=pairs, drops=drops, spent=cost + Cost(judged=len(asked)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WestOfN:
    """N samples of the plain prompt; the best against the worst by the scorer."""

    recipe: Recipe = Recipe()
    n: int = 8  # answers to a prompt; many invite what the scorer is wrong about
    keep: float = 1.0  # share of the pairs that stay, those with the largest difference of scores
    name = "west-of-n"

    def __post_init__(self) -> None:
        require("method.", self, "n", least=2)
        require("method.", self, "keep", above=0, most=1)

    @property
    def calls(self) -> int:
        return self.n

    def make(self, models: Models, items: Sequence[Item], *, seed: int, folder: Path | None) -> Synthetic:
        """See `methods.synthetic.Method`. Raises UserError without a scorer, or where a score is not finite."""
        if models.scorer is None:
            raise UserError("method west-of-n: there is no scorer; give a reward model")
        found, drops, cost = answers(models, items, self.recipe, samples=self.n, seed=seed, folder=folder)
        by_id = {item.id: item for item in items}
        flat = [(by_id[id].prompt, text) for id, texts in found.items() for text in texts if text.strip()]
        scores = models.scorer(flat) if flat else []
        rest = iter(scores)
        pairs, gaps = [], []
        for id, texts in found.items():
            written = [(next(rest), text) for text in texts if text.strip()]
            ranked = sorted((pair for pair in written if pair[0] is not None), key=lambda pair: pair[0])
            if not all(np.isfinite(score) for score, _ in ranked):
                raise UserError(f"item {id!r}: the scorer's reward of an answer is not finite; score in float32")
            if not ranked:
                drops.append(Drop(item=id, reason="too long to score" if written else "response 1 empty"))
                continue
            (low, worst), (high, best) = ranked[0], ranked[-1]
            guards = self.recipe.guards
            reason = guards.fault_of_first(worst) or guards.fault(worst, best)
            if reason or high == low:
                drops.append(Drop(item=id, reason=reason or "score gap", text=worst))
                continue
            origin = {"generator": models.generator.name, "n": self.n, "scores": [high, low]}
            pairs.append(pair(by_id[id], best, worst, method=self.name, **origin))
            gaps.append(high - low)
        kept = set(np.argsort(-np.asarray(gaps), kind="stable")[: int(np.ceil(self.keep * len(gaps)))].tolist())
        drops += [Drop(item=p.meta["origin"]["item"], reason="score gap") for i, p in enumerate(pairs) if i not in kept]
        pairs = [p for i, p in enumerate(pairs) if i in kept]
        return Synthetic(preferences=pairs, drops=drops, spent=cost + Cost(scored=sum(s is not None for s in scores)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rlcd:
    """One answer under words that ask for a good one, one under words that ask for a bad one."""

    recipe: Recipe = Recipe()
    name = "rlcd"
    calls = 2

    def make(self, models: Models, items: Sequence[Item], *, seed: int, folder: Path | None) -> Synthetic:
        """See `methods.synthetic.Method`."""
        distinct(items)
        prompt, guards = self.recipe.prompts.steering, self.recipe.guards
        both, long, cost = {}, {}, Cost()
        for direction in ("better", "worse"):
            asks = {i.id: Ask(id=f"{i.id}|{direction}", prompt=prompt.render(i.prompt, direction)) for i in items}
            both[direction], found = write(models.generator, asks, seed, folder, f"steered-{direction}")
            long |= {d.item: d for d in found}  # once, where both prompts are too long
            cost += Cost.of(both[direction])
        pairs, drops = [], list(long.values())
        for item in items:
            if item.id in long:
                continue
            texts = [both[direction][item.id][0].text for direction in ("better", "worse")]
            read = [guards.read(text, prompt.response) for text in texts]
            reason = next((r for r in read if isinstance(r, str)), None)
            if reason is None:
                (good, _), (bad, _) = read
                reason = guards.fault_of_first(good) or guards.fault(good, bad)
            if reason is not None:
                drops.append(Drop(item=item.id, reason=reason, text="\n".join(texts)))
            else:
                pairs.append(pair(item, good, bad, method=self.name, generator=models.generator.name))
        return Synthetic(preferences=pairs, drops=drops, spent=cost)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomEdit(RmBoost):
    """RMBoost with a generator that is not told the direction: the label is drawn, and right half of the time."""

    name = "random-edit"

    def render(self, edit: Edit, seed: int) -> Messages:
        """The edit's prompt, without its direction."""
        aspects = self.aspects(edit.item.id, seed)
        return self.recipe.prompts.edit.render(edit.item.prompt, edit.first, None, aspects)
