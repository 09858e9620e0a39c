"""Who writes answers: one interface for a language model and for whatever a world puts in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from rmjax.records import Messages
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt to write a pair for; it has no label."""

    id: str
    prompt: Messages
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # goes into the pair's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """`samples` texts of one rendered prompt. The id, not the place in a list, keys what is drawn."""

    id: str
    prompt: Messages
    samples: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """One text that a generator wrote."""

    id: str  # of the ask
    index: int  # 0..samples-1
    text: str
    finish: Literal["stop", "length"] = "stop"
    read: int = 0  # tokens of the prompt
    wrote: int = 0  # tokens of the text


class Writer(Protocol):
    """Writes texts. What it writes is a function of (seed, ask's id and prompt, index) and of nothing else."""

    name: str

    def write(
        self, asks: Sequence[Ask], *, seed: int, path: Path | None = None, label: str = "writing"
    ) -> list[Written]:
        """All texts, by ask, then index.

        Args:
            asks: with distinct ids.
            seed: of the draws.
            path: a .jsonl file that keeps what is written, so that the same call after an interruption goes on; None:
                nothing is kept. A writer that is quick may ignore it.
            label: of the progress bar.
        """

    def fits(self, prompt: Messages) -> bool:
        """Whether the writer can read a prompt of this length and still write."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Generator:
    """A language model as a writer, on rmjax's sampler."""

    name: str
    model: Any
    params: Any
    chat: Any
    sampling: Sampling
    most: int = 0  # tokens of prompt and text together; 0: the model's positions
    quiet: bool = False  # no progress bar

    def write(
        self, asks: Sequence[Ask], *, seed: int, path: Path | None = None, label: str = "writing"
    ) -> list[Written]:
        """See `Writer`. `path` is the sampler's file of rollouts. Raises UserError (see `Sampler.run`)."""
        if not asks:
            return []
        sampler = Sampler(self.model, self.params, self.chat, self.sampling, seed=seed, quiet=self.quiet)
        requests = [Request(id=a.id, prompt=self.chat.prompt_ids(a.prompt), samples=a.samples) for a in asks]
        read = {r.id: len(r.prompt) for r in requests}
        return [
            Written(id=r.id, index=r.index, text=r.text, finish=r.finish, read=read[r.id], wrote=len(r.tokens))
            for r in sampler.run(requests, path=path, label=label)
        ]

    def fits(self, prompt: Messages) -> bool:
        most = self.most or self.model.config.max_positions
        return len(self.chat.prompt_ids(prompt)) + self.sampling.max_new_tokens <= most
