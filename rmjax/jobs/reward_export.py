"""A reward model from anywhere as a directory for others: written, read again, compared, measured, with a card."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import accuracy, from_scores
from rmjax.evaluation.summary import Row, write_scores, write_summary
from rmjax.evaluation.tables import accuracy_table
from rmjax.jobs import card
from rmjax.jobs.devices import Devices
from rmjax.jobs.head_report import LINEAR
from rmjax.jobs.reward import (
    CALIBRATION,
    Overlong,
    export_reward,
    features_of,
    load_calibrator,
    load_reward,
    origin_of,
    stand_in_of,
)
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.workdir import begin
from rmjax.methods import nearest
from rmjax.models import head_file, hf

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportJob:
    """Writes workdir/export: AutoModelForSequenceClassification with one label, tokenizer, contract, model card.

    The model is a directory of train or head, or any classifier with one label. It is reloaded and compared before
    success is said. Where transformers has no class for the head (prototypes, MLP, ensembles, several poolings), the
    exact head is kept in files of its own, and transformers gets the linear head nearest to it, with the gap printed.
    """

    workdir: str = "runs/export"  # export/ is the model
    model: ModelSource = ModelSource()
    # pairs to compare on: held-out ones, for the card has the accuracy on them; the nearest linear head is fitted on
    # their scores, not on their labels (one that is there already and nearer stays)
    data: PairFile = PairFile()
    max_length: int = 0  # tokens of prompt and answer together; 0: the model's own positions
    overlong: Overlong = "auto"  # longer ones: error, drop or cut; auto: a decoder refuses them, an encoder cuts
    devices: Devices = Devices()

    def __post_init__(self) -> None:
        require("", self, "max_length", least=0)

    def run(self, command: str = "") -> None:
        """Exports, compares and measures, on all devices."""
        with self.devices.use():
            self.export(command)

    def export(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        if self.model.quantise != "none":
            raise UserError(f"--model.quantise {self.model.quantise}: an export would keep its rounding; leave it out")
        source = self.data.read()
        directory = self.model.directory()
        target = Path(self.workdir) / "export"
        if target.resolve() == directory.resolve():
            raise UserError(f"--workdir {self.workdir}: its export/ is the model itself; give another --workdir")
        reward = load_reward(self.model, length=self.max_length)
        items = reward.limited(
            source.records, most=self.max_length, policy=self.overlong, usual="error", flag="--overlong", what="pairs"
        )
        kept = None if self.model.adapter else load_calibrator(directory, reward)  # it is of the base's weights
        adapter = {"adapter": self.model.adapter} if self.model.adapter else {}
        origin = {**(origin_of(directory) or {"base": self.model.path}), **adapter}
        seen = source.hash in dict(origin.get("data", {})).values()
        seed = origin.get("seed", 0)
        work, provenance = begin(
            self,
            {self.data.path: source.hash},
            command=command,
            params=reward.params,
            labels={self.data.path: len(items)},
            seed=seed,
        )
        rewards = reward.rewards(items)
        rows = {"this model": accuracy(scores := from_scores(items, rewards, logistic=True))}
        known, kind = None, ""
        if not hf.expressible(reward.model):
            (kind,) = nearest.pool(reward.model)
            known = features_of(reward, (kind,), items), rewards
        theirs = stand_in_of(reward, directory)
        difference = export_reward(target, reward, self.model, items, origin=origin, known=known, linear=theirs)
        if kept is not None:
            shutil.copyfile(directory / CALIBRATION, target / CALIBRATION)
            console.print(f"its calibrator is copied: {kept[0].words}")
        gap: dict[str, Any] | None = None
        if known is not None:
            gap = dict(head_file.read(target).nearest)
            linear = nearest.rewards(hf.load_stand_in(target)[1], kind, known[0])
            rows[LINEAR] = accuracy(from_scores(items, np.asarray(linear), logistic=True))
        write_scores(work / "scores.jsonl", scores)
        baselines = {name: accuracy(s) for name, s in trivial(items).items()}
        table = [
            Row.of(a, method=name, labels=origin.get("labels", 0), seed=seed, seconds=0.0) for name, a in rows.items()
        ]
        facts = {"difference_after_export": difference, "nearest_linear_head": gap, "trained_on_these": seen}
        write_summary(work / "summary.json", table, testbed=f"pairs of {self.data.path}", **facts)
        run = provenance.finish(contract=reward.chat.contract())
        if seen:
            console.print("the model was trained on pairs of this file: the card gets no accuracy")
        card.write(target, {} if seen else {**rows, **baselines}, run=run, data=self.data.path)
        console.print(accuracy_table(table, baselines, title=f"{len(items):,} pairs"))
        console.print(f"exported and read again: rewards differ by at most {difference:.0e}")
        console.print(f"model: [bold]{target}[/]   card: {target / 'README.md'}")
