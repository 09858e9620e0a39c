"""Perplexity of a judgment's reasoning under the policy that wrote it (GFRIEND, arXiv:2506.08965).

    PPL(e) = exp(-1/T sum_t log pi(c_t | context, c_<t)),   c_1..c_T the reasoning's tokens

The verdict is no part of it. The public code scores the reasoning's text alone (context "none"), which rewards fluent
boilerplate; with the judge prompt before it (context "prompt") the sampler has recorded all that is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from rmjax.judging.rescoring import token_scores
from rmjax.records import Judgment

Context = Literal["prompt", "none"]


def perplexity(logps: Sequence[float]) -> float | None:
    """exp of the mean negative log-probability, in float64; None of no token."""
    return math.exp(-math.fsum(logps) / len(logps)) if len(logps) else None


def given_prompt(judgments: Sequence[Judgment]) -> list[float | None]:
    """PPL of each reasoning given its judge prompt, from the recorded log-probabilities.

    None where a judgment is unparsed or has no reasoning.
    """
    return [perplexity(j.logps[: j.reasoning]) if j.verdict else None for j in judgments]


def alone(judgments: Sequence[Judgment], model: Any, params: Any, *, bos: int | None) -> list[float | None]:
    """PPL of each reasoning without its judge prompt, by teacher forcing.

    The first token: after BOS where the family has one, so all T tokens count. Without BOS nothing predicts the first
    token; it is context and the other T - 1 count, as in the public code.

    Args:
        model, params: the policy that wrote the reasoning.
        bos: the family's BOS id (`Chat.bos`).

    Returns:
        None where a judgment is unparsed or no token counts.
    """
    sequences = {}
    for i, j in enumerate(judgments):
        tokens = [*([] if bos is None else [bos]), *j.tokens[: j.reasoning]]
        if j.verdict and len(tokens) > 1:
            sequences[i] = (tokens[:1], tokens[1:])
    scores = token_scores(model, params, list(sequences.values()))
    found = {i: perplexity([float(x) for x in logps]) for i, logps in zip(sequences, scores, strict=True)}
    return [found.get(i) for i in range(len(judgments))]
