"""Which labels to buy, in the reward world: a new world for every run, and an annotator who may err."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from rmjax.bounds import require
from rmjax.jobs import active_report
from rmjax.jobs.active import OTHERS, bought, known, lead, unordered
from rmjax.jobs.active_report import BASELINE
from rmjax.jobs.curve import require_read
from rmjax.jobs.study import Cells
from rmjax.jobs.workdir import begin
from rmjax.methods.active import Buying, Market
from rmjax.methods.frozen import Frozen
from rmjax.oracles.column import hide
from rmjax.worlds.reward_world import Labelled, RewardWorld


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActiveWorld:
    """Selection strategies in the reward world: accuracy by labels bought, and labels saved against random.

    A new world, pool, start and test for every seed.
    """

    workdir: str = "runs/active_world"
    world: RewardWorld = RewardWorld()  # its seed is the first seed's
    pool: int = 1000  # pairs whose labels can be bought
    test: int = 4000
    seeds: int = 20
    strategies: tuple[str, ...] = OTHERS  # beside random
    buying: Buying = Buying()
    frozen: Frozen = Frozen(forms=("standard",))

    def __post_init__(self) -> None:
        require("", self, "pool", "test", least=10)
        require("", self, "seeds", least=2)
        self.buying.require_pool(self.pool)
        known(self.strategies, self.buying)
        require_read(self.frozen.schedule, ())
        self.world.require_seeds(self.seeds)

    def run(self, command: str = "") -> None:
        """Computes the runs that rows.jsonl lacks; writes summary.json and report.html; prints the tables."""
        first = self.world.seed
        work, provenance = begin(self, {}, command=command, seed=first)
        cells = Cells(work / "rows.jsonl", ("strategy", "run"))
        for number in range(self.seeds):
            run = functools.cache(functools.partial(self.world_of, first + number))
            for name in (BASELINE, *self.strategies):
                cells.fill({"strategy": name, "run": number}, lambda name=name, run=run: run()(name))
            active_report.console.print(f"world {number + 1} of {self.seeds}")
        active_report.conclude(
            work,
            provenance,
            cells.rows,
            self.buying.counts(),
            order=(BASELINE, *self.strategies),
            seed=first,
            testbed="controlled world",
            covers="A run is a world of its own, with its own pool and test pairs: intervals are over worlds.",
            over=f"{self.seeds} worlds",
            lead=f"{self.seeds} worlds with a pool of {self.pool:,} pairs each, {self.test:,} test pairs; a run "
            f"(a label draw in the tables) is a world. {lead(self.buying, self.frozen)}",
            baselines={},
            facts={"seconds_of": {"runs": round(sum(x["seconds"] for x in cells.rows), 3)}},
        )

    def world_of(self, seed: int) -> Callable[[str], dict[str, Any]]:
        """A strategy -> a line of rows.jsonl, in one world."""
        world = dataclasses.replace(self.world, seed=seed)
        train, test = world.pairs(self.pool), world.pairs(self.test, split="test")
        items = train.records()
        pairs = hide(items, seed=seed)
        features = unordered(train.features(), items, pairs)
        prompts = prompts_of(world, train)
        market = Market(pairs, features, test.features(), prompts, self.frozen, parts=1, seed=seed)
        return lambda name: bought(market, name, items, self.buying, 0)


def prompts_of(world: RewardWorld, pairs: Labelled) -> Float[np.ndarray, "n r"]:
    """What the features say of the prompt: both answers' mean, turned back through the prompt's rows of M."""
    rows = world.mixing[-world.relevant :]
    both = (pairs.chosen + pairs.rejected) / 2
    return (both @ rows.T / np.sum(np.square(rows), axis=1)).astype(np.float32)
