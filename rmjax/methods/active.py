"""Active selection: labels that are hidden are bought in rounds, and the next ones are chosen by what is known so far.

    a few labels at random; then again and again
        fit the tuned Bradley-Terry head to what is bought (`methods.frozen`), and an ensemble by the bootstrap
        a strategy (`refine.select`) chooses the next pairs from the pool; an oracle labels them

The strategy sees features, scores and which pairs are bought. A label is read only by asking the oracle, which counts,
and the two answers of every pair stand in an order drawn by its id, so that the order says nothing either. Coordinates
of the heads (`training.frozen.basis`) are of the whole pool without labels. Random starts are those of label draws
(`training.frozen.draws`): every strategy begins a run with the same pairs.

Dimensions: n pairs of the pool, e evaluation pairs, f features, p of a prompt, d coordinates, m members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from rmjax.bounds import require
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.methods.frozen import Bench, Fitted, Frozen
from rmjax.oracles.budget import Budget
from rmjax.oracles.oracle import Oracle
from rmjax.records import Pair, Preference, Vote
from rmjax.refine.select import Pool, Strategy
from rmjax.refine.uncertainty import ENSEMBLE
from rmjax.training.frozen import bootstrap, draws

SMOOTH = {"first": 0.0, "second": 1.0, "tie": 0.5, "unknown": 0.5}  # the probability that `first` is not the better one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buying:
    """How many labels are bought, and when."""

    start: int = 20  # labels at random, the same for every strategy
    step: int = 20  # labels a round
    most: int = 400  # labels in all
    members: int = 10  # heads of the ensemble that entropy, variance and bald read

    def __post_init__(self) -> None:
        require("buying.", self, "start", "members", least=2)
        require("buying.", self, "step", least=1)
        if self.most < self.start + self.step:
            raise UserError(
                f"buying.most={self.most}: a start of {self.start} and a round of {self.step} labels need at least "
                f"{self.start + self.step}"
            )

    def counts(self) -> list[int]:
        """Numbers of labels that heads are fitted to; the last round may be short."""
        return [*range(self.start, self.most, self.step), self.most]

    def require_pool(self, pairs: int) -> None:
        """Raises UserError for more labels than there are pairs."""
        if self.most > pairs:
            raise UserError(f"buying.most={self.most}: the pool has {pairs} pairs; give at most that many labels")


@dataclasses.dataclass(frozen=True)
class Round:
    """What is known after a round."""

    labels: int  # bought
    bought: Int[np.ndarray, " l"]  # places in the pool, in the order of buying
    fitted: Fitted  # of one run; its differences are of the evaluation pairs


class Market:
    """A pool of pairs without labels, and held-out pairs that every round's head is evaluated on."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        features: Features,
        evaluation: Features,
        prompts: Float[np.ndarray, "n p"],
        how: Frozen,
        *,
        parts: int,
        seed: int,
    ):
        """
        Args:
            pairs: n, with ids of their own.
            features: of the pairs' first (`chosen`) and second (`rejected`) answers.
            evaluation: of the held-out pairs, better answer first.
            prompts: features of the prompts alone, float32.
            parts: pooled parts of a feature.
            seed: of label draws, folds, ensembles and of what strategies draw.

        Raises:
            UserError: features that are not finite, or that do not differ within any pair.
        """
        self.pairs, self.prompts, self.seed = pairs, prompts, seed
        blank = [Preference(prompt=p.prompt, chosen=p.first, rejected=p.second, id=p.id) for p in pairs]
        self.bench = Bench(features, evaluation, blank, how, parts=parts, seed=seed)

    def rounds(self, strategy: Strategy, oracle: Oracle, buying: Buying, number: int) -> Iterator[Round]:
        """Run `number`: buys and fits in turn, and tells of every round.

        Raises:
            UserError: more labels than pairs; what the strategy and the oracle raise.
        """
        buying.require_pool(len(self.pairs))
        purse, counts = Budget(oracle, buying.most, part=buying.most), buying.counts()
        n = len(self.pairs)
        smooth, weight = np.full(n, 0.5, np.float32), np.zeros(n, np.float32)  # a pair that is not bought says nothing
        bought = draws.draw(n, seed=self.seed, number=number)[: buying.start]
        fitted = None
        for before, labels in zip([0, *counts], counts, strict=False):
            key = [self.seed, number, labels]
            if fitted is not None:
                pool = self._pool(fitted)
                if isinstance(strategy, ENSEMBLE):
                    members = self._members(fitted, bought, weight, smooth, buying, key)
                    pool = dataclasses.replace(pool, members=members)
                seed = int(np.random.SeedSequence(key).generate_state(1)[0])
                bought = np.concatenate([bought, strategy.choose(pool, labels - before, labelled=bought, seed=seed)])
            new = bought[before:]
            for place, vote in zip(new, purse.label([self.pairs[i] for i in new]), strict=True):
                smooth[place], weight[place] = learnt(vote)
            self.bench.columns = weight, np.zeros_like(weight), smooth
            size = draws.bucket(labels, buying.most)
            how = {"folds": self.bench.how.folds, "seed": self.seed, "padded": size}
            fitted = self.bench.tuned(draws.runs_of(self.bench.groups, bought[None], [number], **how))
            yield Round(labels, bought, fitted)

    def _pool(self, fitted: Fitted) -> Pool:
        """What the strategy may know: the answers in the head's own coordinates, the prompts, the head's scores."""
        x = self.bench.x[fitted.form[0]]
        differences = (x[:, 0] - x[:, 1]) @ fitted.head[0, -1]
        return Pool(first=x[:, 0], second=x[:, 1], prompt=self.prompts, differences=differences)

    def _members(
        self, fitted: Fitted, bought, weight, smooth, buying: Buying, key: list[int]
    ) -> Float[np.ndarray, "m n"]:
        """Differences of heads on bootstrap samples of what is bought, at the penalty that the head chose."""
        x = self.bench.x[fitted.form[0]]
        difference = x[:, 0] - x[:, 1]
        padded = np.zeros(draws.bucket(len(bought), buying.most), np.int64)
        padded[: len(bought)] = bought
        at = difference[padded], weight[padded], smooth[padded]
        l2 = float(fitted.penalty[0])
        return bootstrap.heads(*at, labels=len(bought), l2=l2, members=buying.members, seed=key) @ difference.T


def learnt(vote: Vote) -> tuple[float, float]:
    """What a vote becomes: the probability that the first answer is not the better one, and the pair's weight."""
    smooth = SMOOTH[vote.choice] if vote.prob_first is None else 1.0 - vote.prob_first
    return smooth, float(vote.choice != "unknown")
