"""A scalar reward model from few labels: a head on the features of a frozen model, exported, read again, evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import from_scores
from rmjax.evaluation.summary import write_scores
from rmjax.jobs import head_report
from rmjax.jobs.curve import BASELINE, METHODS, known_methods, learn, require_bare, require_read
from rmjax.jobs.devices import Devices
from rmjax.jobs.head_features import FeaturedPairs, both
from rmjax.jobs.reward import (
    PairLengths,
    RewardModel,
    export_reward,
    load_model,
    load_reward,
    rewards_differ,
)
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.workdir import Workdir, begin
from rmjax.methods import nearest
from rmjax.methods.frozen import Bench, Frozen
from rmjax.models import heads, hf, pooling
from rmjax.training.frozen.basis import normalised

console = Console()
TITLES = {"bradley-terry": (BASELINE, None), **METHODS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadJob:
    """Features, computed once -> a head, tuned by cross-validation inside the labels -> export -> evaluate.

    The head is what `curve` measures at all labels, with the same code and the same settings tried; the model itself is
    not changed. Weight, margin and soft labels (prob_chosen, votes) are columns of the pairs; a method that would
    replace one refuses it.
    """

    workdir: str = "runs/head"  # export/ is the model; held_out.jsonl what it was not trained on
    model: ModelSource = ModelSource()  # a decoder or an encoder; a reward model's own head is not used
    data: Pairs = Pairs()
    method: str = "bradley-terry"  # or one of curve's: flip, smooth, margin, simcse, swav, metarm, proto-rm, ...
    pool: tuple[str, ...] = ()  # what the head reads: last, cls, pooler, mean, answer; empty: the model's usual
    frozen: Frozen = Frozen()
    lengths: PairLengths = PairLengths()
    features: str = "runs/features"  # where features are kept: they are computed once for a model and its data
    devices: Devices = Devices()
    seed: int = 0  # of folds and heads

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        known_methods((self.method,), field="method", among=TITLES)
        require_read(self.frozen.schedule, [self.method] if self.method in METHODS else [])

    def run(self, command: str = "") -> None:
        """Runs what is not done, on all devices."""
        with self.devices.use():
            self.stages(command)

    def stages(self, command: str) -> None:
        """Checks everything that can be checked before work is done, then fits and evaluates."""
        train, held, hashes = self.data.load()
        require_bare(train, [self.method] if self.method in METHODS else [], path=self.data.path)
        start = load_model(self.model, length=self.lengths.max_length, flag="--lengths.max-length")
        start = self.trunk(start)
        how, most = self.lengths, self.lengths.max_length
        flag = "--lengths.train"
        train = start.limited(train, most=most, policy=how.train, usual="drop", flag=flag, what="training pairs")
        flag = "--lengths.evaluation"
        held = start.limited(held, most=most, policy=how.evaluation, usual="error", flag=flag, what="held-out pairs")
        if len({repr(p.prompt) for p in train}) < 2:
            raise UserError(
                f"--data.path {self.data.path}: {len(train)} training pairs of one prompt: settings are chosen by "
                "cross-validation over prompts; give pairs of at least two"
            )
        work, provenance = begin(
            self, hashes, command=command, params=start.params, labels=self.data.labels(train, held)
        )
        console.print(f"{len(train):,} pairs to train on; {len(held):,} held out")
        jsonl.write(work / "held_out.jsonl", held)
        data = {self.data.path: hashes[self.data.path]}
        pool, tests = (FeaturedPairs(items, start, self.features) for items in (train, held))
        work.stage("fit", lambda folder: self.fit_stage(pool, tests, data, work, folder))
        work.stage("evaluate", lambda folder: self.evaluate_stage(tests, work, folder))
        run = provenance.finish(contract=start.chat.contract())
        head_report.conclude(
            work,
            pool,
            tests,
            title=TITLES[self.method][0],
            base=self.model.path,
            file=self.data.path,
            run=run,
            seed=self.seed,
        )

    def trunk(self, start: RewardModel) -> RewardModel:
        """The model without a head, with the pooling that is asked for."""
        if start.model.head is not None:
            console.print(f"{self.model.path} is a reward model: its head is left out and a new one is fitted")
        params = {name: branch for name, branch in start.params.items() if name != "head"}
        pool = self.pool or pooling.default(start.model.config)
        if any(kind.startswith(pooling.UNIT) for kind in pool):
            raise UserError(f"pool={pool}: leave {pooling.UNIT} out; --frozen.forms says whether parts are normalised")
        return dataclasses.replace(start, model=start.model.with_head(None, pool), params=params)

    def fit_stage(
        self, pool: FeaturedPairs, tests: FeaturedPairs, data: Mapping[str, str], work: Workdir, folder: Path
    ) -> Mapping[str, Any]:
        """Fits and exports; done only when the export, read again, gives the same rewards."""
        start, train = pool.start, pool.items
        parts = len(start.model.pool)
        bench = Bench(pool.features, tests.features, train, self.frozen, parts=parts, seed=self.seed)
        title, method = TITLES[self.method]
        fitted = base = bench.baseline(len(train), [0])
        if method is not None:
            fitted = learn(bench, len(train), [0], method, base)
        if not np.isfinite(fitted.differences).all():
            raise UserError("the head's scores are not finite numbers; lower --frozen.schedule.learning-rate")
        console.print(f"{title}: {fitted.words[0]} of {self.frozen.settings(method)} settings tried")
        head, params, kinds = bench.served(fitted, method, start.model.pool)
        model = start.model.with_head(head, kinds)
        reward = dataclasses.replace(start, model=model, params={**start.params, "head": params})
        origin = {**self.model.origin, "labels": len(train), "seed": self.seed, "data": data}
        origin |= {"method": title, "trunk": "frozen"}
        known = None
        if not hf.expressible(model):
            (kind,) = nearest.pool(model)
            known = pool.kind(kind), rewards_of(reward, both(pool.features))
        difference = export_reward(work / "export", reward, self.model, train, origin=origin, known=known)
        console.print(f"exported and read again: rewards differ by at most {difference:.0e}")
        json_file.write(folder / "fitted.json", {"held_out_differences": fitted.differences[0].tolist()})
        return {
            "labels": len(train),
            "setting": fitted.words[0],
            "settings_tried": self.frozen.settings(method),
            "held_loss": float(fitted.held_loss[0]),
            "difference_after_export": difference,
        }

    def evaluate_stage(self, tests: FeaturedPairs, work: Workdir, folder: Path) -> Mapping[str, Any]:
        """Scores the held-out pairs with the exported model, which must give what the fit gave."""
        export, held = work / "export", tests.items
        reward = load_reward(self.model.plain(export))
        found = reward.rewards(held)
        fitted = np.array(json_file.read(work / "fit" / "fitted.json")["held_out_differences"])
        apart = rewards_differ(export, fitted, found[:, 0].astype(np.float64) - found[:, 1], "the fitted head's")
        write_scores(folder / "scores.jsonl", from_scores(held, found, logistic=True))
        if hf.has_exact_head(export):
            (kind,) = nearest.pool(reward.model)
            linear = nearest.rewards(hf.load_stand_in(export)[1], kind, tests.kind(kind))
            write_scores(folder / "linear_scores.jsonl", from_scores(held, linear, logistic=True))
        return {"items": len(held), "difference_from_fit": apart}


def rewards_of(reward: RewardModel, features: Float[np.ndarray, "n 2 f"]) -> Float[np.ndarray, "n 2"]:
    """The head's rewards of features that are known: pooled parts as they are, which it may read normalised."""
    parts = len(reward.model.pool) if reward.model.pool[0].startswith(pooling.UNIT) else 0
    seen = normalised(features.reshape(-1, features.shape[-1]), parts)
    found = heads.split(reward.model.head, seen.shape[1]).apply(reward.params["head"], seen)
    return np.asarray(found).reshape(features.shape[:2])
