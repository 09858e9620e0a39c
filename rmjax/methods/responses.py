"""A policy and what it answers: texts, tokens and log-probabilities under the policy that is the reference.

Dimensions: k responses to a prompt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmjax.data.chat import Chat
from rmjax.data.rows import Group
from rmjax.models.model import Model, Params
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import LogProb
from rmjax.records import Messages, Preference
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler


@dataclasses.dataclass(frozen=True)
class Policy:
    """A language model with its parameters and token contract."""

    model: Model
    params: Params
    chat: Chat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Responses:
    """A prompt and the different responses to it: equal texts are one, the first."""

    id: str
    prompt: Messages
    ids: tuple[int, ...]  # the prompt in tokens
    texts: tuple[str, ...]  # in the order in which they were sampled
    tokens: tuple[tuple[int, ...], ...]
    logps: tuple[float, ...]  # of each response under the policy that is the reference

    def group(self, *pair: int) -> Group:
        """What is trained on: the better and the worse response; without a pair: all of them, to score."""
        of = pair or range(len(self.tokens))
        return Group(
            id=self.id,
            prompt=self.ids,
            completions=[self.tokens[i] for i in of],
            ref_logps=[self.logps[i] for i in of],
            pairs=[(0, 1)] if pair else (),
        )

    @property
    def longest(self) -> tuple[int, int]:
        """Places of its two longest responses, in order: no pair of them takes a longer row."""
        first, second = sorted(sorted(range(len(self.tokens)), key=lambda i: -len(self.tokens[i]))[:2])
        return first, second


def respond(
    policy: Policy,
    prompts: Mapping[str, Messages],
    sampling: Sampling,
    *,
    samples: int,
    seed: int,
    path: Path | None = None,
) -> list[Responses]:
    """`samples` responses of the policy to every prompt: recorded log-probabilities are DPO's reference.

    Args:
      prompts: id -> conversation.
      path: JSONL file of rollouts; those that it holds are not sampled again.
    """
    sampler = Sampler(policy.model, policy.params, policy.chat, sampling, seed=seed)
    ids = {id: tuple(policy.chat.prompt_ids(prompt)) for id, prompt in prompts.items()}
    requests = [Request(id=id, prompt=ids[id], samples=samples) for id in prompts]
    found: dict[str, dict[str, Any]] = {id: {} for id in prompts}
    for rollout in sampler.run(requests, path=path):
        found[rollout.id].setdefault(rollout.text, rollout)
    return [
        Responses(
            id=id,
            prompt=prompt,
            ids=ids[id],
            texts=tuple(found[id]),
            tokens=tuple(r.tokens for r in found[id].values()),
            logps=tuple(math.fsum(r.logps) for r in found[id].values()),
        )
        for id, prompt in prompts.items()
    ]


def of_pairs(policy: Policy, pairs: Sequence[Preference]) -> list[Responses]:
    """Chosen and rejected answers of labelled pairs, to score."""
    return with_logps(policy, [(p.id, p.prompt, (p.chosen, p.rejected)) for p in pairs])


def with_logps(policy: Policy, texts: Sequence[tuple[str, Messages, tuple[str, ...]]]) -> list[Responses]:
    """Answers that somebody else wrote, with their log-probabilities under the policy that is the reference."""
    chat = policy.chat
    found = [
        Responses(
            id=id,
            prompt=prompt,
            ids=tuple(chat.prompt_ids(prompt)),
            texts=answers,
            tokens=tuple(tuple(chat.completion_ids(a)) for a in answers),
            logps=(0.0,) * len(answers),
        )
        for id, prompt, answers in texts
    ]
    logps = slot_scores(policy.model, policy.params, [r.group() for r in found], LogProb())
    return [dataclasses.replace(r, logps=tuple(map(float, x))) for r, x in zip(found, logps, strict=True)]
