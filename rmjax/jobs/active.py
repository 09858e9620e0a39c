"""Which labels to buy, on real pairs: their labels are hidden, and strategies buy them in rounds on frozen features."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from rmjax.bounds import LAST_SEED, require
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import accuracy
from rmjax.jobs import active_report
from rmjax.jobs.active_report import BASELINE
from rmjax.jobs.curve import outcomes, require_read
from rmjax.jobs.devices import Devices
from rmjax.jobs.lengths import Policy
from rmjax.jobs.reward import load_model
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.study import Cells
from rmjax.jobs.workdir import begin
from rmjax.methods.active import Buying, Market
from rmjax.methods.frozen import Frozen
from rmjax.oracles.column import ColumnOracle, hide
from rmjax.records import Pair, Preference
from rmjax.refine.information import InformationGain
from rmjax.refine.k_center import KCenter
from rmjax.refine.select import Random
from rmjax.refine.uncertainty import ENSEMBLE, Bald, Entropy, Margin, Variance
from rmjax.training.features import cached
from rmjax.training.frozen.basis import normalised
from rmjax.training.prompt_features import prompts

console = Console()
STRATEGIES = {
    BASELINE: Random(),
    "k-center-prompts": KCenter(of="prompt"),
    "k-center-answers": KCenter(of="answers"),
    "margin": Margin(),
    "entropy": Entropy(),
    "variance": Variance(),
    "bald": Bald(),
    "information-gain": InformationGain(),
}
OTHERS = tuple(name for name in STRATEGIES if name != BASELINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Active:
    """Labels hidden and bought: accuracy of the tuned Bradley-Terry head by selection strategy, and labels saved.

    Every run begins with the same random labels for all strategies; random buying is always among them.
    """

    workdir: str = "runs/active"
    model: ModelSource = ModelSource()
    data: Pairs = Pairs()
    strategies: tuple[str, ...] = OTHERS  # beside random
    buying: Buying = Buying()
    seeds: int = 20  # runs: each its own start, folds, ensembles and random choices
    frozen: Frozen = Frozen()
    # pairs of the pool longer than a decoder can read (held-out ones are an error always); an encoder's contract cuts
    # both, and says so
    overlong: Policy = "drop"
    features: str = "runs/features"  # where features are kept: they are computed once for a model and its data
    devices: Devices = Devices()
    seed: int = 0

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "seeds", least=2)
        known(self.strategies, self.buying)
        require_read(self.frozen.schedule, ())

    def run(self, command: str = "") -> None:
        """Computes the runs that rows.jsonl lacks; writes summary.json and report.html; prints the tables."""
        with self.devices.use():
            self.measure(command)

    def measure(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        train, test, hashes = self.data.load()
        require_labels(train, path=self.data.path)
        self.buying.require_pool(len(train))
        start = load_model(self.model)
        train = start.fitting(train, most=0, policy=self.overlong, what="pool")
        self.buying.require_pool(len(train))  # of what is left, before features are computed
        test = start.fitting(test, most=0, policy="error", what="held-out pairs")
        work, provenance = begin(
            self, hashes, command=command, params=start.params, labels=self.data.labels(train, test)
        )
        begun = time.perf_counter()
        pool, held = (cached(self.features, start.model, start.params, start.chat, p) for p in (train, test))
        only = prompts(self.features, start.model, start.params, start.chat, train)
        parts = len(start.model.pool)
        made = time.perf_counter() - begun
        pairs = hide(train, seed=self.seed)
        market = Market(
            pairs,
            unordered(pool, train, pairs),
            held,
            normalised(only, parts),
            self.frozen,
            parts=parts,
            seed=self.seed,
        )
        cells = Cells(work / "rows.jsonl", ("strategy", "run"))
        for number in range(self.seeds):
            for name in (BASELINE, *self.strategies):
                one = functools.partial(bought, market, name, train, self.buying, number)
                cells.fill({"strategy": name, "run": number}, one)
            console.print(f"run {number + 1} of {self.seeds}")
        spent = sum(x["seconds"] for x in cells.rows)
        active_report.conclude(
            work,
            provenance,
            cells.rows,
            self.buying.counts(),
            order=(BASELINE, *self.strategies),
            seed=self.seed,
            testbed=f"pairs of {self.data.path}",
            covers="All points are of one set of held-out pairs: no interval says anything about other pairs.",
            over=f"{self.seeds} runs",
            lead=f"Labels of {self.data.path} are hidden ({len(train):,} pairs) and bought in rounds, for heads on "
            f"frozen features of {self.model.path}; {len(test):,} pairs held out. {lead(self.buying, self.frozen)}",
            baselines={name: accuracy(scores) for name, scores in trivial(test, train).items()},
            facts={
                "contract": start.chat.contract(),
                "seconds_of": {"features": round(made, 3), "runs": round(spent, 3)},
            },
        )


def known(names: Sequence[str], buying: Buying) -> None:
    """Raises UserError for a strategy that is none, is there twice or always, and for an ensemble that none reads."""
    for name in names:
        if name not in OTHERS:
            why = "is always there: leave it out" if name == BASELINE else f"is none of {', '.join(OTHERS)}"
            raise UserError(f"strategies: {name!r} {why}")
    if len(set(names)) < len(names):
        raise UserError(f"strategies={tuple(names)}: give each once")
    if buying.members != Buying().members and not any(isinstance(STRATEGIES[name], ENSEMBLE) for name in names):
        raise UserError(
            f"buying.members={buying.members}: none of {', '.join((BASELINE, *names))} reads an ensemble; leave it out"
        )


def require_labels(items: Sequence[Preference], *, path: str) -> None:
    """Raises UserError for a pair with a weight or margin: what is bought is which answer is better."""
    odd = next((p for p in items if p.weight is not None or p.margin), None)
    if odd is not None:
        column = "margin" if odd.margin else "weight"
        raise UserError(
            f"{path}: record {odd.id!r} has {column}, which is not bought with a label: leave the column out "
            f"(--data.ignore {column})"
        )


def unordered(features: Features, items: Sequence[Preference], pairs: Sequence[Pair]) -> Features:
    """Features of first and second answers, for those of chosen and rejected ones."""
    straight = np.array([pair.first == p.chosen for pair, p in zip(pairs, items, strict=True)])[:, None]
    first = np.where(straight, features.chosen, features.rejected)
    return Features(features.ids, first, np.where(straight, features.rejected, features.chosen))


def bought(market: Market, name: str, items: Sequence[Preference], buying: Buying, number: int) -> dict[str, Any]:
    """One run of a strategy: a line of rows.jsonl."""
    begun = time.perf_counter()
    rounds = list(market.rounds(STRATEGIES[name], ColumnOracle(items), buying, number))
    right = [outcomes(r.fitted.differences[0]) for r in rounds]
    return {
        "labels": [r.labels for r in rounds],
        "accuracy": [float(o.mean()) for o in right],
        "ties": [int((o == 0.5).sum()) for o in right],
        "n": len(right[0]),
        "setting": rounds[-1].fitted.words[0],
        "seconds": round(time.perf_counter() - begun, 3),
    }


def lead(buying: Buying, frozen: Frozen) -> str:
    """What is bought and how the head is tuned, in words."""
    return (
        f"{buying.start} labels at random, the same for every strategy, then {buying.step} a round up to "
        f"{buying.most}. After every round the head chooses among {frozen.settings()} settings by cross-validation "
        "inside the labels that are bought."
    )
