"""Preference refinement of GFRIEND (arXiv:2506.08965): many judgments -> grades -> weighted pairs.

Equations, tests and deviations: docs/methods/gfriend.md.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rmjax.bounds import require
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.judging.judge import Judge
from rmjax.records import Judgment, Preference
from rmjax.refine import hints
from rmjax.refine.levels import Grade, Graded, Score, graded, parse_quantile
from rmjax.refine.pairs import Normalise, Policy, by_prompt, groups, pairs, weighted
from rmjax.refine.perplexity import Context, alone, given_prompt
from rmjax.refine.table import Table, table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement:
    """How judgments become pairs. The public code's constants: `PAPER`."""

    context: Context = "prompt"  # perplexity of the reasoning given the judge prompt, or of the reasoning alone (none)
    score: Score = "perplexity"  # exp(-PPL / tau), or 1 - rank of PPL in the run
    tau: float = 10.0  # scale of the perplexity score; unused by rank
    # strong above it: a number (paper: 0.5), or quantile:Q of the run's scores; it names levels, and changes training
    # only where grade="levels"
    threshold: float | str = "quantile:0.5"
    grade: Grade = "signed"  # signed: +s right, -s wrong; unsigned: s; levels: SA 2, WA 1, WR -1, SR -2
    pairs: Policy = "all"  # all: accepted x rejected of a prompt; one: the earliest pair of an item (plain DPO)
    weights: Literal["softplus", "off"] = "softplus"  # log(1 + exp(alpha * gap of grades)); off: 1, and then grades
    # (context, score, tau, grade) only describe the judgments
    alpha: float = 1.0  # slope of the weight
    normalise: Normalise = "run"  # none; run: mean 1, which matters with the objective's normalise="count" only; item:
    # every item's weights sum to the same
    unparsed: Literal["drop", "reject"] = "drop"  # judgments without a verdict: left out, or further rejected ones
    retries: int = 0  # how often items that make no pair are sampled again
    retry_samples: int = 8  # judgments per slot order and retry
    hints: int = 0  # judgments asked for by a hint, per verdict that an item without a pair lacks (Con-J: 1)

    def __post_init__(self) -> None:
        parse_quantile(self.threshold)
        for name, kind in typing.get_type_hints(type(self)).items():
            options = typing.get_args(kind) if typing.get_origin(kind) is Literal else (getattr(self, name),)
            if getattr(self, name) not in options:
                raise UserError(f"refinement.{name}={getattr(self, name)!r}: use one of {', '.join(options)}")
        if not isinstance(self.threshold, str):
            require("refinement.", self, "threshold", least=0, most=1)  # as scores do
        require("refinement.", self, "tau", above=0)
        require("refinement.", self, "alpha", "retries", "hints", least=0)
        require("refinement.", self, "retry_samples", least=1)
        for name, used, why in (
            ("tau", self.score == "perplexity", "score='rank'"),
            ("alpha", self.weights == "softplus", "weights='off'"),
            ("retry_samples", self.retries > 0, "retries=0"),
        ):
            if not used and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(f"refinement.{name}={getattr(self, name)} does nothing with {why}: leave one out")


# The constants of the public code: at tau = 10 a threshold of 0.5 is a perplexity of 6.93 of the reasoning alone.
PAPER = Refinement(context="none", tau=10.0, threshold=0.5, grade="unsigned", alpha=1.0, normalise="none")


@dataclasses.dataclass(frozen=True)
class Refined:
    """What refinement made."""

    groups: list[Group]  # to train on: one per rendered prompt with a pair
    graded: list[Graded]  # every judgment, those of retries and hints last
    table: Table


def refine_judgments(
    judgments: Sequence[Judgment],
    items: Sequence[Preference],
    config: Refinement,
    *,
    judge: Judge | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> Refined:
    """Stage 2 of GFRIEND after sampling.

    Args:
        judgments: several of every item, sampled by the policy that will be the reference.
        items: the labelled pairs that were judged.
        judge: that policy with its sampling settings; needed for context="none", retries and hints.
        seed: of retries, of hints, and of ties between slot orders under pairs="one".
        folder: where judgments of retries and hints are kept, so that an interrupted run resumes.

    Raises:
        UserError: a judge is needed and not given, or an item is labelled a tie, so that no verdict is right.
    """
    if judge is None and (config.context == "none" or config.retries or config.hints):
        raise UserError(
            "refinement: context=none, retries and hints need the judge that sampled: give it, or turn them off"
        )
    if (even := next((p for p in items if p.tie), None)) is not None:
        raise UserError(f"item {even.id!r}: labelled tie, so no verdict is right; drop ties before refinement")

    # Items whose samples are all right or all wrong make no pair: sample again, then name the missing verdict.
    judge = judge and dataclasses.replace(judge, seed=seed)
    retried = (
        hints.retry(judge, items, judgments, rounds=config.retries, samples=config.retry_samples, folder=folder)
        if config.retries
        else []
    )
    judgments = [*judgments, *retried]
    if config.hints:
        judgments += hints.hint(judge, items, judgments, samples=config.hints, folder=folder)

    # Perplexity of each reasoning under the policy that wrote it -> score -> level -> grade.
    if config.context == "prompt":
        perplexities = given_prompt(judgments)
    else:
        perplexities = alone(judgments, judge.model, judge.params, bos=judge.chat.bos)
    grades = graded(
        judgments,
        perplexities,
        score=config.score,
        tau=config.tau,
        threshold=config.threshold,
        grade=config.grade,
    )

    # Accepted x rejected within one rendered prompt, weighted by the gap of their grades.
    made = weighted(
        pairs(grades, policy=config.pairs, unparsed=config.unparsed == "reject", seed=seed),
        weights=config.weights,
        grade=config.grade,
        alpha=config.alpha,
        normalise=config.normalise,
    )
    return Refined(groups(made, items), grades, table(grades, by_prompt(grades), made, len(retried)))
