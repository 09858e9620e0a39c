"""The policy world: questions of the small language, answers that a policy writes itself, and their gold reward.

A policy's prompt is the question alone and its completion an answer; demonstrations get each aspect right with a
probability only, so that a policy that imitates them is mediocre and better labels can raise it. Gold is the judge
world's, 0 to 31; a text that is no answer of the language is worth 0.

Draws depend on (seed of the world, split, seed of the draw) alone, and a shorter draw is the beginning of a longer one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from pathlib import Path

from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.records import Demonstration, Message, Messages
from rmjax.worlds import base_model, language
from rmjax.worlds.judge_world import GOLD_WEIGHTS
from rmjax.worlds.language import Answer, Question

BEST = float(sum(GOLD_WEIGHTS.values()))
SPLITS = {"train": 10, "dev": 3, "test": 3}  # shares of all questions, in sixteenths


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyWorld:
    """Questions, demonstrators of middling skill, and the truth about any answer."""

    seed: int = 0
    right: float = 0.6  # of demonstrations: probability that one aspect is right

    def __post_init__(self) -> None:
        require("world.", self, "seed", least=0, most=LAST_SEED)
        require("world.", self, "right", least=0.05, most=0.95)

    def gold(self, question: str, answer: str) -> float:
        """The true reward, 0 to 31: 16 sum + 8 topic + 4 word + 2 end + 1 size; 0 for a text that is no answer.

        Raises:
          UserError: a question that is not of this world.
        """
        asked = Question.parse(question)
        try:
            right = language.aspects(asked, Answer.parse(answer))
        except UserError:
            return 0.0
        return float(sum(GOLD_WEIGHTS[aspect] for aspect, good in right.items() if good))

    def reward(self, prompt: Messages, answer: str) -> float:
        """Gold of an answer to a conversation of one question: what `oracles.gold.GoldOracle` asks for."""
        return self.gold(prompt[-1].content, answer)

    def prompts(self, n: int, *, split: str = "train", seed: int = 0, use: str = "pool") -> list[Messages]:
        """`n` questions as conversations. No question is in two splits; within one it may come again.

        Args:
          use: names the draw: another one has other questions.

        Raises:
          UserError: no such split.
        """
        if split not in SPLITS:
            raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        rng, out = self._stream("prompts", use, split, seed), []
        while len(out) < n:
            question = Question.draw(rng)
            if _split(question.text) == split:
                out.append((Message("user", question.text),))
        return out

    def different(self, n: int, *, split: str) -> list[Messages]:
        """`n` questions of which no two are the same. UserError where the split has fewer."""
        found = list(dict.fromkeys(self.prompts(40 * n, split=split)))[:n]
        if len(found) < n:
            raise UserError(f"the world has about {len(found)} different questions in split {split!r}: ask for fewer")
        return found

    def demonstrations(self, n: int, *, seed: int = 0) -> list[Demonstration]:
        """`n` answers to questions of split train, by people who get each aspect right with probability `right`."""
        rng = self._stream("demonstrations", seed)
        out = []
        for i, prompt in enumerate(self.prompts(n, seed=seed, use="demonstrations")):
            answer = Answer.draw(rng, Question.parse(prompt[0].content), self.right)
            out.append(Demonstration(prompt=prompt, completion=answer.text, id=f"seed-{i}", source="policy_world"))
        return out

    def write_base(self, path: Path | str, *, seed: int = 0) -> Path:
        """Writes the untrained decoder and the tokenizer of the small world as a Hugging Face directory."""
        return base_model.write(path, seed=seed)

    def _stream(self, *name: object) -> random.Random:
        return random.Random("/".join(map(str, ("policy", self.seed, *name))))


def _split(question: str) -> str:
    """The split that owns a question, by four bits of its hash."""
    owners = [name for name, share in SPLITS.items() for _ in range(share)]
    return owners[hashlib.sha256(question.encode()).digest()[0] % 16]
