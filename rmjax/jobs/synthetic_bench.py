"""A writer of the writer world: it makes synthetic pairs, their noise is measured, reward models begin from it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rmjax.evaluation.pairwise import accuracy, from_scores
from rmjax.jobs.reward import RewardModel
from rmjax.judging.judge import Judge
from rmjax.methods import bradley_terry
from rmjax.methods.bradley_terry import BradleyTerry
from rmjax.methods.rmboost import RmBoost
from rmjax.methods.synthetic import Method, Models, Recipe, Scorer, Synthetic
from rmjax.methods.synthetic_baselines import RandomEdit, Rlaif, Rlcd, WestOfN
from rmjax.oracles.judged import JudgeOracle
from rmjax.oracles.oracle import Oracle
from rmjax.progress import TALLY
from rmjax.records import Demonstration, Preference
from rmjax.refine.conditional import direction_of
from rmjax.refine.writers import Generator, Item, Writer
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train
from rmjax.worlds.writer_world import ASPECTS, PROMPTS, UNREADABLE, WriterWorld

METHODS = ("rmboost", "rlaif", "west-of-n", "rlcd", "random-edit")
WRITING = Sampling(temperature=1.0, max_new_tokens=12)  # an answer in its tags has at most 10 words


def method_of(name: str, *, aspects: int, n: int) -> Method:
    """A method of `METHODS` on the world's prompts.

    Args:
        aspects: that an edit's prompt names, drawn for every prompt.
        n: answers that West-of-N chooses from.
    """
    recipe = Recipe(prompts=PROMPTS, aspects=ASPECTS)
    edits = {"recipe": recipe, "aspect_mode": "sample", "sampled": aspects}
    return {
        "rmboost": lambda: RmBoost(**edits),
        "random-edit": lambda: RandomEdit(**edits),
        "rlaif": lambda: Rlaif(recipe=recipe),
        "west-of-n": lambda: WestOfN(recipe=recipe, n=n),
        "rlcd": lambda: Rlcd(recipe=recipe),
    }[name]()


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A trained writer in its world."""

    world: WriterWorld
    writer: Judge  # greedy, as a judge; its model writes as well
    seed: int

    def make(self, method: Method, calls: int, scorer: Scorer | None = None) -> tuple[Synthetic, dict[str, Any]]:
        """The pairs that a budget of generator calls pays for, and what they cost and are worth.

        Draws of prompts and texts are the seed's, so methods begin with the same prompts.
        """
        start, before = time.perf_counter(), TALLY.sampled
        prompts = self.world.prompts(calls // method.calls, seed=self.seed)
        items = [Item(id=f"p{i:05d}", prompt=p) for i, p in enumerate(prompts)]
        models = Models(generator=self.generator(), judge=self.judge(), scorer=scorer)
        made = method.make(models, items, seed=self.seed, folder=None)
        sampled = TALLY.sampled - before  # the judge's among them
        seconds = round(time.perf_counter() - start, 3)
        return made, {**made.facts(), **noise(self.world, made.preferences), "sampled": sampled, "seconds": seconds}

    def judge(self) -> Oracle:
        """The writer as who judges: greedily, in both orders, and what the orders disagree on is undecided."""
        return JudgeOracle(self.writer)

    def generator(self) -> Writer:
        """The writer as who writes."""
        w = self.writer
        return Generator(name="writer", model=w.model, params=w.params, chat=w.chat, sampling=WRITING, quiet=True)

    def train(self, pairs: Sequence[Preference], train: Train) -> RewardModel:
        """A Bradley-Terry reward model on the pairs, begun from the writer."""
        w, method = self.writer, BradleyTerry(train=dataclasses.replace(train, seed=self.seed))
        model, params = bradley_terry.learn(w.model, w.params, w.chat, pairs, method, seed=self.seed)
        return RewardModel(model=model, params=params, chat=w.chat)

    def cell(self, pairs: Sequence[Preference], train: Train, held: Sequence[Preference]) -> dict[str, Any]:
        """Trains and evaluates: a line of rows.jsonl."""
        start = time.perf_counter()
        reward = self.train(pairs, train)
        seconds = round(time.perf_counter() - start, 3)
        result = accuracy(from_scores(held, reward.rewards(held)))
        return {**dataclasses.asdict(result), "trained_on": len(pairs), "seconds": seconds}


def scorer_of(reward: RewardModel) -> Scorer:
    """A reward model as West-of-N's scorer."""
    return lambda answers: reward.rewards(
        [Demonstration(prompt=prompt, completion=text, id=str(i)) for i, (prompt, text) in enumerate(answers)]
    )[:, 0].tolist()


def noise(world: WriterWorld, pairs: Sequence[Preference]) -> dict[str, Any]:
    """How many labels are wrong.

    Returns:
        `wrong` and `right`, pairs whose label is against and with gold; `even`, pairs of equal gold, which count in
        neither; `unreadable`, pairs with a text that is no answer; `noise`, wrong / (wrong + right), None without any;
        `wrong_by`, the same three by direction.
    """
    gold = lambda p, text: world.gold(p.prompt[0].content, text)
    worth = [(gold(p, p.chosen), gold(p, p.rejected)) for p in pairs]
    outcome = ["even" if a == b else "right" if a > b else "wrong" for a, b in worth]
    count = lambda name: outcome.count(name)
    told = count("wrong") + count("right")
    by: dict[str, dict[str, int]] = {}
    for p, name in zip(pairs, outcome, strict=True):
        if direction := direction_of(p):
            found = by.setdefault(direction, {"wrong": 0, "right": 0, "even": 0})
            found[name] += 1
    return {
        **{name: count(name) for name in ("wrong", "right", "even")},
        "unreadable": sum(UNREADABLE in pair for pair in worth),
        "noise": count("wrong") / told if told else None,
        "wrong_by": by,
    }


def best_of(rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The searched point of highest mean accuracy; `key` names a row's point. The first of equals."""
    points: dict[Any, list[float]] = {}
    for row in rows:
        points.setdefault(key(row), []).append(row["accuracy"])
    return max(points, key=lambda p: sum(points[p]) / len(points[p]))
