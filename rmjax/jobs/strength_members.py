"""Members of a strength ensemble that are whole models: each is the train job's, with the next seed.

The paper's way (arXiv:2401.06080, section 2.1): M models from one checkpoint, each with the pairs in its own order. A
reward head that the checkpoint lacks is drawn anew for each. With LoRA each has an adapter of its own, from its own
seed, and the model beside it is the same arrays for all. Held-out scoring, which the paper does not have, trains a
member once for every part of the pairs, on all others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rmjax.data import packing
from rmjax.data.rows import Group
from rmjax.jobs.reward import RewardModel
from rmjax.jobs.sources import OFF
from rmjax.jobs.train import TrainJob, drawn
from rmjax.jobs.workdir import Workdir
from rmjax.methods.strength import StrengthEnsemble, as_labelled, parts
from rmjax.models.config import Lora
from rmjax.models.heads import Linear
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import Scalar
from rmjax.records import Preference
from rmjax.training.loop import Train, fit

OBJECTIVE = Pairwise(score=Scalar())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Members:
    """The models, and how each comes about: member m is what the train job makes of seed + m."""

    ensemble: StrengthEnsemble
    train: Train
    seed: int
    lora: Lora = OFF  # with a rank: a member is an adapter and a head, upon the one model that all share

    @property
    def kind(self) -> str:
        """What the members are, in words."""
        return f"adapters of rank {self.lora.rank}" if self.lora.rank else "fine-tuned models"

    def check(self, reward: RewardModel, records: Sequence[Preference]) -> None:
        """Raises UserError, before any work is done, where a training would refuse the model or the pairs."""
        groups, first = reward.groups(records), self.drawn(reward, 0)
        part = parts(records, self.ensemble, seed=self.seed)
        as_labelled(records)
        TrainJob(train=self.train).check_rows(groups, first.model)
        OBJECTIVE.check(groups, first.model)
        for member, fold in np.ndindex(len(part), int(part.max()) + 1):
            self.train.check(first.model, taken(groups, seen(part[member], fold)))

    def drawn(self, reward: RewardModel, member: int) -> RewardModel:
        """The model that a member begins with."""
        return drawn(reward, Linear(), seed=self.seed + member, lora=self.lora)

    def differences(
        self, reward: RewardModel, records: Sequence[Preference], work: Workdir
    ) -> Float[np.ndarray, "m n"]:
        """Score of chosen minus score of rejected, float64.

        One stage of the workdir a training: what an earlier run has finished is read, not trained again.
        """
        part, groups = parts(records, self.ensemble, seed=self.seed), reward.groups(records)
        # Rows of one length for all trainings and scores, whatever their longest pair: most programs compile once.
        shape = packing.fit(groups, length=self.train.length, share=reward.model.share)
        train = dataclasses.replace(self.train, length=shape.length)
        count = int(part.max()) + 1
        out = np.empty(part.shape)
        for member, fold in np.ndindex(len(part), count):
            name = f"member-{member + 1}" + (f"-part-{fold + 1}" if count > 1 else "")
            on, scored = taken(groups, seen(part[member], fold)), part[member] == fold

            def one(folder: Path, member=member, on=on, scored=scored, name=name) -> Mapping[str, Any]:
                start, how = self.drawn(reward, member), dataclasses.replace(train, seed=self.seed + member)
                title, contract = f"{name.replace('-', ' ')} ({len(part)} members)", reward.chat.contract()
                params = fit(start.model, start.params, OBJECTIVE, on, how, folder, name=title, contract=contract)
                found = slot_scores(start.model, params, taken(groups, scored), Scalar(), length=train.length)
                rewards = np.stack(found).astype(np.float64)
                return {"differences": (rewards[:, 0] - rewards[:, 1]).tolist()}

            out[member, scored] = work.stage(name, one)["differences"]
        return out


def seen(part: Int[np.ndarray, " n"], fold: int) -> Bool[np.ndarray, " n"]:
    """The pairs that a member's part trains on: all others, or, where there is but one part, all."""
    return part != fold if part.any() else part == fold


def taken(groups: Sequence[Group], where: Bool[np.ndarray, " n"]) -> list[Group]:
    """The groups that are marked."""
    return [groups[i] for i in np.flatnonzero(where)]
