"""Fits a reward model's calibrator on held-out pairs and keeps it in the model's directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.special import expit

from rmjax import json_file
from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.evaluation.baselines import lengths
from rmjax.evaluation.calibration import calibration
from rmjax.evaluation.calibrator import cross_validated, fit
from rmjax.jobs.devices import Devices
from rmjax.jobs.judge import without_nan
from rmjax.jobs.reward import CALIBRATION, Overlong, load_reward, origin_of, save_calibrator
from rmjax.jobs.score_tables import calibration_lines
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.workdir import begin
from rmjax.records import Preference
from rmjax.statistics import paired_bootstrap

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateJob:
    """Fits temperature, offset and, if asked, a length term; keeps them beside the weights; prints what they change.

    `score` then applies them. Strength columns of the pairs play no part: the labels are taken as they are.
    """

    workdir: str = "runs/calibrate"
    model: ModelSource = ModelSource()  # a local directory: the calibrator is written into it
    data: PairFile = PairFile()  # pairs that the model was not trained on: held_out.jsonl of its training
    length: bool = False  # fit a length term too; it can change which answer wins
    folds: int = 5  # of the cross-validation that the figures come from; pairs of a prompt stay together
    max_length: int = 0  # tokens of prompt and answer together; 0: the model's own positions
    overlong: Overlong = "auto"  # longer ones: error, drop or cut; auto: a decoder refuses them, an encoder cuts
    devices: Devices = Devices()
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "folds", least=2)
        require("", self, "max_length", least=0)

    def run(self, command: str = "") -> None:
        """Fits, writes and prints, on all devices."""
        with self.devices.use():
            self.calibrate(command)

    def calibrate(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        self.model.require_own_weights("the calibrator is kept beside the weights that it is fitted for")
        if self.model.path and not Path(self.model.path).expanduser().is_dir():
            raise UserError(f"--model.path {self.model.path}: give a local directory; the calibrator is kept in it")
        directory = self.model.directory()
        source = self.data.read()
        reward = load_reward(self.model, length=self.max_length)
        if source.hash in dict(origin_of(directory).get("data", {})).values():
            raise UserError(
                f"--data.path {self.data.path}: the model was trained on pairs of this file, on which it is surer than "
                "elsewhere; give held-out pairs (held_out.jsonl in the training's workdir)"
            )
        items = reward.limited(
            source.records, most=self.max_length, policy=self.overlong, usual="error", flag="--overlong", what="pairs"
        )
        rewards, characters = reward.rewards(items).astype(np.float64), lengths(items)
        for p, pair in zip(items, rewards, strict=True):
            if not np.isfinite(pair).all():
                raise UserError(f"item {p.id!r}: rewards {pair.tolist()} are not finite; use --model.dtype float32")
        plain = expit(rewards[:, 0] - rewards[:, 1])
        found = fit(rewards, characters, length=self.length)
        after = cross_validated(rewards, characters, prompts(items), count=self.folds, length=self.length)
        work, provenance = begin(
            self,
            {self.data.path: source.hash},
            command=command,
            params=reward.params,
            labels={self.data.path: len(items)},
        )
        console.print(unused(items))
        methods = {"before": calibration(plain, seed=self.seed), "after": calibration(after, seed=self.seed)}
        change = paired_bootstrap((1 - after) ** 2 - (1 - plain) ** 2, seed=self.seed)
        facts: dict[str, Any] = {
            "n": len(items),
            "folds": self.folds,
            **{name: without_nan(dataclasses.asdict(c)) for name, c in methods.items()},
            "brier_change": dataclasses.asdict(change),
        }
        save_calibrator(directory, found, reward, data={self.data.path: source.hash}, **facts)
        json_file.write(work / "summary.json", {"calibrator": dataclasses.asdict(found), **facts})
        provenance.finish(contract=reward.chat.contract())
        console.print(f"{found.words}, on all {len(items):,} pairs")
        console.print(calibration_lines({"before": methods["before"], f"after, {self.folds} folds": methods["after"]}))
        told = "" if change.excludes_zero else ": cannot be told from none"
        console.print(f"change of the Brier score: {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]{told}")
        console.print(f"kept in [bold]{directory / CALIBRATION}[/]; score applies it")


def prompts(items: Sequence[Preference]) -> list[str]:
    """A key for each item's prompt."""
    return ["\x1e".join(f"{m.role}\x1f{m.content}" for m in p.prompt) for p in items]


def unused(items: Sequence[Preference]) -> str:
    """Which strength columns the pairs have, all of which play no part here."""
    names = [name for name in ("weight", "margin", "prob_chosen", "votes") if any(getattr(p, name) for p in items)]
    return f"columns that play no part here: {', '.join(names)}" if names else "labels are taken as they are"
