"""How strong each label is: an ensemble's opinion of every pair, and a treated copy of the data to train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool
from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.jobs import strength_report
from rmjax.jobs.devices import Devices
from rmjax.jobs.lengths import Policy
from rmjax.jobs.reward import load_model
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.strength_members import Members
from rmjax.jobs.strength_report import Strengths
from rmjax.jobs.train import TrainJob
from rmjax.jobs.workdir import begin
from rmjax.methods.strength import StrengthEnsemble, score
from rmjax.models.config import Lora
from rmjax.records import Preference
from rmjax.refine import strength
from rmjax.refine.treatments import Treatment
from rmjax.training.features import cached
from rmjax.training.loop import Train

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrengthJob:
    """Scores every label with an ensemble; writes strengths.jsonl, treated.jsonl, summary.json, report.html.

    strengths.jsonl: the pairs as they were, with meta.strength (mean, std, the members' score differences).
    treated.jsonl: the same pairs after the treatment, ready to train on.
    With --trunk tuned every member is a whole model that is trained as the train job does; a killed run goes on at the
    last checkpoint of the last one. It costs members x folds trainings with scoring held_out, members with training.
    Weight, margin and soft labels (prob_chosen, votes) of the pairs are in the members' loss; a treatment that would
    overwrite one is refused.
    """

    workdir: str = "runs/strength"
    model: ModelSource = ModelSource()  # its frozen features are what heads see; tuned members are trained from it
    data: PairFile = PairFile()
    trunk: Literal["frozen", "tuned"] = "frozen"  # members: linear heads on features, or models that are fine-tuned
    ensemble: StrengthEnsemble = StrengthEnsemble()  # bootstrap, axes and penalties are for heads
    train: Train = TrainJob.train  # of tuned members; a member's seed decides the order of its pairs
    lora: Lora = Lora()  # tuned members are adapters, one each, and their heads, upon the model that they share
    treatment: Treatment = Treatment()
    overlong: Policy = "drop"  # pairs longer than a decoder can read; an encoder's contract cuts them, and says so
    features: str = "runs/features"  # where features are kept: they are computed once for a model and its data
    known: str = ""  # a field of meta that is true where a label is known to be wrong, else false: AUROC is reported
    devices: Devices = Devices()
    seed: int = 0  # of folds and resamples; tuned: of the first member, the others have the next ones

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED - self.ensemble.members + 1)
        if self.trunk == "frozen":
            if self.train != TrainJob.train:
                raise UserError("train: no setting of it counts for heads on a frozen trunk; add --trunk tuned")
            if self.lora.rank:
                raise UserError(f"lora.rank={self.lora.rank}: is for members that are tuned; add --trunk tuned")
            return
        ignored = {f"ensemble.{name}": (self.ensemble, name) for name in ("bootstrap", "axes", "penalties")}
        for what, (owner, name) in {**ignored, "features": (self, "features")}.items():
            if getattr(owner, name) != getattr(type(owner), name):
                raise UserError(f"{what}={getattr(owner, name)}: is for heads on a frozen trunk; leave it out")
        if self.ensemble.scoring == "training" and self.ensemble.folds != StrengthEnsemble.folds:
            raise UserError(f"ensemble.folds={self.ensemble.folds}: is for scoring held_out; leave it out")
        if self.train.seed:
            raise UserError(f"train.seed={self.train.seed}: the job's own --seed decides; set that one")

    def run(self, command: str = "") -> None:
        """Scores, treats and reports, on all devices."""
        trains = (self.train,) if self.trunk == "tuned" else ()
        with self.devices.use(*trains):
            self.stages(command)

    def stages(self, command: str) -> None:
        """Refuses what can be refused before work is done, then works."""
        source = self.data.read()
        items = list(source.records)
        self.treatment(strength.annotate(items, np.zeros((1, len(items)))))  # a column in the way is said now
        if self.known:
            known_wrong(items, self.known)  # said now; taken of what is left below
        members = Members(ensemble=self.ensemble, train=self.train, lora=self.lora, seed=self.seed)
        tuned = self.trunk == "tuned"
        start = load_model(self.model, lora=self.lora)
        items = start.fitting(items, most=0, policy=self.overlong, what="pairs")
        wrong = known_wrong(items, self.known) if self.known else None
        if tuned:
            members.check(start, items)
            if start.model.head is None:
                console.print("no reward head (and pooler) in the model: each member draws its own")
        work, provenance = begin(
            self,
            {self.data.path: source.hash},
            command=command,
            params=start.params,
            labels={self.data.path: len(items)},
        )
        penalty = {}
        if tuned:
            differences, how = members.differences(start, items, work), self.ensemble.words(members.kind)
        else:
            features = cached(self.features, start.model, start.params, start.chat, items)
            scored = score(features, items, self.ensemble, seed=self.seed)
            differences, penalty = scored.differences, {"penalty": scored.penalty}
            how = f"{self.ensemble.words()}, penalty {scored.penalty:g}"
        found = strength.annotate(items, differences)
        treated = self.treatment(found)
        jsonl.write(work / "strengths.jsonl", found)
        jsonl.write(work / "treated.jsonl", treated)
        result = Strengths(found=found, treated=treated, how=how, file=self.data.path, wrong=wrong)
        facts = {"schema": source.schema, "trunk": self.trunk, **penalty, **result.facts()}
        json_file.write(work / "summary.json", facts)
        strength_report.write(work / "report.html", result, run=provenance.finish(contract=start.chat.contract()))
        console.print(strength_report.table(result, title=f"{self.data.path}, by {self.model.path}"))
        console.print(strength_report.suspicious_table(result))
        console.print(f"report: [bold]{work / 'report.html'}[/]   to train on: {work / 'treated.jsonl'}")


def known_wrong(items: Sequence[Preference], field: str) -> Bool[np.ndarray, " n"]:
    """Which labels are known to be wrong.

    Raises:
      UserError: a record whose meta does not say so, or none or all of them wrong.
    """
    for p in items:
        if not isinstance(p.meta.get(field), bool):
            raise UserError(
                f"--known {field}: record {p.id!r} has meta.{field}={p.meta.get(field)!r}, not true or false"
            )
    wrong = np.array([p.meta[field] for p in items], bool)
    if wrong.all() or not wrong.any():
        raise UserError(
            f"--known {field}: {int(wrong.sum())} of {len(wrong)} labels are wrong; there must be both kinds"
        )
    return wrong
