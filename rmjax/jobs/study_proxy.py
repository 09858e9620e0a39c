"""The proxy oracle in the policy world: what a budget of labels is worth spent directly, and through a proxy.

Each finished run is one line of rows.jsonl, so a killed study continues where it was. Seeds of the search are others
than those of the table; the search looks at dev questions, the table at test questions.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmjax.bounds import require
from rmjax.config import to_json
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs import study_proxy_report
from rmjax.jobs.active import STRATEGIES
from rmjax.jobs.devices import Devices
from rmjax.jobs.proxy import export
from rmjax.jobs.sources import ModelSource
from rmjax.jobs.study import Cells
from rmjax.jobs.study_proxy_report import DIRECT, GOLD, PROXY, SEED_POLICY
from rmjax.jobs.workdir import Workdir
from rmjax.methods import proxy_oracle
from rmjax.methods.proxy_oracle import Bought, ProxyOracle
from rmjax.methods.responses import Policy, respond
from rmjax.oracles.gold import GoldOracle
from rmjax.sampling.scheduler import Request, Sampler
from rmjax.training.loop import Train
from rmjax.worlds.policy_world import BEST, PolicyWorld

FIRST_SEARCH = 1000  # seeds of the table count from 0, those of the search from here
Point = tuple[float, int]  # DPO's learning rate, updates


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyProxy:
    """Gold reward of policies after DPO: the same budget spent on direct labels, and on a proxy that gives labels.

    Both ways see the same responses, buy the same labels and search the same settings of DPO. Beside them: the seed
    policy, and DPO on (best, worst) of every prompt by gold, which no budget buys.
    """

    workdir: str = "runs/study_proxy"
    world: PolicyWorld = PolicyWorld()
    demonstrations: int = 4000
    sft: Train
    pool: int = 2400  # prompts to sample responses for
    dev: int = 240  # questions that the search looks at
    test: int = 240  # questions of the table
    samples: int = 4  # sampled answers to each of them, beside the greedy one
    noise: float = 0.0  # share of the expert's labels that are wrong
    seeds: int = 5
    search_seeds: int = 2
    budgets: tuple[int, ...] = (50, 100, 200)
    selections: tuple[str, ...] = (
        "random",
        "k-center-prompts",
        "margin",
        "bald",
        "information-gain",
    )
    grid: tuple[Point, ...]  # what is searched for every way and budget: DPO's learning rate and updates
    method: ProxyOracle  # its budget, selection, and DPO's rate and updates are the study's
    devices: Devices = Devices()

    def __post_init__(self) -> None:
        require("", self, "demonstrations", "pool", "dev", "test", "samples", "search_seeds", least=1)
        require("", self, "seeds", least=2, most=FIRST_SEARCH)
        require("", self, "noise", least=0, most=0.5)
        for name, known in (("selections", STRATEGIES), ("budgets", None), ("grid", None)):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise UserError(f"{name}={given}: give at least one, all different")
            if known is not None and (odd := next((g for g in given if g not in known), None)) is not None:
                raise UserError(f"{name}: {odd!r} is none of {', '.join(known)}")
        if "random" not in self.selections:
            raise UserError(f"selections={self.selections}: random is what others are compared with; name it too")
        for name in ("budget", "selection"):
            if getattr(self.method, name) != getattr(ProxyOracle(), name):
                raise UserError(f"method.{name}: the study's own --{name}s decide; leave it out")
        trainings = {
            "sft": self.sft,
            "method.train": self.method.train,
            "method.evaluator_train": self.method.evaluator_train,
        }
        for name, train in trainings.items():
            if train.seed:
                raise UserError(f"{name}.seed={train.seed}: the study's own seeds decide; leave it out")
            if name != "sft":
                train.check_no_files(name)
        for budget, name, point in itertools.product(self.budgets, self.selections, self.grid):
            self.at(budget, name, point).check_pool(self.pool)

    def at(self, budget: int, selection: str, point: Point | None = None) -> ProxyOracle:
        """The method with a budget, a selection and a setting of DPO."""
        method = dataclasses.replace(self.method, budget=budget, selection=STRATEGIES[selection])
        if point is None:
            return method
        rate, steps = point
        optimizer = dataclasses.replace(method.train.optimizer, learning_rate=rate)
        return dataclasses.replace(
            method, train=dataclasses.replace(method.train, optimizer=optimizer, steps=steps, epochs=0)
        )

    def run(self, command: str = "") -> None:
        """Trains the seed policies, searches, runs every cell that is missing, writes the tables; on all devices."""
        with self.devices.use(self.sft, self.method.train, self.method.evaluator_train):
            self.measure(command)

    def measure(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        work = Workdir(self.workdir, to_json(self), {})
        provenance = Provenance(work / "run.json", command=command, config=to_json(self), data={}, seed=0)
        chosen = self.search(work)
        cells = Cells(work / "rows.jsonl", ("way", "selection", "budget", "seed"))
        for seed in range(self.seeds):
            bench = functools.cache(lambda seed=seed: Bench(self, work, seed, split="test"))
            for way, selection, budget in self.ways():
                point = chosen.get(f"{way}, {budget}")
                fill = lambda bench=bench, a=(way, selection, budget, point): bench().cell(*a)
                cells.fill({"way": way, "selection": selection, "budget": budget, "seed": seed}, fill)
            study_proxy_report.console.print(f"seed {seed + 1} of {self.seeds}")
        facts = {"testbed": "controlled world", "search": chosen, "best": BEST}
        study_proxy_report.conclude(work, cells.rows, facts, provenance)

    def ways(self) -> list[tuple[str, str, int]]:
        """(way, selection, budget) of every row of the table."""
        spent = itertools.product((DIRECT, PROXY), self.selections, self.budgets)
        return [(SEED_POLICY, "", 0), *spent, (GOLD, "", 0)]

    def search(self, work: Workdir) -> dict[str, Point]:
        """The grid point of highest mean sampled gold on dev questions, for every way and budget, labels at random."""
        cells = Cells(work / "search.jsonl", ("way", "budget", "rate", "steps", "seed"))
        searched = [*itertools.product((DIRECT, PROXY), self.budgets), (GOLD, 0)]
        for seed in range(FIRST_SEARCH, FIRST_SEARCH + self.search_seeds):
            bench = functools.cache(lambda seed=seed: Bench(self, work, seed, split="dev"))
            for (way, budget), (rate, steps) in itertools.product(searched, self.grid):
                fill = lambda bench=bench, a=(way, "random", budget, (rate, steps)): bench().cell(*a)
                name = {"way": way, "budget": budget, "rate": rate, "steps": steps, "seed": seed}
                cells.fill(name, fill)
        return {f"{way}, {budget}": best_point(cells.rows, way, budget, self.grid) for way, budget in searched}


class Bench:
    """One seed: its seed policy, the responses, and what was bought of them, each made once."""

    def __init__(self, study: StudyProxy, work: Workdir, seed: int, *, split: str):
        self.study, self.seed, world = study, seed, study.world
        count = study.test if split == "test" else study.dev
        self.questions = world.different(count, split=split)
        work.stage(f"sft-{seed}", self.train)
        self.policy = Policy(*ModelSource(path=str(work / f"sft-{seed}" / "export")).load())
        prompts = {f"{i:05d}": p for i, p in enumerate(world.prompts(study.pool, seed=seed))}
        path = work / f"sft-{seed}" / "responses.jsonl"
        how = {"samples": study.method.responses, "seed": seed, "path": path}
        self.responses = respond(self.policy, prompts, study.method.sampling, **how)
        self.gold = [[world.reward(r.prompt, text) for text in r.texts] for r in self.responses]
        self.groups = [r.group(0, 1) for r in self.responses if len(r.texts) > 1]  # every row has their shape
        self.bought = functools.cache(self._bought)
        self.scored = functools.cache(self._scored)

    def train(self, folder: Path) -> None:
        """The seed policy: imitates demonstrators of middling skill."""
        world, seed = self.study.world, self.seed
        base = world.write_base(folder / "base", seed=seed)
        policy = Policy(*ModelSource(path=str(base)).load())
        train = dataclasses.replace(self.study.sft, seed=seed)
        demonstrations = world.demonstrations(self.study.demonstrations, seed=seed)
        export(folder / "export", proxy_oracle.sft(policy, demonstrations, train, folder))

    def _bought(self, selection: str, budget: int) -> Bought:
        """The labels that this selection buys."""
        oracle = GoldOracle(self.study.world.reward, noise=self.study.noise, seed=self.seed)
        return proxy_oracle.buy(self.policy, self.responses, oracle, self.study.at(budget, selection), seed=self.seed)

    def _scored(self, selection: str, budget: int) -> list[np.ndarray]:
        """What the evaluation model that they teach says of every response."""
        method, bought = self.study.at(budget, selection), self.bought(selection, budget)
        evaluator = proxy_oracle.evaluation_model(self.policy, self.responses, bought, method, seed=self.seed)
        return evaluator.scores(self.responses, batch=64, length=method.evaluator_train.length)

    def cell(self, way: str, selection: str, budget: int, point: Point | None) -> dict[str, Any]:
        """One run as a line of rows.jsonl or search.jsonl."""
        start, facts, policy = time.perf_counter(), {}, self.policy
        if way != SEED_POLICY:
            groups, facts = self.labels(way, selection, budget)
            method = self.study.at(budget or max(self.study.budgets), selection or "random", point)
            policy = proxy_oracle.dpo(policy, groups, method, seed=self.seed, pool=self.groups)
        reward = reward_of(policy, self.questions, self.study)
        return {**facts, **reward, "seconds": round(time.perf_counter() - start, 3)}

    def labels(self, way: str, selection: str, budget: int) -> tuple[list[Group], dict[str, Any]]:
        """What DPO is trained on, and what is known of it."""
        if way == GOLD:
            best = [(int(np.argmax(g)), int(np.argmin(g))) for g in self.gold]
            groups = [
                r.group(a, b) for r, g, (a, b) in zip(self.responses, self.gold, best, strict=True) if g[a] > g[b]
            ]
            return groups, {"given": 0, "bought": 0, "trained": len(groups)}
        bought = self.bought(selection, budget)
        groups = proxy_oracle.bought_groups(self.responses, bought)
        facts = {"bought": len(bought.votes), "ties": len(bought.votes) - len(groups), "given": 0}
        if way == PROXY:
            scores = self.scored(selection, budget)
            given = proxy_oracle.label_rest(self.responses, scores, bought, self.study.at(budget, selection))
            groups = [*groups, *given.groups]
            facts |= {"given": len(given.groups), "close": given.close, **self.accuracies(scores, bought, given.pairs)}
        return groups, {**facts, "trained": len(groups)}

    def accuracies(
        self, scores: Sequence[np.ndarray], bought: Bought, given: Mapping[str, tuple[int, int]]
    ) -> dict[str, float | None]:
        """Against gold, ties of gold left out: of the pairs for sale that nobody bought, and of the labels given."""
        taken = {p.id for p in bought.pairs}
        unbought, right = [], []
        for r, score, gold in zip(self.responses, scores, self.gold, strict=True):
            if len(gold) > 1 and r.id not in taken and gold[0] != gold[1]:
                unbought.append(0.5 if score[0] == score[1] else float((score[0] > score[1]) == (gold[0] > gold[1])))
            if r.id in given and gold[given[r.id][0]] != gold[given[r.id][1]]:
                right.append(float(gold[given[r.id][0]] > gold[given[r.id][1]]))
        rate = lambda found: float(np.mean(found)) if found else None
        return {"proxy_accuracy": rate(unbought), "given_accuracy": rate(right)}


def reward_of(policy: Policy, questions: Sequence[Any], study: StudyProxy) -> dict[str, float]:
    """Gold reward of sampled and greedy answers: means, shares of the best, share of sampled texts without worth."""
    out = {}
    for name, temperature, samples in (("sampled", 1.0, study.samples), ("greedy", 0.0, 1)):
        sampling = dataclasses.replace(study.method.sampling, temperature=temperature)
        sampler = Sampler(policy.model, policy.params, policy.chat, sampling, seed=0, quiet=True)
        requests = [
            Request(id=str(i), prompt=policy.chat.prompt_ids(q), samples=samples) for i, q in enumerate(questions)
        ]
        gold = np.array([study.world.reward(questions[int(r.id)], r.text) for r in sampler.run(requests)])
        out |= {name: float(gold.mean()), f"{name}_best": float(np.mean(gold == BEST))}
        out[f"{name}_zero"] = float(np.mean(gold == 0))
    return out


def best_point(rows: Sequence[Mapping[str, Any]], way: str, budget: int, grid: Sequence[Point]) -> Point:
    """The searched point of highest mean sampled gold; of equal ones the earlier."""
    of = lambda p: [r["sampled"] for r in rows if (r["way"], r["budget"], r["rate"], r["steps"]) == (way, budget, *p)]
    return max(grid, key=lambda p: float(np.mean(of(p))))
