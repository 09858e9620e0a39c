"""Fine-tuning runs on draws of one pool of labelled pairs: each a method, a learning rate, labels, pairs to score.

Every run's rows have the shape that the whole pool needs, and the learning rate is an argument of the compiled step:
each method's step and each score is compiled once, whatever the draw and the number of labels. Proto-RM's first
prototypes alone come from a forward pass over the draw in rows of its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from rmjax.data import packing
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import accuracy, from_scores
from rmjax.jobs.reward import RewardModel
from rmjax.jobs.sources import OFF
from rmjax.jobs.train import TrainJob, drawn
from rmjax.jobs.unlabelled import without_labels
from rmjax.methods.fine_tuning import Plain
from rmjax.models.config import Lora
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.records import Preference
from rmjax.training.frozen.draws import draw
from rmjax.training.loop import Train, fit

RANKING = Pairwise(score=Scalar())


class Bench:
    """The pool, the held-out pairs and the model that every run begins with."""

    def __init__(
        self,
        reward: RewardModel,
        pool: Sequence[Preference],
        held: Sequence[Preference],
        train: Train,
        lora: Lora = OFF,
        *,
        seed: int,
    ):
        """
        Raises:
            UserError: a pair that does not fit a row, a training that the model cannot have.
        """
        self.reward, self.pool, self.held, self.seed, self.lora = reward, pool, held, seed, lora
        self.groups, model = reward.groups(pool), drawn(reward, Plain().head, seed=seed, lora=lora).model
        TrainJob(train=train).check_rows(self.groups, model)
        shape = packing.fit(self.groups, length=train.length, share=model.share)
        self.train = dataclasses.replace(train, length=shape.length)
        self.train.check(model, self.groups)
        self._prompts = [repr(p.prompt) for p in pool]
        self._unlabelled: list[Group] | None = None

    def check(self, methods: Iterable[Plain]) -> None:
        """Raises UserError for a method that cannot train this model on this pool."""
        for method in methods:
            reward = drawn(self.reward, method.head, seed=self.seed, lora=self.lora)
            model, _ = method.start(reward.model, reward.params, jax.random.key(0))
            method.objective(RANKING).check(self.groups, model)

    def order(self, number: int) -> Int[np.ndarray, " N"]:
        """The order in which label draw `number` takes the pool's pairs."""
        return draw(len(self.pool), seed=self.seed, number=number)

    def others(self, labels: int, number: int, count: int) -> list[int]:
        """The first `count` pairs of the pool that a draw does not take, of prompts that it does not take either.

        Raises:
            UserError: there are fewer.
        """
        order = self.order(number)
        seen = {self._prompts[i] for i in order[:labels]}
        left = [int(i) for i in order[labels:] if self._prompts[i] not in seen]
        if len(left) < count:
            raise UserError(
                f"search: {len(self.pool)} training pairs less {labels} and their prompts leave {len(left)} to score; "
                f"give --search.pairs {len(left)} at most, or fewer --search.labels"
            )
        return left[:count]

    def run(self, method: Plain, rate: float, taken: Sequence[int], seed: int, scored: Sequence[Preference]) -> dict:
        """Trains on the pool's pairs `taken` and scores others: one line of a file, without its names.

        Seconds are those of the training, what was compiled for it included.
        """
        begun = time.perf_counter()
        groups = [self.groups[i] for i in taken]
        reward = drawn(self.reward, method.head, seed=seed, lora=self.lora)
        key = jax.random.fold_in(jax.random.key(seed), 1)
        if method.new_head:
            head = method.first_head(reward.model, reward.params, groups, key)
            reward = dataclasses.replace(reward, params={**reward.params, "head": head})
        model, params = method.start(reward.model, reward.params, key)
        how = dataclasses.replace(
            self.train, seed=seed, optimizer=dataclasses.replace(self.train.optimizer, learning_rate=rate)
        )
        more: Mapping[str, Any] = {"unlabelled": self.unlabelled(method), "pool": self.groups}
        objective = method.objective(RANKING)
        model, params = method.end(model, fit(model, params, objective, groups, how, None, name="training", **more))
        jax.block_until_ready(params)
        seconds = time.perf_counter() - begun
        rewards = slot_scores(model, params, self.reward.groups(scored), Scalar(), length=how.length)
        found = from_scores(scored, np.stack(rewards))
        return {
            **dataclasses.asdict(accuracy(found)),
            "seconds": round(seconds, 3),
            "items": "".join("t" if s.tie else str(int(s.outcome)) for s in found),
        }

    def unlabelled(self, method: Plain) -> list[Group]:
        """The answers of all training pairs without their labels, for a method that wants them."""
        if not getattr(method.objective(RANKING), "unlabelled", False):
            return []
        if self._unlabelled is None:
            self._unlabelled = without_labels(self.reward, self.pool, method, seed=self.seed)[0]
        return self._unlabelled
