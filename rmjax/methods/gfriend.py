"""GFRIEND (arXiv:2506.08965): a generative judge from a few preference labels.

    1. fine-tune on demonstrations                                  sft()
    2. judge every labelled pair n times, grade by perplexity       sample(), refine()
    3. train on all graded pairs with multi-level DPO               mdpo()

Steps 2 and 3 can be repeated: in a later round the new judge samples, and is the new reference.
Equations, tests and deviations: docs/methods/gfriend.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.judging.asks import Orders
from rmjax.judging.judge import Judge
from rmjax.objectives.pairwise import Pairwise
from rmjax.objectives.reference import with_reference
from rmjax.objectives.scores import Implicit
from rmjax.objectives.sft import Sft
from rmjax.records import Demonstration, Judgment, Preference
from rmjax.refine.pairs import item_of
from rmjax.refine.refinement import Refined, Refinement, refine_judgments
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train, fit
from rmjax.training.optimizer import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gfriend:
    """Steps 2 and 3. Plain DPO on sampled judgments is the same with `refinement.pairs="one"` and weights off."""

    samples: int = 16  # judgments per labelled pair (the paper's n)
    rounds: int = 1  # how often the newest judge samples anew and trains on
    orders: Orders = "random"  # slot of the chosen answer: drawn per sample and balanced, or per item, or both
    constrained: bool = False  # where a sampled judgment holds no verdict, force one after its reasoning
    sampling: Sampling = Sampling(temperature=1.0, max_new_tokens=512)
    refinement: Refinement = Refinement()
    objective: Pairwise = Pairwise(score=Implicit(beta=0.1))
    train: Train = Train(optimizer=Optimizer(learning_rate=1e-6), batch=16, epochs=3, save_every=100)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.samples < 2:
            raise UserError(
                f"method.rounds={self.rounds}, method.samples={self.samples}: needs at least 1 round and 2 samples, "
                "for a pair is a right and a wrong judgment of one item"
            )
        if self.sampling.greedy:
            raise UserError(
                "method.sampling.temperature=0: all samples of a prompt would be alike and make no pair; "
                "give a number above 0"
            )


def sft(judge: Judge, demonstrations: Sequence[Demonstration], train: Train, *, folder: Path | None) -> Judge:
    """Stage 1: token NLL of the demonstrated judgments; the prompt is masked (the release trains on it)."""
    chat = judge.chat
    groups = [
        Group(id=d.id, prompt=chat.prompt_ids(d.prompt), completions=[chat.completion_ids(d.completion)])
        for d in demonstrations
    ]
    params = fit(judge.model, judge.params, Sft(), groups, train, folder, name="SFT", contract=chat.contract())
    return dataclasses.replace(judge, params=params)


def sample(
    judge: Judge, items: Sequence[Preference], method: Gfriend, *, seed: int, path: Path | None
) -> list[Judgment]:
    """Stage 2a: n judgments of every item by the policy that is about to be trained, and is its own reference."""
    sampler = dataclasses.replace(judge, sampling=method.sampling, seed=seed, constrained=method.constrained)
    return sampler.judgments(items, samples=method.samples, orders=method.orders, path=path)


def refine(
    judge: Judge,
    items: Sequence[Preference],
    judgments: Sequence[Judgment],
    method: Gfriend,
    *,
    seed: int,
    folder: Path | None,
) -> Refined:
    """Stage 2b: perplexity -> score -> level -> grade -> weighted pairs within one rendered prompt."""
    sampler = dataclasses.replace(judge, sampling=method.sampling, constrained=method.constrained)
    return refine_judgments(judgments, items, method.refinement, judge=sampler, seed=seed, folder=folder)


def mdpo(judge: Judge, groups: Sequence[Group], method: Gfriend, *, folder: Path | None, name: str = "M-DPO") -> Judge:
    """Stage 3: weighted DPO on every pair; the recorded log-probabilities are the reference's.

    Where none were recorded, the reference is the judge as it is, its adapters off.
    """
    groups = with_reference(judge.model, judge.params, groups)
    # Both slot orders of a pair are evaluated, or none (`train.eval_every`): their prompts differ.
    more = {"contract": judge.chat.contract(), "unit": item_of}
    params = fit(judge.model, judge.params, method.objective, groups, method.train, folder, name=name, **more)
    return dataclasses.replace(judge, params=params)


def round_seed(seed: int, number: int) -> int:
    """The sampling seed of round `number` (from 1): every round draws anew."""
    return seed + 1_000_003 * (number - 1)
