"""Does strength find wrong labels, and do treatments repair what they cost? Labels are flipped at random, then sought.

Every row of the table trains one linear head on the same pairs, under two rules for its penalty:

    as for true labels    the penalty that held-out folds of the true labels choose: a recipe that knows of no noise
    as for noisy labels   the penalty that held-out folds of the noisy labels choose: a recipe tuned in the face of it

"Won back" is the share of the accuracy between noisy and true labels, both under the rule, that a row regains; its
interval is a percentile bootstrap over trials, all rows of a trial together.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmjax import json_file
from rmjax.bounds import LAST_SEED, require
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import accuracy
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs.devices import Devices
from rmjax.jobs.lengths import Policy
from rmjax.jobs.reward import load_model
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.study import Cells
from rmjax.jobs.workdir import Workdir, begin
from rmjax.methods.strength import StrengthEnsemble, best_penalty, columns, coordinates, fit, score
from rmjax.records import Preference
from rmjax.refine import strength
from rmjax.refine.treatments import PAPER, Treatment
from rmjax.statistics import t_interval
from rmjax.training.features import cached
from rmjax.training.frozen.basis import Basis
from rmjax.worlds.reward_world import RewardWorld

console = Console()
NOISY, TRUE, SHIPPED = "noisy labels", "true labels", "shipped default"
RULES = ("as for true labels", "as for noisy labels")
RESAMPLES = 9999


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Pairs with known flips, and what to test on."""

    records: Sequence[Preference]  # with noisy labels, and no columns that say how strong one is
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
    auroc = {}
    for scoring in ("training", "held_out"):
        scored = score(setting.train, setting.records, dataclasses.replace(how, scoring=scoring), seed=seed)
        auroc[scoring] = strength.auroc(scored.differences.mean(0), setting.flipped)
    found = strength.annotate(setting.records, scored.differences)
    rows = {name: columns(t(found) if t else found) for name, t in treatments(share).items()}
    rows[TRUE] = (np.zeros(len(x)), setting.flipped.astype(float))  # smoothing 1: the other answer is preferred
    true = np.where(setting.flipped[:, None], -x, x)
    penalties = [best_penalty(true, setting.records, how, seed=seed), scored.penalty]
    margin, smooth = (np.repeat([row[i] for row in rows.values()], 2, axis=0) for i in (0, 1))
    heads = fit(x, weight=np.ones(margin.shape), margin=margin, smooth=smooth, penalty=np.tile(penalties, len(rows)))
    scores = heads @ test.T
    right = ((scores > 0) + 0.5 * (scores == 0)).mean(1).reshape(len(rows), 2)
    return {
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

    def __post_init__(self) -> None:
        require("", self, "share", above=0, below=0.5)
        require("", self, "seeds", least=2, most=LAST_SEED)

    def conclude(
        self,
        work: Workdir,
        setting: Callable[[int], Setting],
        provenance: Provenance,
        title: str,
        held: Sequence[Preference] = (),
    ) -> None:
        """Runs the trials that trials.jsonl lacks, writes summary.json and run.json, prints the table.

        Args:
          setting: of a seed.
          held: texts of the test pairs.
        """
        cells = Cells(work / "trials.jsonl", ("seed",))
        for seed in range(self.seeds):
            cells.fill({"seed": seed}, functools.partial(self.timed, setting, seed))
        facts = {"seconds": round(sum(t["seconds"] for t in cells.rows), 1), **summary(cells.rows)}
        facts["baselines"] = {name: accuracy(s).accuracy for name, s in trivial(held).items()} if held else {}
        json_file.write(work / "summary.json", facts)
        provenance.finish()
        console.print(table(facts, title=title))
        console.print(f"numbers: {work / 'summary.json'}")

    def timed(self, setting: Callable[[int], Setting], seed: int) -> dict[str, Any]:
        """One trial as a line of trials.jsonl."""
        start = time.perf_counter()
        found = trial(setting(seed), self.ensemble, share=self.share, seed=seed)
        return {**found, "seconds": round(time.perf_counter() - start, 3)}


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
        self.world.require_seeds(self.seeds)

    def run(self, command: str = "") -> None:
        """Runs every seed and prints the table."""
        work, provenance = begin(self, {}, command=command, seed=self.world.seed)
        title = f"reward world, {self.labels:,} labels, {self.share:.0%} of them flipped, {self.seeds} seeds"
        self.conclude(work, self.setting, provenance, title)

    def setting(self, seed: int) -> Setting:
        """One world with its noisy training pairs and clean test pairs."""
        world = dataclasses.replace(self.world, seed=self.world.seed + seed, noise=self.share)
        train, test = world.pairs(self.labels), world.pairs(self.test, split="test")
        return Setting(
            records=train.records(),
            train=train.features(),
            flipped=train.flipped,
            test=test.features(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseJob(Noise):
    """Flips labels of a file and looks for them. The file's own labels count as true, wrong ones among them too.

    Pairs with a weight, margin, probability or votes are refused; --data.ignore leaves a column out.
    """

    workdir: str = "runs/noise"
    model: ModelSource = ModelSource()
    data: Pairs = Pairs()
    overlong: Policy = "drop"  # pairs longer than a decoder can read; an encoder's contract cuts them, and says so
    features: str = "runs/features"  # where features are kept: they are computed once for a model and its data
    devices: Devices = Devices()

    def run(self, command: str = "") -> None:
        """Computes features, runs every seed and prints the table, on all devices."""
        with self.devices.use():
            self.measure(command)

    def measure(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        train, held, hashes = self.data.load()
        plain(train, self.data.path)
        plain(held, self.data.eval_path or self.data.path)
        start = load_model(self.model)
        train, held = (start.fitting(p, most=0, policy=self.overlong, what="pairs") for p in (train, held))
        work, provenance = begin(
            self, hashes, command=command, params=start.params, labels=self.data.labels(train, held), seed=0
        )
        both = [cached(self.features, start.model, start.params, start.chat, items) for items in (train, held)]
        title = f"{self.data.path}, {len(train):,} labels, {self.share:.0%} of them flipped, {self.seeds} draws"
        self.conclude(work, lambda seed: flipped(train, *both, self.share, seed), provenance, title, held)


def plain(items: Sequence[Preference], path: str) -> None:
    """Raises UserError where a pair is a tie or says how strong its label is."""
    if (even := next((p for p in items if p.tie), None)) is not None:
        raise UserError(f"{path}: record {even.id!r} is a tie, which has no label to flip: --data.tie drop")
    for p in items:
        for name in ("weight", "margin", "prob_chosen", "votes"):
            if getattr(p, name) is not None:
                raise UserError(
                    f"{path}: record {p.id!r} has {name}, which means nothing once labels are flipped at random: leave "
                    f"it out (--data.ignore {name}, or the column of the file that it is read from)"
                )


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
    """Means over trials with 95 % t intervals, and what is won back."""
    interval = lambda values: dataclasses.asdict(t_interval(values))
    of = lambda name, rule: np.array([t["accuracy"][name][rule] for t in trials])
    out: dict[str, Any] = {
        "auroc": {way: interval([t["auroc"][way] for t in trials]) for way in ("held_out", "training")},
        "rules": {},
    }
    for rule in RULES:
        noisy, lost = of(NOISY, rule), of(TRUE, rule) - of(NOISY, rule)
        out["rules"][rule] = {
            name: {
                "accuracy": interval(of(name, rule)),
                "gain": interval(of(name, rule) - noisy),
                "won_back": won_back(of(name, rule) - noisy, lost),
            }
            for name in trials[0]["accuracy"]
        }
    return out


def won_back(gain: Float[np.ndarray, " t"], lost: Float[np.ndarray, " t"]) -> dict[str, float | int | None] | None:
    """Mean gain over mean loss with a percentile bootstrap interval (95 %) over trials, gain and loss of one together.

    None where nothing is lost on average. Without an interval (low and high are None) where nothing is lost in some
    resample of the trials: the ratio has no bounds there.
    """
    if lost.mean() <= 0:
        return None
    draws = np.random.default_rng(0).integers(0, len(lost), (RESAMPLES, len(lost)))
    gains, losses = gain[draws].mean(1), lost[draws].mean(1)
    low, high = np.quantile(gains / losses, [0.025, 0.975]).tolist() if losses.min() > 0 else (None, None)
    return {"value": float(gain.mean() / lost.mean()), "low": low, "high": high, "n": len(lost)}


def percent(won: Mapping[str, Any] | None) -> str:
    """What is won back in percent, with its interval."""
    if won is None:
        return "nothing lost"
    bounds = "no interval" if won["low"] is None else f"{100 * won['low']:.0f} to {100 * won['high']:.0f}"
    return f"{100 * won['value']:.0f} % ({bounds})"


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
            won = "" if name in (NOISY, TRUE) else percent(row["won_back"])
            out.add_row(rule if name == NOISY else "", name, f"{100 * a['value']:.1f}", gain, won)
        out.add_section()
    for name, value in facts["baselines"].items():
        out.add_row("", name, f"{100 * value:.1f}", "", "", style="dim")
    return out
