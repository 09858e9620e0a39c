"""One row of a comparison in the judge world: a method, its labels, its searched settings; trained and evaluated."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from rmjax import json_file, jsonl
from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import ItemScore, from_scores, from_verdicts
from rmjax.jobs.evaluation import Evaluation, judge_items
from rmjax.jobs.export import export_judge
from rmjax.judging.judge import Judge
from rmjax.methods import bradley_terry, gfriend
from rmjax.methods.bradley_terry import BradleyTerry
from rmjax.methods.gfriend import Gfriend, round_seed
from rmjax.records import Judgment, Preference
from rmjax.refine.refinement import Refined
from rmjax.training.loop import Train


@dataclasses.dataclass(frozen=True, kw_only=True)
class AsIs:
    """The SFT judge without any label."""

    temperature: float = 0.0  # 0: greedy

    def __post_init__(self) -> None:
        require("", self, "temperature", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the table."""

    name: str
    labels: int  # how many labelled pairs it gets
    method: Gfriend | BradleyTerry | AsIs
    draws: int = 0  # how many label draws it is run on; 0: the study's
    grid: tuple[tuple[float, int], ...] = ()  # (learning rate, steps) to search; empty: no search
    like: str = ""  # key of the entry whose searched point is taken; empty: its own, or the method's settings

    def __post_init__(self) -> None:
        trained = not isinstance(self.method, AsIs)
        if not trained and (self.labels or self.grid or self.like):
            raise UserError(
                f"entry {self.name!r}: labels={self.labels}, grid={self.grid}, like={self.like!r}: the SFT judge as it "
                "is learns from no label; give labels=0 and neither grid nor like"
            )
        if self.grid and self.like:
            raise UserError(f"entry {self.name!r}: grid={self.grid}, like={self.like!r}: give one of the two")
        require(f"entry {self.name!r}: ", self, "labels", least=int(trained))
        require(f"entry {self.name!r}: ", self, "draws", least=0)
        for point in self.grid:
            self.train_at(point)

    @property
    def key(self) -> str:
        """What tells this entry from the others of its table."""
        return f"{self.name}, {self.labels} labels"

    def at(self, point: tuple[float, int] | None) -> Entry:
        """This entry with a point of its grid set."""
        if point is None:
            return self
        return dataclasses.replace(self, method=dataclasses.replace(self.method, train=self.train_at(point)))

    def train_at(self, point: tuple[float, int]) -> Train:
        """The method's training at a point of the grid; UserError where it is not a rate and a number of steps."""
        rate, steps = point
        train = self.method.train
        return dataclasses.replace(
            train, steps=steps, optimizer=dataclasses.replace(train.optimizer, learning_rate=rate)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trained entry did on the evaluation items."""

    scores: list[ItemScore]
    seconds: float  # to train, sampling included; evaluation is not counted
    pairs: int = 0  # pairs trained on in the last round
    usable: int = 0  # items that gave a pair in the last round


class Bench:
    """Runs entries from one SFT judge.

    What several entries would do alike is done once: drawing the first round's judgments, and the first round of a row
    with more rounds. Its seconds count in each of them.
    """

    def __init__(self, judge: Judge, *, seed: int):
        self.judge = judge
        self.seed = seed
        self._first: dict[tuple, tuple[Judge, Refined, float]] = {}  # what a row with more rounds begins with
        self._judgments: dict[tuple, tuple[list[Judgment], float]] = {}

    def run(
        self,
        entry: Entry,
        items: Sequence[Preference],
        test: Sequence[Preference],
        *,
        draw: int,
        folder: Path | None = None,
    ) -> Outcome:
        """Trains `entry` on labelled `items` (those of label draw `draw`) and evaluates it on `test`.

        With a folder, everything is kept there: metrics, graded judgments, the judgments of the test items, the judge.
        """
        seed = self.seed * 10_007 + draw
        start = time.perf_counter()
        match entry.method:
            case BradleyTerry():
                method = seeded(entry.method, seed)
                chat = self.judge.chat
                model, params = bradley_terry.learn(
                    self.judge.model, self.judge.params, chat, items, method, seed=seed, folder=folder, name=entry.name
                )
                seconds = time.perf_counter() - start
                scores = from_scores(test, bradley_terry.rewards(model, params, chat, test), logistic=True)
                return Outcome(scores=scores, seconds=seconds, pairs=len(items), usable=len(items))
            case AsIs():
                return self._evaluate(self.judge, test, entry.method.temperature, folder)
            case Gfriend():
                return self._gfriend(entry, items, test, seed, folder)

    def _gfriend(
        self, entry: Entry, items: Sequence[Preference], test: Sequence[Preference], seed: int, folder: Path | None
    ) -> Outcome:
        method = seeded(entry.method, seed)
        judge, seconds = self.judge, 0.0
        for number in range(1, method.rounds + 1):
            place = folder / f"round-{number}" if folder else None
            first = (dataclasses.replace(method, rounds=1), seed, tuple(p.id for p in items))
            if number == 1 and place is None and first in self._first:
                judge, refined, seconds = self._first[first]
                continue
            judgments, took = self._sample(judge, items, method, seed, number)
            start = time.perf_counter()
            refined = gfriend.refine(judge, items, judgments, method, seed=round_seed(seed, number), folder=None)
            if place:
                jsonl.write(place / "graded.jsonl", refined.graded)
                json_file.write(place / "table.json", dataclasses.asdict(refined.table))
            if refined.groups:
                judge = gfriend.mdpo(judge, refined.groups, method, folder=place, name=f"{entry.name}, round {number}")
            seconds += took + time.perf_counter() - start
            if number == 1:
                self._first = {k: v for k, v in self._first.items() if k[1] == seed}
                self._first[first] = judge, refined, seconds
        outcome = self._evaluate(judge, test, 0.0, folder)
        if folder:
            export_judge(folder / "export", judge)
        return dataclasses.replace(
            outcome,
            seconds=seconds,
            pairs=sum(len(g.pairs) for g in refined.groups),
            usable=refined.table.usable,
        )

    def _sample(
        self, judge: Judge, items: Sequence[Preference], method: Gfriend, seed: int, number: int
    ) -> tuple[list[Judgment], float]:
        """The round's judgments, and the seconds they took when they were drawn."""
        start = time.perf_counter()
        key = (method.sampling, method.orders, method.samples, seed, tuple(p.id for p in items), method.constrained)
        if number > 1 or key not in self._judgments:
            drawn = gfriend.sample(judge, items, method, seed=round_seed(seed, number), path=None)
            took = time.perf_counter() - start
            if number > 1:
                return drawn, took
            self._judgments = {k: v for k, v in self._judgments.items() if k[3] == seed} | {key: (drawn, took)}
        return self._judgments[key]

    def _evaluate(self, judge: Judge, test: Sequence[Preference], temperature: float, folder: Path | None) -> Outcome:
        how = Evaluation(temperature=temperature, orders="item", constrained=False)
        path = folder / "judgments.jsonl" if folder else None
        _, found = judge_items(dataclasses.replace(judge, seed=self.seed), test, how, path=path)
        return Outcome(scores=from_verdicts(test, found), seconds=0.0)


def seeded(method: Gfriend | BradleyTerry, seed: int) -> Gfriend | BradleyTerry:
    """The method with that seed of the data's order.

    It writes no checkpoints: a run that was killed is repeated whole, so that its seconds are those of one go.
    """
    return dataclasses.replace(method, train=dataclasses.replace(method.train, seed=seed, save_every=0))
