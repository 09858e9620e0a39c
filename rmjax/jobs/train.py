"""A scalar reward model by full fine-tuning: trained, exported, read again, evaluated on held-out pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from rmjax import jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.config import to_json
from rmjax.data.loads import load
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore, from_scores
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.summary import write_scores
from rmjax.jobs.devices import Devices
from rmjax.jobs.reward import PairLengths, RewardModel, export_reward, load_model, load_reward
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.train_report import conclude
from rmjax.jobs.workdir import Workdir
from rmjax.methods.bradley_terry import BradleyTerry
from rmjax.models.config import EncoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar
from rmjax.records import Preference
from rmjax.sampling.journal import fingerprint
from rmjax.training.loop import Train, fit

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Train -> export -> evaluate. The same command continues an interrupted run.

    Weight, margin and soft labels (prob_chosen, votes) are columns of the pairs; the loss uses all that are there.
    """

    workdir: str = "runs/train"  # export/ is the model; held_out.jsonl what it was not trained on
    model: ModelSource = ModelSource()  # a language model gets a new head; a reward model is trained further
    data: Pairs = Pairs()
    objective: Pairwise = Pairwise(score=Scalar())
    train: Train = dataclasses.replace(
        BradleyTerry().train, save_every=10
    )  # a few hundred labels are a few dozen updates
    lengths: PairLengths = PairLengths()
    devices: Devices = Devices()
    seed: int = 0  # of the head's first weights and the data's order

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        if self.train.seed:
            raise UserError(f"train.seed={self.train.seed}: the job's own --seed decides; set that one")
        if not isinstance(self.objective.score, Scalar):
            name = type(self.objective.score).__name__
            raise UserError(f"objective.score={name}: a reward model's score is its head's; use Scalar")

    def run(self, command: str = "") -> None:
        """Runs what is not done, on all devices."""
        with self.devices.use(self.train):
            self.stages(command)

    def stages(self, command: str) -> None:
        """Checks everything that can be checked before work is done, then trains and evaluates."""
        train, held, hashes = self.data.load()
        reward = self.start()
        how, most = self.lengths, self.lengths.max_length
        flag = "--lengths.train"
        train = reward.limited(train, most=most, policy=how.train, usual="drop", flag=flag, what="training pairs")
        flag = "--lengths.evaluation"
        held = reward.limited(held, most=most, policy=how.evaluation, usual="error", flag=flag, what="held-out pairs")
        groups = reward.groups(train)
        self.check_rows(groups, reward.model)
        self.objective.check(groups, reward.model)
        if self.objective.sft and not getattr(reward.model.config, "lm_head", False):
            raise UserError(
                f"objective.sft={self.objective.sft}: {self.model.path} has no output head to imitate with; "
                "start from a language model, or set it to 0"
            )
        origin = {
            "base": self.model.path,
            "labels": len(train),
            "seed": self.seed,
            "data": {self.data.path: hashes[self.data.path]},
        }
        hashes[f"weights of {self.model.path}"] = fingerprint(reward.params)
        # Only now: a command that was refused must not leave its settings behind.
        work = Workdir(self.workdir, to_json(self), hashes)
        provenance = Provenance(work / "run.json", command=command, config=to_json(self), data=hashes, seed=self.seed)
        console.print(f"{len(train):,} pairs to train on{used(train)}; {len(held):,} held out")
        jsonl.write(work / "held_out.jsonl", held)
        work.stage("train", lambda folder: self.train_stage(reward, groups, held, origin, work, folder))
        work.stage("evaluate", lambda folder: self.evaluate_stage(held, work, folder))
        scores = jsonl.read(work / "evaluate" / "scores.jsonl", ItemScore)
        run = provenance.finish(contract=reward.chat.contract())
        conclude(work, train, held, scores, base=self.model.path, data=self.data.path, seed=self.seed, run=run)

    def start(self) -> RewardModel:
        """The model before training: with its own head, or with a new one that transformers can read."""
        reward = load_model(self.model, length=self.lengths.max_length, flag="--lengths.max-length")
        model = reward.model
        if model.head is not None:
            console.print(f"{self.model.path} is a reward model: its head is trained further")
            return reward
        params, key = reward.params, jax.random.key(self.seed)
        if isinstance(model.config, EncoderConfig):
            if not model.config.pooler:
                console.print(f"{self.model.path} was saved without a pooler: a new one is drawn and trained")
                model = model.with_config(pooler=True)
                params = with_pooler(model, params, key)
            model = model.with_head(Linear(), pool=("pooler",))
        else:
            model = model.with_head(Linear())
        return dataclasses.replace(reward, model=model, params=model.add_head(params, key))

    def check_rows(self, groups: Sequence[Group], model: Model) -> None:
        """Raises UserError where a pair does not fit a row of `train.length` tokens."""
        each = self.train.pairs_per_group
        sizes = [load(g, pairs_per_group=each, share=model.share).length for g in groups]
        over = sum(size > self.train.length for size in sizes)
        if self.train.length and over:
            raise UserError(
                f"--train.length {self.train.length}: {over:,} of {len(groups):,} training pairs need longer rows; "
                f"give at least {max(sizes)}, or 0 for what the longest needs"
            )

    def train_stage(
        self,
        reward: RewardModel,
        groups: Sequence[Group],
        held: Sequence[Preference],
        origin: Mapping[str, Any],
        work: Workdir,
        folder: Path,
    ) -> Mapping[str, Any]:
        """Trains and exports; done only when the export, read again, gives the same rewards."""
        how, contract = dataclasses.replace(self.train, seed=self.seed), reward.chat.contract()
        params = fit(
            reward.model, reward.params, self.objective, groups, how, folder, name="reward model", contract=contract
        )
        trained = dataclasses.replace(reward, params=params)
        difference = export_reward(work / "export", trained, self.model, held, origin=origin)
        console.print(f"exported and read again: rewards differ by at most {difference:.0e}")
        return {"labels": len(groups), "difference_after_export": difference}

    def evaluate_stage(self, held: Sequence[Preference], work: Workdir, folder: Path) -> Mapping[str, Any]:
        """Scores the held-out pairs with the exported model."""
        exported = dataclasses.replace(self.model, path=str(work / "export"), template="auto")
        scores = from_scores(held, load_reward(exported).rewards(held), logistic=True)
        write_scores(folder / "scores.jsonl", scores)
        return {"items": len(held)}


def with_pooler(model: Model, params: Any, key: jax.Array) -> Any:
    """An encoder's parameters with a new pooler, as transformers draws one for a classifier."""
    fresh = model.init(key)["encoder"]
    return {**params, "encoder": {**fresh, **params["encoder"]}}


def used(train: Sequence[Preference]) -> str:
    """Which strength columns the pairs have, in words."""
    count = {
        "weight": sum(p.weight is not None for p in train),
        "margin": sum(p.margin is not None for p in train),
        "soft label": sum(p.smooth > 0 for p in train),
    }
    said = ", ".join(f"{n:,} with a {name}" for name, n in count.items() if n)
    return f" ({said})" if said else ""
