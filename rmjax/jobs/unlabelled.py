"""Unlabelled answers for MetaRM, a few to a prompt: from a file, or those of the training pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console

from rmjax.data.rows import Group
from rmjax.data.sources import read_responses
from rmjax.data.text_pair import TextPair
from rmjax.errors import UserError
from rmjax.jobs.reward import RewardModel
from rmjax.methods.fine_tuning import MetaRm
from rmjax.objectives.meta import unlabelled
from rmjax.records import Message, Preference, content_id

console = Console()


def without_labels(
    reward: RewardModel, pairs: Sequence[Preference], method: MetaRm, *, seed: int
) -> tuple[list[Group], Mapping[str, str]]:
    """The answers of every prompt in tokens, and what was read by its hash.

    Args:
        method: `responses` is a file with a prompt and one completion a line, a prompt's lines anywhere; empty: the
            pairs' answers. Equal answers to a prompt count once.
        seed: draws the `answers` of a prompt that has more: all of them would be one row.

    Raises:
        UserError: a prompt with a single answer, one too long for a decoder, or anything that the reader refuses.
    """
    found: dict[str, tuple[Sequence[Message], list[str]]] = {}
    path, hashes = method.responses, {}
    if path:
        source = read_responses(path)
        hashes = {f"responses {path}": source.hash}
        flat = [(d.prompt, d.completion) for d in source.records]
        if source.dropped:
            console.print(source.summary())
    else:
        flat = [(p.prompt, answer) for p in pairs for answer in (p.chosen, p.rejected)]
    for prompt, answer in flat:
        key = json.dumps([[m.role, m.content] for m in prompt])
        answers = found.setdefault(key, (prompt, []))[1]
        if answer not in answers:
            answers.append(answer)
    groups, chat, rng = [], reward.chat, np.random.default_rng(seed)
    for prompt, answers in found.values():
        if len(answers) < 2:
            raise UserError(
                f"--method.responses {path}: a prompt has one answer ({prompt[-1].content[:40]!r}); MetaRM tells "
                "answers to one prompt apart: give two or more, or leave the prompt out"
            )
        if len(answers) > method.answers:
            taken = rng.choice(len(answers), size=method.answers, replace=False)
            answers = [answers[i] for i in sorted(taken)]
        ids = [chat.completion_ids(answer) for answer in answers]
        groups.append(unlabelled(content_id(prompt, *answers), chat.prompt_ids(prompt), ids))
    if isinstance(chat, TextPair):
        groups = chat.cut(groups).groups
    most = reward.model.config.max_positions
    longest = max(len(g.prompt) + max(map(len, g.completions)) for g in groups)
    if reward.model.share and longest > most:
        raise UserError(
            f"--method.responses {path}: a prompt with an answer takes {longest} tokens, and the model reads {most}; "
            "shorten it or leave it out"
        )
    said = path or "the training pairs, without their labels"
    taken, there = sum(len(g.completions) for g in groups), sum(len(answers) for _, answers in found.values())
    left = f" (of {there:,}; at most {method.answers} of a prompt)" if taken < there else ""
    console.print(f"unlabelled: {taken:,} answers{left} to {len(groups):,} prompts of {said}")
    return groups, hashes
