"""What every way of making synthetic pairs shares: who takes part, what is asked, what comes out, what it costs.

A method is a frozen dataclass with `calls`, the texts that it has written for one prompt, and one function:

    method.make(models, items, seed=0, folder=None) -> Synthetic
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rmjax.errors import UserError
from rmjax.oracles.oracle import Oracle
from rmjax.records import Messages, Preference
from rmjax.refine.aspects import HELPFULNESS, Aspect
from rmjax.refine.conditional import Drop, Guards, counts, direction_of, key_of
from rmjax.refine.edit_prompts import WritingPrompts
from rmjax.refine.writers import Ask, Item, Writer, Written

# (prompt, answer)s -> rewards; None: too long to be read
Scorer = Callable[[Sequence[tuple[Messages, str]]], Sequence[float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Models:
    """Who takes part. `judge` is RLAIF's alone, `scorer` West-of-N's."""

    generator: Writer
    judge: Oracle | None = None
    scorer: Scorer | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What methods have in common, so that they differ in nothing else."""

    prompts: WritingPrompts = WritingPrompts()
    aspects: tuple[Aspect, ...] = HELPFULNESS
    guards: Guards = Guards()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What was paid. Tokens of a prompt count once, however many texts are sampled for it."""

    calls: int = 0  # texts that the generator wrote
    read: int = 0  # tokens
    wrote: int = 0  # tokens
    unfinished: int = 0  # texts that were cut at their greatest length
    judged: int = 0  # pairs that the judge labelled
    scored: int = 0  # answers that the scorer scored

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)})

    @classmethod
    def of(cls, written: Mapping[str, Sequence[Written]]) -> Cost:
        """What the texts of all items cost."""
        texts = [w for found in written.values() for w in found]
        return cls(
            calls=len(texts),
            read=sum(w.read for w in texts if w.index == 0),
            wrote=sum(w.wrote for w in texts),
            unfinished=sum(w.finish == "length" for w in texts),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic:
    """What a method made."""

    preferences: list[Preference]  # in the order of the items
    drops: list[Drop]
    spent: Cost

    @property
    def calls(self) -> int:
        """Texts that the generator wrote."""
        return self.spent.calls

    @property
    def tokens(self) -> int:
        """Tokens that the generator read and wrote."""
        return self.spent.read + self.spent.wrote

    def facts(self) -> dict[str, Any]:
        """The figures for summary.json."""
        kept = [direction_of(p) for p in self.preferences]
        return {
            "pairs": len(kept),
            "directions": {d: kept.count(d) for d in ("better", "worse", "") if d in kept},
            "dropped": counts(self.drops),
            "spent": dataclasses.asdict(self.spent),
        }


class Method(Protocol):
    """One way of making synthetic pairs."""

    recipe: Recipe

    @property
    def name(self) -> str:
        """As records say it: their `source`."""

    @property
    def calls(self) -> int:
        """Texts that the generator writes for one prompt, as long as nothing is dropped on the way."""

    def make(self, models: Models, items: Sequence[Item], *, seed: int, folder: Path | None) -> Synthetic:
        """Makes pairs, at most one an item unless the method says so.

        Args:
            models: who takes part.
            items: prompts with distinct ids.
            seed: of all draws. What is drawn for an item depends on (seed, item id), and which half of the items is
                edited for the better on the set of ids as well; nothing depends on their order.
            folder: where what is written is kept, so that the same call goes on after an interruption; None: nowhere.

        Raises:
            UserError: a judge or a scorer that the method needs is missing; ids repeat; the writer's errors.
        """


def affordable(items: Sequence[Item], method: Method, calls: int, *, seed: int) -> list[Item]:
    """The items for a budget of generator calls: drawn, in their order. More money only adds items.

    The judge's and the scorer's work is not in the budget, which favours the methods that need them.

    Raises:
        UserError: the budget does not pay for one item.
    """
    most = calls // method.calls
    if most < 1:
        raise UserError(f"budget={calls}: {method.name} writes {method.calls} texts for one prompt; give at least that")
    drawn = set(sorted((item.id for item in items), key=lambda id: key_of(seed, "budget", id))[:most])
    return [item for item in items if item.id in drawn]


def answers(
    models: Models, items: Sequence[Item], recipe: Recipe, *, samples: int, seed: int, folder: Path | None
) -> tuple[dict[str, list[str]], list[Drop], Cost]:
    """y ~ LLM(. | x), `samples` times: plain answers by item id; items whose prompt is too long are dropped.

    An answer in which the prompt's `response` is not found is the empty text.
    """
    distinct(items)
    asks = [Ask(id=f"{i.id}|answer", prompt=recipe.prompts.answer.render(i.prompt), samples=samples) for i in items]
    written, drops = write(
        models.generator, dict(zip([i.id for i in items], asks, strict=True)), seed, folder, "answers"
    )
    guards, regex = recipe.guards, recipe.prompts.answer.response
    read = lambda text: found[0] if isinstance(found := guards.read(text, regex), tuple) else ""
    return {id: [read(w.text) for w in found] for id, found in written.items()}, drops, Cost.of(written)


def write(
    generator: Writer, asks: Mapping[str, Ask], seed: int, folder: Path | None, name: str
) -> tuple[dict[str, list[Written]], list[Drop]]:
    """What is written for every item (by its id), and drops of those whose prompt is too long. The file is `name`."""
    fits = {id: ask for id, ask in asks.items() if generator.fits(ask.prompt)}
    path = None if folder is None else folder / f"{name}.jsonl"
    by_ask: dict[str, list[Written]] = {ask.id: [] for ask in fits.values()}
    for w in generator.write(list(fits.values()), seed=seed, path=path, label=name):
        by_ask[w.id].append(w)
    drops = [Drop(item=id, reason="prompt too long") for id in asks if id not in fits]
    return {id: by_ask[ask.id] for id, ask in fits.items()}, drops


def distinct(items: Sequence[Item]) -> None:
    """Raises UserError where ids repeat: draws are keyed by them."""
    for id, times in Counter(i.id for i in items).items():
        if times > 1:
            raise UserError(f"item id {id!r} occurs {times} times: give every prompt its own id")
