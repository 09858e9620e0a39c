"""Members of a strength ensemble that are whole models: each is the train job's, with the next seed.

The paper's way (arXiv:2401.06080, section 2.1): M models from one checkpoint, each with the pairs in its own order. A
reward head that the checkpoint lacks is drawn anew for each. Held-out scoring, which the paper does not have, trains a
member once for every part of the pairs, on all others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rmjax.jobs.reward import RewardModel
from rmjax.jobs.sources import ModelSource
from rmjax.jobs.train import TrainJob
from rmjax.jobs.workdir import Workdir
from rmjax.methods.strength import StrengthEnsemble, as_labelled, parts
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.records import Preference
from rmjax.training.loop import Train, fit

OBJECTIVE = Pairwise(score=Scalar())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Members:
    """The models, and how each comes about: member m is what the train job makes of seed + m."""

    source: ModelSource
    ensemble: StrengthEnsemble
    train: Train
    seed: int

    def job(self, member: int) -> TrainJob:
        """The train job of one member."""
        return TrainJob(model=self.source, train=self.train, seed=self.seed + member)

    def check(self, reward: RewardModel, records: Sequence[Preference]) -> None:
        """Raises UserError, before any work is done, where a training would refuse the model or the pairs."""
        groups = reward.groups(records)
        parts(records, self.ensemble, seed=self.seed)
        as_labelled(records)
        self.job(0).check_rows(groups, reward.model)
        self.train.check(reward.model)
        OBJECTIVE.check(groups, reward.model)

    def differences(self, records: Sequence[Preference], work: Workdir) -> Float[np.ndarray, "m n"]:
        """Score of chosen minus score of rejected, float64.

        One stage of the workdir a training: what an earlier run has finished is read, not trained again.
        """
        part = parts(records, self.ensemble, seed=self.seed)
        count = int(part.max()) + 1
        out = np.empty(part.shape)
        for member in range(len(part)):
            for fold in range(count):
                scored = part[member] == fold
                seen = ~scored if count > 1 else scored
                name = f"member-{member + 1}" + (f"-part-{fold + 1}" if count > 1 else "")
                one = functools.partial(self._one, member, records, seen, scored, name)
                out[member, scored] = work.stage(name, one)["differences"]
        return out

    def _one(
        self,
        member: int,
        records: Sequence[Preference],
        seen: Bool[np.ndarray, " n"],
        scored: Bool[np.ndarray, " n"],
        name: str,
        folder: Path,
    ) -> Mapping[str, Any]:
        """Trains on the pairs that are seen, and scores those that are to be scored."""
        start, how = self.job(member).start(), dataclasses.replace(self.train, seed=self.seed + member)
        groups = start.groups(records)
        taken = lambda where: [groups[i] for i in np.flatnonzero(where)]
        title, contract = f"{name.replace('-', ' ')} ({self.ensemble.members} members)", start.chat.contract()
        params = fit(start.model, start.params, OBJECTIVE, taken(seen), how, folder, name=title, contract=contract)
        rewards = np.stack(slot_scores(start.model, params, taken(scored), Scalar())).astype(np.float64)
        return {"differences": (rewards[:, 0] - rewards[:, 1]).tolist()}
