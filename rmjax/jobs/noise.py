"""Does strength find wrong labels, and do treatments repair what they cost? Labels are flipped at random, then sought.

Every row of the table trains one linear head on the same pairs, under two rules for its penalty:

    as for true labels    the penalty that held-out folds of the true labels choose: a recipe that knows of no noise
    as for noisy labels   the penalty that held-out folds of the noisy labels choose: a recipe tuned in the face of it

"Won back" is the share of the accuracy between noisy and true labels, both under the rule, that a row regains.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmjax import json_file
from rmjax.bounds import LAST_SEED, require
from rmjax.config import to_json
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import accuracy
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs.devices import Devices
from rmjax.jobs.lengths import Policy
from rmjax.jobs.reward import load_model
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.workdir import Workdir
from rmjax.methods.strength import StrengthEnsemble, best_penalty, columns, coordinates, fit, score
from rmjax.records import Preference
from rmjax.refine import strength
from rmjax.refine.treatments import PAPER, Treatment
from rmjax.sampling.journal import fingerprint
from rmjax.statistics import t_interval
from rmjax.training.features import cached
from rmjax.training.frozen.basis import Basis
from rmjax.worlds.reward_world import RewardWorld

console = Console()
NOISY, TRUE, SHIPPED = "noisy labels", "true labels", "shipped default"
RULES = ("as for true labels", "as for noisy labels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Pairs with known flips, and what to test on."""

    records: Sequence[Preference]  # with noisy labels
    train: Features  # in the records' direction
    flipped: Bool[np.ndarray, " n"]
    test: Features  # true labels


def treatments(share: float) -> dict[str, Treatment | None]:
    """The rows: none, the paper's, the shipped one, and flips of as many labels as are wrong."""
    known = Treatment(flip=share, smoothing=0.0, margin=0.0)
    return {NOISY: None, **PAPER, SHIPPED: Treatment(), f"flip {share:g}, the true share": known}


def trial(setting: Setting, how: StrengthEnsemble, *, share: float, seed: int) -> dict[str, Any]:
    """One draw of flips: the AUROC of both ways to score, and each row's accuracy under both rules."""
    basis = Basis.fit(setting.train, axes=how.axes)
    x, test = coordinates(setting.train, basis), coordinates(setting.test, basis)
    prompts = [p.prompt for p in setting.records]
    auroc = {}
    for scoring in ("training", "held_out"):
        scored = score(setting.train, prompts, dataclasses.replace(how, scoring=scoring), seed=seed)
        auroc[scoring] = strength.auroc(scored.differences.mean(0), setting.flipped)
    found = strength.annotate(setting.records, scored.differences)
    rows = {name: columns(t(found) if t else found) for name, t in treatments(share).items()}
    rows[TRUE] = (np.zeros(len(x)), setting.flipped.astype(float))  # smoothing 1: the other answer is preferred
    true = np.where(setting.flipped[:, None], -x, x)
    penalties = [best_penalty(true, prompts, how, seed=seed), scored.penalty]
    margin, smooth = (np.repeat([row[i] for row in rows.values()], 2, axis=0) for i in (0, 1))
    heads = fit(x, weight=np.ones(margin.shape), margin=margin, smooth=smooth, penalty=np.tile(penalties, len(rows)))
    scores = heads @ test.T
    right = ((scores > 0) + 0.5 * (scores == 0)).mean(1).reshape(len(rows), 2)
    return {
        "seed": seed,
        "auroc": auroc,
        "penalties": dict(zip(RULES, penalties, strict=True)),
        "accuracy": {name: dict(zip(RULES, map(float, r), strict=True)) for name, r in zip(rows, right, strict=True)},
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """What both jobs share."""

    share: float = 0.2  # of the labels, flipped at random
    seeds: int = 20  # draws of flips; in the world, of everything
    ensemble: StrengthEnsemble = StrengthEnsemble()
    devices: Devices = Devices()

    def __post_init__(self) -> None:
        require("", self, "share", above=0, below=0.5)
        require("", self, "seeds", least=2, most=LAST_SEED)

    def conclude(
        self,
        work: Workdir,
        settings: Iterator[Setting],
        provenance: Provenance,
        title: str,
        held: Sequence[Preference] = (),
    ) -> None:
        """Runs the trials, writes summary.json and run.json, prints the table; `held`: texts of the test pairs."""
        start = time.perf_counter()
        trials = [trial(s, self.ensemble, share=self.share, seed=seed) for seed, s in enumerate(settings)]
        facts = {"seconds": round(time.perf_counter() - start, 1), **summary(trials), "trials": trials}
        facts["baselines"] = {name: accuracy(s).accuracy for name, s in trivial(held).items()} if held else {}
        json_file.write(work / "summary.json", facts)
        provenance.finish()
        console.print(table(facts, title=title))
        console.print(f"numbers: {work / 'summary.json'}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseWorldJob(Noise):
    """Flips labels of the reward world and looks for them; a new world, draw and ensemble for every seed."""

    workdir: str = "runs/noise_world"
    world: RewardWorld = RewardWorld()  # its seed is the first seed's, and its noise is `share`
    labels: int = 500
    test: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        require("", self, "labels", "test", least=10)
        if self.world.noise:
            raise UserError(f"world.noise={self.world.noise}: --share decides; set that one")

    def run(self, command: str = "") -> None:
        """Runs every seed and prints the table."""
        work = Workdir(self.workdir, to_json(self), {})
        seed = self.world.seed
        provenance = Provenance(work / "run.json", command=command, config=to_json(self), data={}, seed=seed)
        title = f"reward world, {self.labels:,} labels, {self.share:.0%} of them flipped, {self.seeds} seeds"
        self.conclude(work, (self.setting(i) for i in range(self.seeds)), provenance, title)

    def setting(self, seed: int) -> Setting:
        """One world with its noisy training pairs and clean test pairs."""
        world = dataclasses.replace(self.world, seed=self.world.seed + seed, noise=self.share)
        train, test = world.pairs(self.labels), world.pairs(self.test, split="test")
        return Setting(
            records=train.records(),
            train=Features(train.ids, train.chosen, train.rejected),
            flipped=train.flipped,
            test=Features(test.ids, test.chosen, test.rejected),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseJob(Noise):
    """Flips labels of a file and looks for them. The file's own labels count as true, wrong ones among them too."""

    workdir: str = "runs/noise"
    model: ModelSource = ModelSource()
    data: Pairs = Pairs()
    overlong: Policy = "drop"  # pairs longer than a decoder can read; an encoder's contract cuts them, and says so
    features: str = "runs/features"  # where features are kept: they are computed once for a model and its data

    def run(self, command: str = "") -> None:
        """Computes features on all devices, then runs every seed and prints the table."""
        with self.devices.use():
            train, held, hashes = self.data.load()
            start = load_model(self.model)
            hashes[f"weights of {self.model.path}"] = fingerprint(start.params)
            train, held = (start.fitting(p, most=0, policy=self.overlong, what="pairs") for p in (train, held))
            work = Workdir(self.workdir, to_json(self), hashes)
            provenance = Provenance(work / "run.json", command=command, config=to_json(self), data=hashes, seed=0)
            both = [cached(self.features, start.model, start.params, start.chat, items) for items in (train, held)]
        title = f"{self.data.path}, {len(train):,} labels, {self.share:.0%} of them flipped, {self.seeds} draws"
        settings = (flipped(train, *both, self.share, seed) for seed in range(self.seeds))
        self.conclude(work, settings, provenance, title, held)


def flipped(items: Sequence[Preference], train: Features, test: Features, share: float, seed: int) -> Setting:
    """The pairs with round(share * n) labels, drawn at random, turned around."""
    wrong = np.zeros(len(items), bool)
    wrong[np.random.default_rng(seed).permutation(len(items))[: round(share * len(items))]] = True
    bare = [Preference(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, id=p.id) for p in items]
    turn = lambda p: dataclasses.replace(p, chosen=p.rejected, rejected=p.chosen)
    swap = wrong[:, None]
    return Setting(
        records=[turn(p) if w else p for p, w in zip(bare, wrong, strict=True)],
        train=Features(
            train.ids, np.where(swap, train.rejected, train.chosen), np.where(swap, train.chosen, train.rejected)
        ),
        flipped=wrong,
        test=test,
    )


def summary(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over trials with 95 % t intervals; won back is a ratio of means, so it needs no interval of its own."""
    interval = lambda values: dataclasses.asdict(t_interval(values))
    mean = lambda name, rule: float(np.mean([t["accuracy"][name][rule] for t in trials]))
    out: dict[str, Any] = {
        "auroc": {way: interval([t["auroc"][way] for t in trials]) for way in ("held_out", "training")},
        "rules": {},
    }
    for rule in RULES:
        lost = mean(TRUE, rule) - mean(NOISY, rule)
        out["rules"][rule] = {
            name: {
                "accuracy": interval([t["accuracy"][name][rule] for t in trials]),
                "gain": interval([t["accuracy"][name][rule] - t["accuracy"][NOISY][rule] for t in trials]),
                "won_back": (mean(name, rule) - mean(NOISY, rule)) / lost if lost > 0 else None,
            }
            for name in trials[0]["accuracy"]
        }
    return out


def table(facts: Mapping[str, Any], *, title: str) -> Table:
    """The accuracies and what is won back, under both rules."""
    auroc = "   ".join(
        f"{name} {a['value']:.3f} ({a['low']:.3f} to {a['high']:.3f})"
        for name, a in (("unseen pairs", facts["auroc"]["held_out"]), ("trained pairs", facts["auroc"]["training"]))
    )
    out = Table(
        title=f"{escape(title)}\nAUROC of strength: {auroc}", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    out.add_column("penalty")
    out.add_column("trained on")
    for name in ("accuracy", "gain, points", "won back"):
        out.add_column(name, justify="right")
    for rule, rows in facts["rules"].items():
        for name, row in rows.items():
            a, g = row["accuracy"], row["gain"]
            gain = "" if name == NOISY else f"{100 * g['value']:+.1f} ({100 * g['low']:+.1f} to {100 * g['high']:+.1f})"
            won = "" if row["won_back"] is None or name == NOISY else f"{100 * row['won_back']:.0f} %"
            out.add_row(rule if name == NOISY else "", name, f"{100 * a['value']:.1f}", gain, won)
        out.add_section()
    for name, value in facts["baselines"].items():
        out.add_row("", name, f"{100 * value:.1f}", "", "", style="dim")
    return out
