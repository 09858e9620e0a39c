"""RMBoost (arXiv:2407.16008): pairs whose label is drawn before the second answer is written to it.

    1. y1 ~ LLM(. | x)
    2. l ~ Uniform{better, worse}, as many of either
    3. y2 ~ LLM(. | x, y1, l, aspects): an edit of y1 that is better or worse on some of the aspects
    4. (y2, y1) if l is better, else (y1, y2); what no pair can be made of is dropped, and counted

No judge is asked. Steps, tests and deviations: docs/methods/rmboost.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rmjax.errors import UserError
from rmjax.methods.synthetic import Cost, Models, Recipe, Synthetic, answers, write
from rmjax.records import Messages, Preference
from rmjax.refine.aspects import Aspect
from rmjax.refine.conditional import Drop, directions, drawn_aspects, listed, pair, thinned
from rmjax.refine.edit_prompts import Direction
from rmjax.refine.writers import Ask, Item, Written

DIRECTIONS: tuple[Direction, Direction] = ("better", "worse")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RmBoost:
    """One edit of every answer, or both: then a prompt gives two pairs."""

    recipe: Recipe = Recipe()
    aspect_mode: Literal["llm", "sample"] = "llm"  # the generator picks aspects from the list, or some are drawn for it
    sampled: int = 2  # aspects drawn for an item with aspect_mode="sample"
    directions: Literal["drawn", "both"] = "drawn"  # both: a better and a worse edit of every answer
    balance: bool = True  # drop pairs of the commoner direction until there are as many of either
    name = "rmboost"

    def __post_init__(self) -> None:
        aspects, edit = self.recipe.aspects, self.recipe.prompts.edit
        edit.check(aspects)
        if self.aspect_mode == "sample":
            drawn_aspects(aspects, "", count=self.sampled, seed=0)
        elif self.sampled != type(self).__dataclass_fields__["sampled"].default:
            raise UserError(f"method.sampled={self.sampled} is read with method.aspect_mode=sample only: set both")

    @property
    def calls(self) -> int:
        return 2 if self.directions == "drawn" else 3

    def make(self, models: Models, items: Sequence[Item], *, seed: int, folder: Path | None) -> Synthetic:
        """See `methods.synthetic.Method`."""
        recipe, generator = self.recipe, models.generator
        # 1. an ordinary answer
        first, drops, cost = answers(models, items, recipe, samples=1, seed=seed, folder=folder)
        drops += [
            Drop(item=id, reason=r, text=y) for id, (y,) in first.items() if (r := recipe.guards.fault_of_first(y))
        ]
        lost = {d.item for d in drops}
        left = [item for item in items if item.id not in lost]
        # 2. the label
        label = directions((item.id for item in left), seed=seed)
        edits = [
            Edit(item, first[item.id][0], direction)
            for item in left
            for direction in (DIRECTIONS if self.directions == "both" else (label[item.id],))
        ]
        # 3. the edit
        asks = {e.id: Ask(id=e.id, prompt=self.render(e, seed)) for e in edits}
        second, long = write(generator, asks, seed, folder, "edits")
        by_id = {e.id: e for e in edits}
        drops += [Drop(item=by_id[d.item].item.id, reason=d.reason, direction=by_id[d.item].direction) for d in long]
        # 4. the pair
        read = [self.read(by_id[id], written, generator.name, seed) for id, (written,) in second.items()]
        pairs = [found for found in read if isinstance(found, Preference)]
        drops += [found for found in read if isinstance(found, Drop)]
        if self.balance:
            pairs, over = thinned(pairs, seed=seed)
            drops += over
        return Synthetic(preferences=pairs, drops=drops, spent=cost + Cost.of(second))

    def aspects(self, id: str, seed: int) -> Sequence[Aspect]:
        """The aspects that are named to the generator for an item."""
        if self.aspect_mode == "llm":
            return self.recipe.aspects
        return drawn_aspects(self.recipe.aspects, id, count=self.sampled, seed=seed)

    def render(self, edit: Edit, seed: int) -> Messages:
        """The edit's prompt."""
        aspects = self.aspects(edit.item.id, seed)
        return self.recipe.prompts.edit.render(edit.item.prompt, edit.first, edit.direction, aspects)

    def read(self, edit: Edit, written: Written, generator: str, seed: int) -> Preference | Drop:
        """The pair of an answer and its edit, or why there is none."""
        guards, prompt = self.recipe.guards, self.recipe.prompts.edit
        drop = lambda reason: Drop(item=edit.item.id, reason=reason, direction=edit.direction, text=written.text)
        found = guards.read(written.text, prompt.response, prompt.aspects if self.aspect_mode == "llm" else "")
        if isinstance(found, str):
            return drop(found)
        second, picked = found
        if (reason := guards.fault(edit.first, second)) is not None:
            return drop(reason)
        if self.aspect_mode == "llm":
            names, others = listed(picked, self.recipe.aspects)
        else:
            names, others = [a.name for a in self.aspects(edit.item.id, seed)], []
        better = edit.direction == "better"
        return pair(
            edit.item,
            *((second, edit.first) if better else (edit.first, second)),
            method=self.name,
            key=edit.direction if self.directions == "both" else "",
            direction=edit.direction,
            edited="chosen" if better else "rejected",
            aspects=names,
            generator=generator,
            **({"unlisted": others} if others else {}),
        )


@dataclasses.dataclass(frozen=True)
class Edit:
    """An answer, and the direction in which it is edited."""

    item: Item
    first: str
    direction: Direction

    @property
    def id(self) -> str:
        return f"{self.item.id}|edit|{self.direction}"
