"""What is on disk between stages: one frozen dataclass per kind of JSON line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

Slot = Literal["A", "B"]


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Messages = tuple[Message, ...]


def content_id(prompt: Messages, *answers: str) -> str:
    """The id of a record that brought none: 16 hex digits of the SHA-256 of its prompt and answers, in order.

    Roles, contents and answers are hashed as one canonical JSON text, so no two records share it by concatenation.
    """
    text = json.dumps([[[m.role, m.content] for m in prompt], *answers], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference:
    """A prompt and two answers, one preferred; strength is data: margin, weight, probability, tie, votes."""

    prompt: Messages
    chosen: str
    rejected: str
    margin: float | None = None
    weight: float | None = None
    prob_chosen: float | None = None
    tie: bool = False
    votes: Mapping[str, int] | None = None  # {"chosen": 3, "rejected": 1}
    id: str = ""  # empty: becomes the hash of prompt, chosen and rejected
    subset: str = ""
    source: str = ""
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.prompt, self.chosen, self.rejected))

    @property
    def smooth(self) -> float:
        """The probability that the label is wrong: from a tie, a probability or votes, in this order; else 0."""
        if self.tie:
            return 0.5
        if self.prob_chosen is not None:
            return 1.0 - self.prob_chosen
        count = {name: (self.votes or {}).get(name, 0) for name in ("chosen", "rejected", "tie")}
        return (count["rejected"] + count["tie"] / 2) / max(1, sum(count.values()))


Choice = Literal["first", "second", "tie", "unknown"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A prompt and two answers that nobody has compared yet."""

    prompt: Messages
    first: str
    second: str
    id: str = ""  # empty: becomes the hash of prompt and answers
    source: str = ""
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.prompt, self.first, self.second))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vote:
    """What somebody, or something, said of a pair."""

    item: str  # Pair.id
    choice: Choice  # `unknown`: can't tell
    by: str  # who
    prob_first: float | None = None  # a model's probability that the first answer is better
    seconds: float = 0.0  # that it took

    def __post_init__(self) -> None:
        if self.choice not in ("first", "second", "tie", "unknown"):
            raise ValueError(f"choice {self.choice!r} is not one of first, second, tie, unknown")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A prompt and the completion to imitate (SFT)."""

    prompt: Messages
    completion: str
    id: str = ""  # empty: becomes the hash of prompt and completion
    source: str = ""
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.prompt, self.completion))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """One sampled completion. `tokens` are exactly those decoded, a final stop token included."""

    id: str  # of the request
    index: int  # 0..samples-1
    tokens: tuple[int, ...]
    logps: tuple[float, ...]  # untempered log-probability of each token
    text: str  # decoded tokens, without special tokens and without the stop string
    finish: Literal["stop", "length"]
    watched: tuple[tuple[float, ...], ...] = ()  # per token: log-probabilities of Sampling.watch ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgment:
    """One sampled judgment of one item in one slot order."""

    item: str  # Preference.id
    slot: Slot  # which slot held the chosen answer
    index: int
    prompt: tuple[int, ...]  # ids of the rendered judge prompt
    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    reasoning: int  # how many of the tokens, from the first, are reasoning (before the verdict)
    text: str
    verdict: Literal["A", "B", "tie"] | None  # None: unparsed
    prob_a: float | None  # p(A) / (p(A) + p(B)) at the verdict token, from logits
    finish: Literal["stop", "length"]
    hint: Slot | None = None  # the verdict that the prompt's hint named, if any
    forced: bool = False  # the verdict was chosen among the labels after the reasoning, which held none

    @property
    def correct(self) -> bool | None:
        """Whether the verdict names the chosen answer's slot; None where unparsed."""
        return None if self.verdict is None else self.verdict == self.slot
