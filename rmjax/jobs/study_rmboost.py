"""A study in the writer world: RMBoost and its baselines at one budget of generator calls.

    label noise    of every method's pairs against gold, over settings: how well the writers follow directions and judge
    accuracy       of reward models on the pairs, on held-out gold pairs
    mixing         few real labels alone, and together with RMBoost's pairs

Seeds of the search are not those of the tables; search looks at dev pairs, the tables at test pairs. Each finished cell
is a line of a file, so a killed study continues where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from rmjax import jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.config import to_json
from rmjax.errors import UserError
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs import study_rmboost_report
from rmjax.jobs.devices import Devices
from rmjax.jobs.export import export_judge, load_judge
from rmjax.jobs.sources import ModelSource
from rmjax.jobs.study import Cells
from rmjax.jobs.study_rmboost_report import MIXED, REAL
from rmjax.jobs.synthetic_bench import METHODS, Bench, best_of, method_of, scorer_of
from rmjax.jobs.workdir import Workdir
from rmjax.methods import gfriend
from rmjax.records import Preference
from rmjax.refine.mixing import mix
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train
from rmjax.worlds.demonstrator import Faults
from rmjax.worlds.writer_world import ASPECTS, WriterWorld

Point = tuple[float, int]  # learning rate, updates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Demonstrators of a given skill, and what is done with the writers that imitate them."""

    name: str
    skill: float  # of following a direction
    faults: Faults = Faults()  # of judging
    steps: int = 0  # updates of the writer; 0: the study's
    calls: int = 0  # generator calls of every method; 0: the study's
    made: tuple[str, ...] = ("rmboost", "rlaif", "rlcd")  # methods whose label noise is measured
    trained: tuple[str, ...] = ()  # those of them on whose pairs reward models are trained

    def __post_init__(self) -> None:
        unknown = {*self.made, *self.trained} - {*METHODS}
        if unknown or not {*self.trained} <= {*self.made}:
            raise UserError(
                f"setting {self.name!r}: made={self.made}, trained={self.trained}: name methods "
                f"({', '.join(METHODS)}), and train on what is made"
            )
        require(f"setting {self.name!r}: ", self, "skill", least=0, most=1)
        require(f"setting {self.name!r}: ", self, "steps", "calls", least=0)
        if "west-of-n" in self.made and "rlaif" not in self.made:
            raise UserError(f"setting {self.name!r}: west-of-n is scored by a model of rlaif's pairs: make those too")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRmboost:
    """Synthetic pairs by five methods, their noise, and what reward models learn from them, in a controlled world."""

    workdir: str
    world: WriterWorld = WriterWorld()  # its skill and faults are the settings'
    settings: tyro.conf.Fixed[tuple[Setting, ...]]  # the first one is searched, and mixed with real labels
    demonstrations: int = 16_000  # that a writer is trained on
    sft: Train
    calls: int = 4096  # generator calls of every method
    aspects: int = 3  # that an edit's prompt names
    n: int = 4  # answers that West-of-N chooses from
    reward: Train  # of reward models; rate and updates are searched
    grid: tyro.conf.Fixed[tuple[Point, ...]] = ((3e-4, 200), (3e-4, 600), (1e-3, 200))
    weights: tuple[float, ...] = (0.1, 0.3, 1.0)  # of a synthetic pair beside a real one; as many as points
    mixed_at: Literal["synthetic", "real"] = "synthetic"  # whose rate and updates the mixture has: of which part alone
    labels: tuple[int, ...] = (50, 100, 200, 500, 1000)  # real ones
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)  # `aspects` was chosen with seed 0
    search_seeds: tuple[int, ...] = (100, 101)
    dev: int = 512  # pairs that the search looks at
    test: int = 1024  # pairs of the tables
    devices: Devices = Devices()

    def __post_init__(self) -> None:
        require("", self, "demonstrations", "dev", "test", least=1)
        require("", self, "aspects", least=1, most=len(ASPECTS))
        require("", self, "calls", least=2 * self.n)
        require("", self, "n", least=2)
        names = [s.name for s in self.settings]
        if not names or len(set(names)) < len(names) or not {"rmboost", "rlaif"} <= {*self.settings[0].trained}:
            raise UserError(f"settings {names}: give different names; the first trains on rmboost and rlaif at least")
        both = (*self.seeds, *self.search_seeds)
        if len(self.seeds) < 2 or not self.search_seeds or len(set(both)) < len(both):
            raise UserError(
                f"seeds={self.seeds}, search_seeds={self.search_seeds}: two or more, one or more, no overlap"
            )
        if not all(0 <= s <= LAST_SEED for s in both):
            raise UserError(f"seeds={self.seeds}, search_seeds={self.search_seeds}: give seeds from 0 to {LAST_SEED}")
        if not self.grid or not self.weights or min(self.weights) <= 0 or min(self.labels, default=1) < 1:
            raise UserError(f"grid={self.grid}, weights={self.weights}, labels={self.labels}: give positive ones")
        if (self.world.skill, self.world.judging.faults) != (WriterWorld().skill, Faults()):
            raise UserError("world.skill and world.judging.faults: the settings' own decide; leave both as they are")
        if self.sft.seed or self.reward.seed:
            raise UserError("sft.seed and reward.seed: the study's own --seeds decide; leave both 0")
        self.sft.check_no_files("sft")
        self.reward.check_no_files("reward")

    def run(self, command: str = "") -> None:
        """Runs every cell that is missing, writes the tables; on all devices."""
        with self.devices.use(self.sft, self.reward):
            Run(self, command).all()


class Run:
    """A study under way."""

    def __init__(self, study: StudyRmboost, command: str) -> None:
        self.study = study
        self.work = Workdir(study.workdir, to_json(study), {})
        first = study.seeds[0]
        self.provenance = Provenance(
            self.work / "run.json", command=command, config=to_json(study), data={}, seed=first
        )
        self.searched = Cells(self.work / "search.jsonl", ("method", "labels", "seed", "rate", "steps", "weight"))
        self.made = Cells(self.work / "made.jsonl", ("setting", "seed", "method"))
        self.rows = Cells(self.work / "rows.jsonl", ("setting", "seed", "method", "labels"))
        self.main = study.settings[0]
        self._bench: tuple[tuple[Setting, int], Bench] | None = None
        self.dev = study.world.preferences(study.dev, split="dev")
        self.test = study.world.preferences(study.test, split="test")

    def all(self) -> None:
        """The search, the first setting, real labels, then the other settings; what is cut short lacks settings."""
        study = self.study
        for method in sorted(self.main.trained, key=lambda m: m != "rlaif"):  # it scores for West-of-N
            for seed, point in itertools.product(study.search_seeds, study.grid):
                self.search(method, 0, seed, point, 0.0)
        self.tables(self.main)
        for labels in study.labels:
            for seed, point in itertools.product(study.search_seeds, study.grid):
                self.search(REAL, labels, seed, point, 0.0)
            for seed, weight in itertools.product(study.search_seeds, study.weights):
                self.search(MIXED, labels, seed, self.mixed_at(labels), weight)
            for seed, method in itertools.product(study.seeds, (REAL, MIXED)):
                self.fill(self.main, seed, method, labels)
        for setting in study.settings[1:]:
            self.tables(setting)
        chosen = {m: self.best(m) for m in self.main.trained}
        chosen |= {f"{m}, {n} labels": self.best(m, n) for n in study.labels for m in (REAL, MIXED)}
        study_rmboost_report.conclude(
            self.work, study, made=self.made.rows, rows=self.rows.rows, chosen=chosen, provenance=self.provenance
        )

    def tables(self, setting: Setting) -> None:
        """A setting's cells."""
        for seed in self.study.seeds:
            for method in setting.made:
                self.pairs(setting, seed, method)
            for method in setting.trained:
                self.fill(setting, seed, method, 0)

    def search(self, method: str, labels: int, seed: int, point: Point, weight: float) -> None:
        """One searched cell."""
        name = {"method": method, "labels": labels, "seed": seed, "rate": point[0], "steps": point[1], "weight": weight}
        run = functools.partial(self.cell, self.main, seed, method, labels, (*point, weight), self.dev)
        self.searched.fill(name, run)

    def fill(self, setting: Setting, seed: int, method: str, labels: int) -> None:
        """One cell of the tables."""
        name = {"setting": setting.name, "seed": seed, "method": method, "labels": labels}
        point = self.best(method, labels)
        self.rows.fill(name, functools.partial(self.cell, setting, seed, method, labels, point, self.test))

    def best(self, method: str, labels: int = 0) -> tuple[float, int, float]:
        """(learning rate, updates, weight of synthetic pairs) that the search found, in the first setting."""
        rows = [r for r in self.searched.rows if (r["method"], r["labels"]) == (method, labels)]
        return best_of(rows, lambda r: (r["rate"], r["steps"], r["weight"]))

    def mixed_at(self, labels: int) -> Point:
        """Rate and updates of real labels with synthetic pairs."""
        method, n = ("rmboost", 0) if self.study.mixed_at == "synthetic" else (REAL, labels)
        return self.best(method, n)[:2]

    def cell(
        self,
        setting: Setting,
        seed: int,
        method: str,
        labels: int,
        point: tuple[float, int, float],
        held: Sequence[Preference],
    ) -> dict[str, Any]:
        """Trains a reward model and evaluates it."""
        rate, steps, weight = point
        real = self.study.world.preferences(labels, seed=seed) if labels else []
        synthetic = [] if method == REAL else self.pairs(setting, seed, "rmboost" if method == MIXED else method)
        items = real if method == REAL else mix(real, synthetic, weight=weight or 1.0)
        if not items:
            raise UserError(f"{setting.name!r}, seed {seed}: {method} made no pair; train the writer for longer")
        found = self.bench(setting, seed).cell(items, self.training(rate, steps), held)
        return {**found, "rate": rate, "steps": steps, "weight": weight}

    def pairs(self, setting: Setting, seed: int, method: str) -> list[Preference]:
        """A method's pairs, made once; a pair weighs 1."""
        file = self.work / "made" / f"{folder_of(setting, seed)}-{method}.jsonl"
        name = {"setting": setting.name, "seed": seed, "method": method}
        self.made.fill(name, functools.partial(self.make, setting, seed, method, file))
        return list(jsonl.read(file, Preference))

    def make(self, setting: Setting, seed: int, method: str, file: Path) -> dict[str, Any]:
        """Makes the pairs and writes them before their line says that they are there."""
        bench, scorer = self.bench(setting, seed), None
        if method == "west-of-n":
            rate, steps, _ = self.best("rlaif")
            scorer = scorer_of(bench.train(self.pairs(setting, seed, "rlaif"), self.training(rate, steps)))
        how = method_of(method, aspects=self.study.aspects, n=self.study.n)
        made, facts = bench.make(how, setting.calls or self.study.calls, scorer)
        file.parent.mkdir(exist_ok=True)
        jsonl.write(file, made.preferences)
        return facts

    def training(self, rate: float, steps: int) -> Train:
        """A reward model's, at a searched point."""
        how = self.study.reward
        return dataclasses.replace(how, steps=steps, optimizer=dataclasses.replace(how.optimizer, learning_rate=rate))

    def bench(self, setting: Setting, seed: int) -> Bench:
        """The writer of a setting and seed; the last one is kept."""
        if self._bench is None or self._bench[0] != (setting, seed):
            self._bench = (setting, seed), self.writer(setting, seed)
        return self._bench[1]

    def writer(self, setting: Setting, seed: int) -> Bench:
        """Trains a writer, once."""
        study = self.study
        judging = dataclasses.replace(study.world.judging, faults=setting.faults)
        world = dataclasses.replace(study.world, skill=setting.skill, judging=judging)
        sampling = Sampling(temperature=0.0, max_new_tokens=80)

        def load(path: Path) -> Any:
            judge = load_judge(path, ModelSource(), world.prompt(), sampling, seed=seed)
            return dataclasses.replace(judge, quiet=True)

        def train(folder: Path) -> None:
            how = dataclasses.replace(study.sft, seed=seed, steps=setting.steps or study.sft.steps)
            writer = load(world.write_base(folder / "base", seed=seed))
            writer = gfriend.sft(writer, world.demonstrations(study.demonstrations, seed=seed), how, folder=None)
            export_judge(folder / "export", writer)

        name = f"writer-{folder_of(setting, seed)}"
        self.work.stage(name, train)
        return Bench(world, load(self.work / name / "export"), seed)


def folder_of(setting: Setting, seed: int) -> str:
    """A part of file names."""
    return f"{''.join(c if c.isalnum() or c == '.' else '-' for c in setting.name.lower())}-{seed}"
