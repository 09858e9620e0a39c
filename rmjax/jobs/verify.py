"""Checks that a model's scores can be trusted: they depend on its weights and the text, and on nothing else."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rmjax import json_file
from rmjax.bounds import LAST_SEED, require
from rmjax.data import packing
from rmjax.data.chat import Chat
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.jobs.devices import Devices
from rmjax.jobs.export import export_judge, load_judge, saved_prompt
from rmjax.jobs.reward import RewardModel, export_reward, load_reward
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.workdir import begin
from rmjax.judging.judge import Judge
from rmjax.judging.prompts import JSON_JUDGE
from rmjax.judging.rescoring import token_scores
from rmjax.methods.bradley_terry import groups_of
from rmjax.models import hf
from rmjax.models.config import EncoderConfig
from rmjax.models.model import Model, Params
from rmjax.objectives.reference import slot_scores
from rmjax.objectives.scores import LogProb, Scalar
from rmjax.records import Preference, Rollout
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler

console = Console()


class Failed(SystemExit):
    """Some check failed; exit code 1."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: the largest difference seen and the most that is allowed."""

    name: str
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyJob:
    """Scores against batch size, padding, order, sharing and export; recorded against teacher-forced numbers."""

    workdir: str = "runs/verify"
    model: ModelSource = ModelSource()
    data: PairFile = PairFile(limit=16)
    max_new_tokens: int = 32
    samples: int = 4  # of each judge prompt
    devices: Devices = Devices()
    seed: int = 0

    def __post_init__(self) -> None:
        require("", self, "max_new_tokens", "samples", least=1)
        require("", self, "seed", least=0, most=LAST_SEED)

    def run(self, command: str = "") -> None:
        """Prints every check with its largest difference; exits with 1 where one fails. On all devices."""
        with self.devices.use():
            self.verify(command)

    def verify(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        source = self.data.read()
        directory, items = self.model.directory(), list(source.records)
        found = hf.load_model(directory)
        run: Callable[[], list[Check]]
        if found.head is not None or isinstance(found.config, EncoderConfig):
            self.refuse_sampling()
            reward = load_reward(self.model)
            contract, run = reward.chat.contract(), lambda: reward_checks(reward, self.model, items)
        else:
            sampling = Sampling(max_new_tokens=self.max_new_tokens)
            judge = load_judge(directory, self.model, saved_prompt(directory) or JSON_JUDGE, sampling, seed=self.seed)
            contract, run = judge.chat.contract(), lambda: judge_checks(judge, self.model, items, self.samples)
        work, provenance = begin(
            self, {self.data.path: source.hash}, command=command, labels={self.data.path: len(items)}
        )
        checks = run()
        rows = [{**dataclasses.asdict(c), "passed": c.passed} for c in checks]
        json_file.write(work / "summary.json", {"checks": rows})
        provenance.finish(contract=contract)
        table = Table("check", "largest difference", "allowed", "", box=None, padding=(0, 2, 0, 0))
        for c in checks:
            mark = "[green]ok[/]" if c.passed else "[red]FAILED[/]"
            table.add_row(c.name, f"{c.difference:.1e}", f"{c.limit:.0e}", mark)
        console.print(table)
        if not all(c.passed for c in checks):
            raise Failed(1)

    def refuse_sampling(self) -> None:
        """Raises UserError where an option is set that a reward model has no use for."""
        usual, path = {f.name: f.default for f in dataclasses.fields(self)}, self.model.path
        for name in ("max_new_tokens", "samples"):
            if (value := getattr(self, name)) != usual[name]:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {value}: {path} is a reward model, which writes nothing; leave it out")


def judge_checks(judge: Judge, source: ModelSource, items: Sequence[Preference], samples: int) -> list[Check]:
    """A language model: the mean log-probability of an answer's token, the export, and what it samples."""
    prompts = {f"{p.id}|{slot}": judge.prompt_ids(p, slot) for p in items for slot in ("A", "B")}
    return [
        *score_checks(judge.model, judge.params, groups_of(judge.chat, items), LogProb(length_normalised=True)),
        *export_checks(judge, source, groups_of(judge.chat, items[:4])),
        *sampling_checks(judge, prompts, samples),
    ]


def reward_checks(reward: RewardModel, source: ModelSource, items: Sequence[Preference]) -> list[Check]:
    """A reward model, decoder or encoder: its rewards, and those of its export."""
    checks = score_checks(reward.model, reward.params, reward.groups(items), Scalar())
    with tempfile.TemporaryDirectory() as folder:
        difference = export_reward(Path(folder) / "export", reward, source, items, origin={})
    return [*checks, Check("score: exported and loaded", difference, 0.0)]


def score_checks(model: Model, params: Params, groups: Sequence[Group], score: Any) -> list[Check]:
    """The score under every way to batch it, against each item alone in rows of its own length."""
    run = lambda groups, **how: np.concatenate(slot_scores(model, params, groups, score, **how))
    alone = np.concatenate([run([g], batch=1) for g in groups])
    longest = packing.fit(groups).length
    bare = [dataclasses.replace(g, pairs=(), weight=(), margin=(), smooth=()) for g in groups]
    split = [dataclasses.replace(g, completions=[c]) for g in bare for c in g.completions]
    backwards = run(groups[::-1], batch=4).reshape(len(groups), -1)[::-1].reshape(-1)  # two answers each
    ways: dict[str, Callable[[], np.ndarray]] = {
        "batch of 2 rows": lambda: run(groups, batch=2),
        "batch of 8 rows": lambda: run(groups, batch=8),
        "batch of 32 rows": lambda: run(groups, batch=32),
        "rows twice as long": lambda: run(groups, batch=4, length=2 * longest),
        "items in reverse order": lambda: backwards,
    }
    if model.share:
        ways["prompt not shared"] = lambda: run(split, batch=4)
    return [Check(f"score: {name}", largest(alone, way()), 1e-5) for name, way in ways.items()]


def export_checks(judge: Judge, source: ModelSource, groups: Sequence[Group]) -> list[Check]:
    """The score after an export and import."""
    score = LogProb(length_normalised=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export"
        export_judge(path, judge)
        whole = dataclasses.replace(source, adapter="", quantise="none")
        back = load_judge(path, whole, judge.prompt, judge.sampling, seed=judge.seed)
        both = (judge.model.merged(judge.params), (back.model, back.params))
        before, after = (np.concatenate(slot_scores(model, params, groups, score)) for model, params in both)
    return [Check("score: exported and loaded", largest(before, after), 0.0)]


def sampling_checks(judge: Judge, prompts: dict[str, Sequence[int]], samples: int) -> list[Check]:
    """Recorded log-probabilities against a forward pass; samples against another batch and order."""
    requests = [Request(id=id, prompt=prompt, samples=samples) for id, prompt in prompts.items()]
    draw = lambda requests, **how: sampled(judge, requests, **how)
    first = draw(requests)
    forced = token_scores(judge.model, judge.params, [(prompts[r.id], r.tokens) for r in first])
    recorded = largest(np.concatenate([r.logps for r in first]), np.concatenate(forced))
    other = {(r.id, r.index): r for r in draw(requests[::-1][: len(requests) // 2 + 1], prompts=1, slots=1)}
    same = [(r, other[r.id, r.index]) for r in first if (r.id, r.index) in other]
    changed = float(np.mean([a.tokens != b.tokens for a, b in same]))
    return [
        Check("log-probabilities: recorded against teacher-forced", recorded, 1e-4),
        Check("samples that change with the batch (share)", changed, 0.0),
    ]


def sampled(judge: Judge, requests: Sequence[Request], **how: Any) -> list[Rollout]:
    """Rollouts of the judge's policy."""
    chat: Chat = judge.chat
    return Sampler(judge.model, judge.params, chat, judge.sampling, seed=judge.seed, quiet=True, **how).run(requests)


def largest(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference."""
    return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))
