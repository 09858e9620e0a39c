"""A scalar reward model by full fine-tuning: trained, exported, read again, evaluated on held-out pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import tyro
from rich.console import Console

from rmjax import distributed, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.data.loads import load
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore, from_scores
from rmjax.evaluation.summary import write_scores
from rmjax.jobs.devices import Devices
from rmjax.jobs.reward import PairLengths, RewardModel, export_reward, load_model, load_reward
from rmjax.jobs.sources import OFF, ModelSource, Pairs, with_adapters
from rmjax.jobs.train_report import conclude
from rmjax.jobs.unlabelled import without_labels
from rmjax.jobs.workdir import Workdir, begin
from rmjax.methods import fine_tuning
from rmjax.methods.bradley_terry import BradleyTerry
from rmjax.models import head_file, hf, peft
from rmjax.models.config import EncoderConfig, Lora
from rmjax.models.heads import HeadConfig
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Scalar
from rmjax.records import Preference
from rmjax.sharding import current_mesh, to_host
from rmjax.training.held_out import split
from rmjax.training.loop import Train, fit
from rmjax.training.step import check_microbatches

console = Console()
named = tyro.conf.subcommand
Method = (
    Annotated[fine_tuning.Plain, named("plain")]
    | Annotated[fine_tuning.SimCse, named("simcse")]
    | Annotated[fine_tuning.Swav, named("swav")]
    | Annotated[fine_tuning.MetaRm, named("metarm")]
    | Annotated[fine_tuning.ProtoRm, named("proto-rm")]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Train -> export -> evaluate. The same command continues an interrupted run.

    Weight, margin and soft labels (prob_chosen, votes) are columns of the pairs; the loss uses all that are there. A
    method with its own settings comes last: train --model.path DIR --train.dropout 0.05 method:simcse --method.beta 0.3
    """

    processes: ClassVar[bool] = True  # several can do it together
    workdir: str = "runs/train"  # export/ is the model; held_out.jsonl what it was not trained on
    model: ModelSource = ModelSource()  # a language model gets a new head; a reward model is trained further
    data: Pairs = Pairs()
    objective: Pairwise = Pairwise(score=Scalar())  # the ranking loss of every method
    method: Method = fine_tuning.Plain()  # what the model is trained with beside the ranking loss
    train: Train = dataclasses.replace(
        BradleyTerry().train, save_every=10
    )  # a few hundred labels are a few dozen updates
    lora: Lora = Lora()  # adapters that are trained in the model's place, with its head; adapter/ is what PEFT reads
    lengths: PairLengths = PairLengths()
    devices: Devices = Devices()
    seed: int = 0  # of the head's and the adapters' first weights, the data's order and dropout's masks

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        if self.train.seed:
            raise UserError(f"train.seed={self.train.seed}: the job's own --seed decides; set that one")
        if not isinstance(self.objective.score, Scalar):
            name = type(self.objective.score).__name__
            raise UserError(f"objective.score={name}: a reward model's score is its head's; use Scalar")
        self.method.check(self.train)
        check_microbatches(self.method.objective(self.objective), self.train.microbatches)

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
        self.train.check(reward.model, groups)
        if not hf.expressible(reward.model) and len({repr(p.prompt) for p in train}) < 2:
            raise UserError(
                f"--data.path {self.data.path}: {len(train)} training pairs of one prompt: transformers gets the "
                "linear head that comes nearest, which is fitted on pairs of at least two; give more"
            )
        unlabelled = []
        if getattr(self.method.objective(self.objective), "unlabelled", False):
            unlabelled, more = without_labels(reward, train, self.method, seed=self.seed)
            hashes |= more
        origin = {
            **self.model.origin,
            **({"rank": self.lora.rank} if self.lora.rank else {}),
            "method": type(self.method).__name__,
            "labels": len(train),
            "seed": self.seed,
            "data": {self.data.path: hashes[self.data.path]},
        }
        work, provenance = begin(
            self, hashes, command=command, params=reward.params, labels=self.data.labels(train, held)
        )
        console.print(f"{len(train):,} pairs to train on{used(train)}; {len(held):,} held out")
        jsonl.write(work / "held_out.jsonl", held)
        if self.method.new_head:
            work.stage("start", lambda folder: self.start_stage(reward, groups, folder))
            reward = dataclasses.replace(reward, params=with_saved_head(reward, work / "start"))
        work.stage("train", lambda folder: self.train_stage(reward, groups, unlabelled, train, origin, work, folder))
        work.stage("evaluate", lambda folder: self.evaluate_stage(held, work, folder))
        scores = jsonl.read(work / "evaluate" / "scores.jsonl", ItemScore)
        run = provenance.finish(contract=reward.chat.contract())
        conclude(work, train, held, scores, seed=self.seed, run=run)

    def start(self) -> RewardModel:
        """The model before training: with its own head, or with a new one."""
        length, flag = self.lengths.max_length, "--lengths.max-length"
        reward = load_model(self.model, length=length, flag=flag, lora=self.lora)
        if reward.model.head is not None:
            if self.method.new_head:
                raise UserError(
                    f"--model.path {self.model.path}: a reward model with its own head, and the method trains a new "
                    "one; start from the model that it was made from"
                )
            console.print(f"{self.model.path} is a reward model: its head is trained further")
        elif isinstance(reward.model.config, EncoderConfig) and not reward.model.config.pooler:
            console.print(f"{self.model.path} was saved without a pooler: a new one is drawn and trained")
        return drawn(reward, self.method.head, seed=self.seed, lora=self.lora)

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

    def start_stage(self, reward: RewardModel, groups: Sequence[Group], folder: Path) -> Mapping[str, Any]:
        """Writes what a method made of its new head: computed again, it might differ in a bit, and a resumed run is
        refused where its first parameters do.
        """
        if self.train.eval_every:
            groups, _ = split(groups, self.train.eval_share)  # as the training will: nothing of what is evaluated
        key = jax.random.fold_in(jax.random.key(self.seed), 1)  # not the head's own
        head = self.method.first_head(reward.model, reward.params, groups, key)
        tensors = jax.tree.map(to_host, head_file.part(reward.model, {**reward.params, "head": head}))
        if distributed.writes():
            head_file.write(folder, reward.model, tensors, nearest={})
        return {"labels": len(groups)}

    def train_stage(
        self,
        reward: RewardModel,
        groups: Sequence[Group],
        unlabelled: Sequence[Group],
        train: Sequence[Preference],
        origin: Mapping[str, Any],
        work: Workdir,
        folder: Path,
    ) -> Mapping[str, Any]:
        """Trains and exports; done only when the export, read again, gives the same rewards."""
        how, contract = dataclasses.replace(self.train, seed=self.seed), reward.chat.contract()
        model, params = self.method.start(reward.model, reward.params, jax.random.fold_in(jax.random.key(self.seed), 1))
        objective, more = self.method.objective(self.objective), {"contract": contract, "unlabelled": unlabelled}
        params = fit(model, params, objective, groups, how, folder, name="reward model", **more)
        model, params = self.method.end(model, params)
        trained = dataclasses.replace(reward, model=model, params=params)
        difference = export_reward(work / "export", trained, self.model, train, origin=origin)
        console.print(f"exported and read again: rewards differ by at most {difference:.0e}")
        if self.lora.rank:
            self.write_adapter(trained, work)
        return {"labels": len(groups), "difference_after_export": difference}

    def write_adapter(self, trained: RewardModel, work: Workdir) -> None:
        """Writes the adapter for PEFT, where one of its adapters upon this very base can be what was trained."""
        if self.model.adapter or not hf.expressible(trained.model):
            why = "the base has an adapter itself" if self.model.adapter else "transformers has no class for this head"
            console.print(f"no adapter/ for PEFT: {why}; export/ is the whole model")
            return
        peft.save(work / "adapter", trained.model, trained.params, base=self.model.path)
        console.print(f"adapter for PEFT: [bold]{work / 'adapter'}[/], of {self.model.path}")

    def evaluate_stage(self, held: Sequence[Preference], work: Workdir, folder: Path) -> Mapping[str, Any]:
        """Scores the held-out pairs with the exported model."""
        exported = load_reward(self.model.plain(work / "export"))
        scores = from_scores(held, exported.rewards(held), logistic=True)
        write_scores(folder / "scores.jsonl", scores)
        return {"items": len(held)}


def drawn(reward: RewardModel, head: HeadConfig, *, seed: int, lora: Lora = OFF) -> RewardModel:
    """A model with what it lacks: a head, of an encoder the pooler that it reads, adapters that are asked for."""
    model, params, key = reward.model, reward.params, jax.random.key(seed)
    if model.head is None:
        if isinstance(model.config, EncoderConfig):
            if not model.config.pooler:
                model = model.with_config(pooler=True)
                params = with_pooler(model, params, key)
            model = model.with_head(head, pool=("pooler",))
        else:
            model = model.with_head(head)
        params = model.add_head(params, key, mesh=current_mesh())
    model, params = with_adapters(model, params, lora, seed=seed)
    return dataclasses.replace(reward, model=model, params=params)


def with_pooler(model: Model, params: Any, key: jax.Array) -> Any:
    """An encoder's parameters with a new pooler, as transformers draws one for a classifier."""
    fresh = model.init(key, mesh=current_mesh())["encoder"]
    return {**params, "encoder": {**fresh, **params["encoder"]}}


def with_saved_head(reward: RewardModel, folder: Path) -> Any:
    """The parameters with the head that `TrainJob.start_stage` wrote."""
    tensors = head_file.load(folder, reward.model)
    shardings = jax.tree.map(lambda x: x.sharding, reward.params["head"])
    head = {name: jax.device_put(tensors[f"head.{name}"], sharding) for name, sharding in shardings.items()}
    return {**reward.params, "head": head}


def used(train: Sequence[Preference]) -> str:
    """Which strength columns the pairs have, in words."""
    count = {
        "weight": sum(p.weight is not None for p in train),
        "margin": sum(p.margin is not None for p in train),
        "soft label": sum(p.smooth > 0 for p in train),
    }
    said = ", ".join(f"{n:,} with a {name}" for name, n in count.items() if n)
    return f" ({said})" if said else ""
