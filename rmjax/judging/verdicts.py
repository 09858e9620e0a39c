"""Reads the verdict of a judgment from its generated tokens, and its probability from their logits.

The prompt is never searched. What names no label is unparsed (None); it is never counted as A, as the public code of
GFRIEND does, nor as wrong.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from rmjax.errors import UserError
from rmjax.judging.prompts import JudgePrompt

Verdict = Literal["A", "B", "tie"]


@dataclasses.dataclass(frozen=True)
class Parsed:
    """Where a judgment's parts are, in tokens."""

    verdict: Verdict | None  # None: unparsed
    reasoning: int  # tokens before the one in which the verdict's text begins; all but final stop ids where unparsed
    index: int | None  # of the token in which the label begins


def parse(tokens: Sequence[int], chat: Any, prompt: JudgePrompt) -> Parsed:
    """Finds the verdict in generated tokens.

    The regular expression `prompt.verdict` is searched in the decoded text; its first or last match counts, by
    `prompt.take`. Text that never closes its JSON, has more fields or goes on after it, is read all the same.

    Args:
        tokens: generated token ids, all of them and nothing else.
        chat: decodes ids to text (`text`) and knows the final ids (`eos`).
        prompt: the format of the verdict.
    """
    text = chat.text(tokens)
    matches = [m for m in re.finditer(prompt.verdict, text) if m[1] and prompt.verdict_of(m[1])]
    if not matches:
        return Parsed(None, len(without_end(tokens, chat.eos)), None)
    match = matches[-1 if prompt.take == "last" else 0]
    index = token_at(tokens, chat, text[: match.start(1) + 1])
    reasoning = token_at(tokens[: index + 1], chat, text[: match.start() + 1])
    return Parsed(prompt.verdict_of(match[1]), reasoning, index)


def without_end(tokens: Sequence[int], eos: Sequence[int]) -> Sequence[int]:
    """The tokens without the stop ids at their end."""
    end = len(tokens)
    while end and tokens[end - 1] in eos:
        end -= 1
    return tokens[:end]


def token_at(tokens: Sequence[int], chat: Any, text: str) -> int:
    """Index of the token that completes `text`, which must be a beginning of the decoded tokens.

    A search over decoded beginnings, because offsets cannot be added up from tokens decoded one by one: a character
    may span tokens, and the space before a word may depend on what precedes it. It starts at the end, where verdicts
    are, with growing steps.
    """
    begins = lambda count: chat.text(tokens[:count]).startswith(text)
    high, step = len(tokens), 1
    while high > step and begins(high - step):
        high, step = high - step, 2 * step
    low = max(0, high - step)
    while high - low > 1:  # begins(high) and not begins(low)
        middle = (low + high) // 2
        low, high = (low, middle) if begins(middle) else (middle, high)
    return low


@dataclasses.dataclass(frozen=True)
class Labels:
    """The token ids of the verdicts' labels."""

    prefix: tuple[int, ...]  # of the text that forces a verdict
    forced: tuple[int, ...]  # one per label, right after the prefix; empty where they are not single, distinct tokens
    a: tuple[int, ...]  # every id that writes A: after the prefix, alone, after a space
    b: tuple[int, ...]

    @classmethod
    def of(cls, chat: Any, prompt: JudgePrompt) -> Labels:
        """Looks the labels up in the tokenizer of `chat` (`text_ids`)."""
        prefix = tuple(chat.text_ids(prompt.prefix))
        after = [tuple(chat.text_ids(prompt.prefix + label)) for label in prompt.labels]
        single = all(len(ids) == len(prefix) + 1 and ids[:-1] == prefix for ids in after)
        forced = tuple(ids[-1] for ids in after) if single else ()
        forced = forced if len(set(forced)) == len(prompt.labels) else ()
        ids = [{forced[i]} if forced else set() for i in range(2)]
        for before in ("", " "):
            alone = [chat.text_ids(before + label) for label in prompt.labels[:2]]
            if all(len(x) == 1 for x in alone) and alone[0] != alone[1]:
                for known, x in zip(ids, alone, strict=True):
                    known.add(x[0])
        return cls(prefix, forced, tuple(sorted(ids[0])), tuple(sorted(ids[1])))

    @property
    def watch(self) -> tuple[int, ...]:
        """The ids whose log-probabilities the sampler is asked for: those of A, then those of B."""
        return self.a + self.b

    def require_forced(self, prompt: JudgePrompt) -> tuple[int, ...]:
        """The ids of which one is chosen as a constrained verdict.

        Raises:
            UserError: the labels are not single and distinct tokens after the prefix.
        """
        if not self.forced:
            raise UserError(
                f"constrained verdict: labels={prompt.labels!r} are not single, distinct tokens after "
                f"prefix={prompt.prefix!r}: choose other labels, or another end of the prefix"
            )
        return self.forced

    def prob_a(self, token: int, watched: Sequence[float]) -> float | None:
        """p(A) / (p(A) + p(B)) at a token, over all ways to write them.

        Args:
            token: the id that was sampled there.
            watched: log-probabilities of `watch` there, float.

        Returns:
            The probability; None where the sampled id writes no label by itself but, say, one and its quotation mark:
            the ids of `watch` do not compare A with B there.
        """
        if token not in self.watch and token not in self.forced:
            return None
        a, b = (log_sum_exp(x) for x in (watched[: len(self.a)], watched[len(self.a) :]))
        return 1.0 / (1.0 + math.exp(min(700.0, b - a)))


def log_sum_exp(values: Sequence[float]) -> float:
    """log of the sum of exponentials, finite values assumed unless all are -inf."""
    top = max(values)
    return top if math.isinf(top) else top + math.log(sum(math.exp(v - top) for v in values))
