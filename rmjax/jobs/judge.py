"""Judges pairs with any language model: per-item scores and a summary."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import tyro
from rich.console import Console
from rich.table import Table

from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.evaluation.baselines import against, trivial, verdict
from rmjax.evaluation.calibration import calibration
from rmjax.evaluation.pairwise import accuracy, accuracy_by, from_verdicts
from rmjax.evaluation.summary import Row, write_scores, write_summary
from rmjax.evaluation.tables import accuracy_table, calibration_table
from rmjax.jobs.devices import Devices
from rmjax.jobs.evaluation import Evaluation, judge_items
from rmjax.jobs.export import load_judge, saved_prompt
from rmjax.jobs.lengths import Lengths
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.workdir import begin
from rmjax.judging.judge import Judge
from rmjax.judging.prompts import JSON_JUDGE, JudgePrompt
from rmjax.judging.verdicts import Labels
from rmjax.judging.votes import Summary, summary
from rmjax.records import Preference
from rmjax.sampling.policy import Sampling
from rmjax.statistics import Interval

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeJob:
    """Judges every pair of a file, both orders by default; writes scores.jsonl, judgments.jsonl, summary.json."""

    processes: ClassVar[bool] = True  # several can do it together
    workdir: str = "runs/judge"
    model: ModelSource = ModelSource()
    data: PairFile = PairFile()
    prompt: tyro.conf.Fixed[JudgePrompt | None] = None  # None: what the model was exported with, else the JSON judge
    sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=512)  # its temperature is evaluation.temperature
    evaluation: Evaluation = Evaluation()
    lengths: Lengths = Lengths()
    devices: Devices = Devices()
    seed: int = 0

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require_cold(self.sampling)

    def run(self, command: str = "") -> None:
        """Judges what is not judged yet, on all devices, and prints the summary."""
        with self.devices.use(), self.devices.own():
            self.judge(command)

    def judge(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        source = self.data.read()
        judge, items = judge_of(self, source.records)
        work, provenance = begin(
            self,
            {self.data.path: source.hash},
            command=command,
            params=judge.params,
            labels={self.data.path: len(items)},
        )
        start = time.perf_counter()
        judgments, found = judge_items(judge, items, self.evaluation, path=work / "judgments.jsonl")
        seconds = time.perf_counter() - start
        scores = from_verdicts(items, found)
        write_scores(work / "scores.jsonl", scores)
        figures = summary(judgments, items)
        row = Row.of(accuracy(scores), method="judge", labels=0, seed=self.seed, seconds=round(seconds, 3))
        simple = trivial(items)
        baselines = {name: accuracy(s) for name, s in simple.items()}
        beside = against(scores, simple, name=row.method, seed=self.seed)
        known = [s.prob_chosen for s in scores if s.prob_chosen is not None]
        facts: dict[str, Any] = {"judge": dataclasses.asdict(figures), "testbed": "real data", "schema": source.schema}
        facts["baselines"] = {name: dataclasses.asdict(a) for name, a in baselines.items()}
        facts["against_baselines"] = [dataclasses.asdict(c) for c in beside]
        facts["calibration"] = dataclasses.asdict(calibration(known)) if known else None
        facts["subsets"] = {name: dataclasses.asdict(a) for name, a in accuracy_by(scores, "subset").items()}
        write_summary(work / "summary.json", [row], **without_nan(facts))
        provenance.finish(contract=judge.chat.contract())
        console.print(accuracy_table([row], baselines, title=f"{self.model.path} on {self.data.path}"))
        console.print(verdict(beside), soft_wrap=True)
        console.print(judge_table(figures))
        if known:
            console.print(calibration_table({"judge": calibration(known)}))
        console.print(f"per item: [bold]{work / 'scores.jsonl'}[/]   numbers: {work / 'summary.json'}")


def require_cold(sampling: Sampling) -> None:
    """Raises UserError for a temperature, which is another field of these jobs."""
    if sampling.temperature:
        raise UserError(f"sampling.temperature={sampling.temperature}: --evaluation.temperature decides; set that one")


def judge_of(job: Any, pairs: Sequence[Preference]) -> tuple[Judge, list[Preference]]:
    """The judge that a job's settings name, and the pairs that it can read.

    Args:
        job: settings with the fields of `JudgeJob`.

    Raises:
        UserError: a pair is too long (or `lengths` says what else becomes of it), or no verdict can be forced.
    """
    directory, how = job.model.directory(), job.evaluation
    prompt = job.prompt or saved_prompt(directory) or JSON_JUDGE
    judge = load_judge(directory, job.model, prompt, job.sampling, seed=job.seed)
    judge = dataclasses.replace(judge, constrained=how.constrained)
    left = job.lengths.fitting(judge, list(pairs), policy=job.lengths.evaluation, what="pairs")
    if how.constrained:
        Labels.of(judge.chat, prompt).require_forced(prompt)
    return judge, left


def judge_table(figures: Summary) -> Table:
    """A judge's figures for a terminal."""
    table = Table("judge", "", "95 % interval", "n", box=None, padding=(0, 2, 0, 0))
    for name, value in named(figures):
        table.add_row(
            name, f"{100 * value.value:.1f}", f"{100 * value.low:.1f} to {100 * value.high:.1f}", f"{value.n:,}"
        )
    return table


def named(figures: Summary) -> Sequence[tuple[str, Interval]]:
    """The figures that are shown, in words."""
    return (
        ("accuracy, unparsed items count one half", figures.accuracy),
        ("accuracy over parsed items", figures.accuracy_parsed),
        ("accuracy of p(chosen) > 1/2", figures.accuracy_prob),
        ("both orders agree", figures.consistency),
        ("says A (1/2: no position bias)", figures.says_a),
        ("unparsed judgments", figures.unparsed),
        ("forced verdicts", figures.forced),
    )


def without_nan(value: Any) -> Any:
    """A JSON tree with NaN (empty calibration bins) as null."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value
