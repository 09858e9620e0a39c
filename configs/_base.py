"""What the controlled-world configs share: the SFT recipe and the rows of the comparison."""

import dataclasses
from collections.abc import Sequence

from rmjax.jobs.entries import AsIs, Entry
from rmjax.jobs.study import Study
from rmjax.methods.bradley_terry import BradleyTerry
from rmjax.methods.gfriend import Gfriend
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.scores import Implicit
from rmjax.refine.refinement import Refinement
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer

FEW, ALL = 64, 2048  # labels
GRID = ((1e-5, 60), (3e-5, 30), (3e-5, 60), (1e-4, 30), (1e-4, 60))  # Bradley-Terry's has as many points

DEMONSTRATIONS = 12_000
SFT = Train(
    optimizer=Optimizer(learning_rate=3e-3, b2=0.98, warmup=37, schedule="cosine", end=0.05, clip=1.0),
    batch=16,
    steps=750,
)
DPO = Train(
    optimizer=Optimizer(learning_rate=3e-5, b2=0.98, warmup=10, schedule="constant", clip=1.0),
    batch=16,
    steps=60,
    pairs_per_group=1,
)
PLAIN = Refinement(pairs="one", weights="off")


def judge_row(
    name: str,
    labels: int,
    *,
    samples: int,
    orders: str,
    refinement: Refinement,
    rounds: int = 1,
    draws: int = 0,
    like: str = "",
) -> Entry:
    """A row that trains the judge on its own samples. `like`: it takes the searched settings of that row."""
    method = Gfriend(
        samples=samples,
        orders=orders,
        rounds=rounds,
        sampling=Sampling(temperature=1.0, max_new_tokens=80),
        refinement=refinement,
        objective=Pairwise(score=Implicit(beta=0.1)),
        train=DPO,
    )
    return Entry(name=name, labels=labels, method=method, grid=() if like else GRID, draws=draws, like=like)


def bradley_terry_row(name: str, labels: int, *, draws: int = 0) -> Entry:
    """A linear head on the SFT judge's backbone."""
    rate, steps = (1e-3, 300) if labels <= FEW else (3e-4, 600)  # what the main study's search found
    optimizer = Optimizer(learning_rate=rate, b2=0.98, warmup=10, schedule="constant", clip=1.0)
    train = Train(optimizer=optimizer, batch=16, steps=steps)
    grid = ((3e-4, 60), (3e-4, 300), (3e-4, 600), (1e-3, 60), (1e-3, 300))
    return Entry(name=name, labels=labels, method=BradleyTerry(train=train), grid=grid, draws=draws)


def sft_rows() -> tuple[Entry, ...]:
    """The judge before any label."""
    return (
        Entry(name="SFT judge, greedy", labels=0, method=AsIs(), draws=1),
        Entry(name="SFT judge, one sample", labels=0, method=AsIs(temperature=1.0), draws=1),
    )


def gfriend_row(
    name: str,
    labels: int,
    *,
    samples: int = 16,
    orders: str = "random",
    refinement: Refinement = Refinement(),
    rounds: int = 1,
    like: str = "",
) -> Entry:
    """GFRIEND with one part changed."""
    return judge_row(name, labels, samples=samples, orders=orders, refinement=refinement, rounds=rounds, like=like)


def ablation(name: str, entries: Sequence[Entry], *, baseline: str = "") -> Study:
    """A study of GFRIEND's parts, compared with its first row, at the point that the main study found for every row."""
    return Study(
        workdir=f"runs/study_{name}",
        draws=3,
        search_draws=0,
        sft=SFT,
        demonstrations=DEMONSTRATIONS,
        entries=tuple(dataclasses.replace(e, grid=()) for e in entries),
        baseline=baseline,
    )
