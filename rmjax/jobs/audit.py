"""Re-judges synthetic pairs: how right are labels that are known by construction, and what does style give away?"""

from __future__ import annotations

import dataclasses
from typing import Any

import tyro
from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.evaluation.style_leak import style_leak
from rmjax.jobs import audit_report
from rmjax.jobs.devices import Devices
from rmjax.jobs.evaluation import Evaluation, judge_items
from rmjax.jobs.judge import judge_of, judge_table, require_cold, without_nan
from rmjax.jobs.lengths import Lengths
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.workdir import begin
from rmjax.judging.prompts import JudgePrompt
from rmjax.judging.votes import summary
from rmjax.records import Preference
from rmjax.refine.audit import Trust, audit
from rmjax.refine.strength import COLUMN
from rmjax.sampling.policy import Sampling

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditJob:
    """Writes report.html, summary.json, judgments.jsonl and, where something is done about doubt, trusted.jsonl."""

    workdir: str = "runs/audit"
    model: ModelSource = ModelSource()  # the judge; best another model than the one that wrote the pairs
    data: PairFile = PairFile()  # pairs of the rmboost job
    prompt: tyro.conf.Fixed[JudgePrompt | None] = None  # None: what the model was exported with, else the JSON judge
    sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=512)  # its temperature is evaluation.temperature
    evaluation: Evaluation = Evaluation()  # votes per pair and order
    lengths: Lengths = Lengths(evaluation="drop")
    trust: Trust = Trust()  # what is done with labels that are doubted
    devices: Devices = Devices()
    seed: int = 0

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require_cold(self.sampling)

    def run(self, command: str = "") -> None:
        """Judges what is not judged yet, on all devices, and prints the figures."""
        with self.devices.use():
            self.audit(command)

    def audit(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        source = self.data.read()
        pairs = list(source.records)
        self.check(pairs)
        judge, pairs = judge_of(self, pairs)
        work, provenance = begin(self, {self.data.path: source.hash}, command=command, params=judge.params, labels={})
        judgments, verdicts = judge_items(judge, pairs, self.evaluation, path=work / "judgments.jsonl")
        found, leak, figures = audit(pairs, verdicts), style_leak(pairs, seed=self.seed), summary(judgments, pairs)
        trusted = self.trust(pairs, verdicts)
        if self.trust.action != "none":
            jsonl.write(work / "trusted.jsonl", trusted)
        facts: dict[str, Any] = {"agreement": found.facts(), "style": leak.facts(), "kept": len(trusted)}
        facts["judge"] = dataclasses.asdict(figures)
        facts["source"] = {"pairs": len(source.records), "judged": len(pairs)}
        json_file.write(work / "summary.json", without_nan(facts))
        run = provenance.finish(contract=judge.chat.contract())
        doubted = sorted(
            zip(pairs, verdicts, strict=True), key=lambda x: 0.5 if x[1].prob_chosen is None else x[1].prob_chosen
        )
        audit_report.write(
            work / "report.html", found, leak, doubted, file=self.data.path, judge=self.model.path, run=run
        )
        console.print(found.rich())
        console.print(leak.rich())
        console.print(judge_table(figures))
        if self.trust.action == "drop":
            console.print(f"trusted: {len(trusted):,} of {len(pairs):,} pairs: [bold]{work / 'trusted.jsonl'}[/]")
        elif self.trust.action == "weigh":
            console.print(f"weighed by how far labels are believed: [bold]{work / 'trusted.jsonl'}[/]")
        console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")

    def check(self, pairs: list[Preference]) -> None:
        """Raises UserError where pairs are not synthetic, or have no strength that is asked for."""
        for p in pairs:
            if not isinstance(p.meta.get("origin"), dict):
                raise UserError(
                    f"{self.data.path}: record {p.id!r} has no meta.origin, which says how a synthetic pair came "
                    "about: give a preferences.jsonl of the rmboost job (labels of people: the strength job)"
                )
            if self.trust.by == "strength" and COLUMN not in p.meta:
                raise UserError(
                    f"{self.data.path}: record {p.id!r} has no meta.strength: give the strengths.jsonl that the "
                    "strength job makes of these pairs, or --trust.by judge"
                )
