"""The main job: from a model and a few labelled pairs to a generative reward model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.data.rows import Group
from rmjax.data.sources import read_demonstrations
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import from_verdicts
from rmjax.evaluation.summary import write_scores
from rmjax.jobs.devices import Devices
from rmjax.jobs.evaluation import Evaluation, judge_items
from rmjax.jobs.export import export_judge, load_judge
from rmjax.jobs.gfriend_report import conclude
from rmjax.jobs.lengths import Lengths
from rmjax.jobs.sources import ModelSource, Pairs, with_adapters
from rmjax.jobs.workdir import Workdir, begin
from rmjax.judging.judge import Judge
from rmjax.judging.prompts import JSON_JUDGE, JudgePrompt
from rmjax.judging.verdicts import Labels
from rmjax.methods import gfriend
from rmjax.methods.gfriend import Gfriend, round_seed
from rmjax.models.config import Lora
from rmjax.records import Demonstration, Judgment, Preference, content_id
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GfriendJob:
    """SFT -> sample -> refine -> M-DPO -> evaluate -> export. The same command continues an interrupted run."""

    processes: ClassVar[bool] = True  # several can do it together
    workdir: str = "runs/gfriend"  # every stage leaves its files here
    model: ModelSource = ModelSource()
    data: Pairs = Pairs()
    # file of demonstrated judgments for SFT; empty: no SFT, the model itself is the first judge
    demonstrations: str = ""
    prompt: JudgePrompt = JSON_JUDGE
    sft: Train = Train(
        optimizer=Optimizer(learning_rate=1e-5, warmup=0.1, schedule="linear"), batch=4, epochs=3, save_every=100
    )
    method: Gfriend = Gfriend(constrained=True)
    lora: Lora = Lora()  # adapters that are trained in the model's place; every stage's export has them merged
    lengths: Lengths = Lengths()
    evaluation: Evaluation = Evaluation()
    devices: Devices = Devices()
    seed: int = 0
    # run one stage (of every round) alone
    only: Literal["", "sft", "sample", "refine", "mdpo", "evaluate", "export"] = ""

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        if self.data.tie == "half":
            raise UserError("--data.tie half: no judgment of a tie is right or wrong, so none is trained on; give drop")
        for name, train in (("sft", self.sft), ("method.train", self.method.train)):
            if train.seed:
                raise UserError(f"{name}.seed={train.seed}: the job's own --seed decides; set that one")

    def run(self, command: str = "") -> None:
        """Runs every stage that is not done, on all devices."""
        with self.devices.use(*self.trainings()):
            self.stages(command)

    def trainings(self) -> Sequence[Train]:
        """What is trained."""
        return (self.sft, self.method.train) if self.demonstrations else (self.method.train,)

    def stages(self, command: str) -> None:
        """Checks everything that can be checked before work is done, then runs the stages in order."""
        train, held, hashes = self.data.load()
        base = self.model.directory()
        judge = self.judge(base)
        for how in self.trainings():
            how.check(self.tuned(judge).model)
        hints = self.method.refinement.hints > 0
        sampler = dataclasses.replace(judge, constrained=self.method.constrained)
        train = self.lengths.fitting(sampler, train, policy=self.lengths.train, what="training pairs", hints=hints)
        voter = dataclasses.replace(judge, constrained=self.evaluation.constrained)
        held = self.lengths.fitting(voter, held, policy=self.lengths.evaluation, what="held-out pairs")
        demonstrations = []
        if self.demonstrations:
            found = read_demonstrations(self.demonstrations)
            hashes[self.demonstrations] = content_id((), *(d.id for d in found))
            demonstrations = self.lengths.demonstrations(judge, found, row=self.sft.length)
        if self.evaluation.constrained or self.method.constrained:
            Labels.of(judge.chat, self.prompt).require_forced(self.prompt)
        if any(p.margin is not None for p in train):
            console.print("margins of the pairs are not used: they do not fit the log-ratios of judgments")
        for p in train:
            self.method.objective.check_smooth(p.smooth, f"pair {p.id!r}")
        first_read = {"method.refinement": "refine-1", "method.objective": "mdpo-1", "method.train": "mdpo-1"}
        work, provenance = begin(
            self,
            hashes,
            command=command,
            params=judge.params,
            labels=self.data.labels(train, held),
            first_read={**first_read, "evaluation": "evaluate"},
        )

        self.stage(work, "sft", "", lambda folder: self.sft_stage(base, demonstrations, folder))
        policy, previous = work / "sft" / "export", "sft"
        for number in range(1, self.method.rounds + 1):
            names = [f"{name}-{number}" for name in ("sample", "refine", "mdpo")]
            self.stage(work, names[0], previous, lambda f, p=policy, n=number: self.sample_stage(p, train, n, f))
            self.stage(work, names[1], names[0], lambda f, p=policy, n=number: self.refine_stage(p, train, n, work, f))
            self.stage(work, names[2], names[1], lambda f, p=policy, n=number: self.mdpo_stage(p, n, work, f))
            policy, previous = work / names[2] / "export", names[2]
        self.stage(work, "evaluate", previous, lambda f: self.evaluate_stage(policy, held, work, f))
        self.stage(work, "export", previous, lambda f: self.export_stage(policy, work))
        if work.done("evaluate") and work.done("export"):
            contract = judge.chat.contract()
            conclude(work, train, held, method=self.method, seed=self.seed, provenance=provenance, contract=contract)
        else:
            provenance.finish()

    def stage(self, work: Workdir, name: str, needs: str, run: Callable[[Path], Any]) -> None:
        """Runs a stage unless it is done or `only` names another one."""
        if self.only and not name.startswith(self.only):
            return
        if self.only and needs:
            if work.done(needs) is None and not name.endswith("-1") and name[-1].isdigit():
                console.print(f"[dim]{name}: waits for {needs}[/]")
                return
            work.require(needs, name)
        if work.done(name) is not None:
            console.print(f"[dim]{name}: done before[/]")
        else:
            console.rule(f"[bold]{name}")
        work.stage(name, run)

    def judge(self, path: Path) -> Judge:
        """The judge of the model or of an exported policy, with the method's sampling."""
        model, params, chat = self.model.of_stage(path, self.lora)
        how = {"prompt": self.prompt, "sampling": self.method.sampling, "seed": self.seed}
        return Judge(model=model, params=params, chat=chat, **how)

    def hand_on(self, folder: Path, judge: Judge) -> None:
        """Writes a stage's export, for others and for the next stage."""
        export_judge(folder / "export", judge)
        self.model.keep_adapters(folder / "export", judge.model, judge.params)

    def tuned(self, judge: Judge) -> Judge:
        """What is trained: the judge, with its adapters, or with new ones where they are asked for."""
        model, params = with_adapters(judge.model, judge.params, self.lora, seed=self.seed)
        return dataclasses.replace(judge, model=model, params=params)

    def sft_stage(self, base: Path, demonstrations: Sequence[Demonstration], folder: Path) -> Mapping[str, Any]:
        judge = self.judge(base)
        if demonstrations:
            train = dataclasses.replace(self.sft, seed=self.seed)
            judge = gfriend.sft(self.tuned(judge), demonstrations, train, folder=folder)
        else:
            console.print("no --demonstrations: SFT is skipped, the model itself is the first judge and the reference")
        self.hand_on(folder, judge)
        return {"demonstrations": len(demonstrations)}

    def sample_stage(self, policy: Path, train: Sequence[Preference], number: int, folder: Path) -> Mapping[str, Any]:
        path, seed = folder / "judgments.jsonl", round_seed(self.seed, number)
        with self.devices.own():
            judgments = gfriend.sample(self.judge(policy), train, self.method, seed=seed, path=path)
        return {"items": len(train), "judgments": len(judgments), "tokens": sum(len(j.tokens) for j in judgments)}

    def refine_stage(
        self, policy: Path, train: Sequence[Preference], number: int, work: Workdir, folder: Path
    ) -> Mapping[str, Any]:
        # Hints asked for after the sampling make prompts longer, so that a pair that was judged may be dropped by now.
        left = {p.id for p in train}
        judgments = jsonl.read(work / f"sample-{number}" / "judgments.jsonl", Judgment)
        judgments = [j for j in judgments if j.item in left]
        seed = round_seed(self.seed, number)
        with self.devices.own():
            judge = self.judge(policy)
            refined = gfriend.refine(judge, train, judgments, self.method, seed=seed, folder=folder)
        console.print(refined.table.rich())
        if not refined.groups:  # before a file is left, so that the settings may still change
            raise UserError(
                f"{folder.name}: no label has a right and a wrong judgment to make a pair of: "
                "--method.refinement.hints 1 asks for the missing one; a new --workdir can have more --method.samples"
            )
        jsonl.write(folder / "graded.jsonl", refined.graded)
        jsonl.write(folder / "groups.jsonl", refined.groups)
        json_file.write(folder / "table.json", dataclasses.asdict(refined.table))
        return {"pairs": sum(len(g.pairs) for g in refined.groups), "table": dataclasses.asdict(refined.table)}

    def mdpo_stage(self, policy: Path, number: int, work: Workdir, folder: Path) -> Mapping[str, Any]:
        groups = jsonl.read(work / f"refine-{number}" / "groups.jsonl", Group)
        method = dataclasses.replace(self.method, train=dataclasses.replace(self.method.train, seed=self.seed))
        start = self.tuned(self.judge(policy))
        judge = gfriend.mdpo(start, groups, method, folder=folder, name=f"M-DPO, round {number}")
        self.hand_on(folder, judge)
        return {"groups": len(groups), "pairs": sum(len(g.pairs) for g in groups)}

    def evaluate_stage(
        self, policy: Path, held: Sequence[Preference], work: Workdir, folder: Path
    ) -> Mapping[str, Any]:
        """Judges the held-out pairs with the first judge and with the trained one."""
        rows = {}
        first = "SFT judge" if self.demonstrations else "model as it is"
        for name, slug, path in ((first, "first", work / "sft" / "export"), ("GFRIEND", "gfriend", policy)):
            start = time.perf_counter()
            path_of = folder / f"{slug}.judgments.jsonl"
            with self.devices.own():
                _, found = judge_items(self.judge(path), held, self.evaluation, path=path_of)
            write_scores(folder / f"{slug}.scores.jsonl", from_verdicts(held, found))
            rows[name] = {"slug": slug, "seconds": round(time.perf_counter() - start, 3)}
        return {"rows": rows}

    def export_stage(self, policy: Path, work: Workdir) -> Mapping[str, Any]:
        whole = dataclasses.replace(self.model, adapter="", quantise="none")  # not rounded once more
        judge = load_judge(policy, whole, self.prompt, self.method.sampling, seed=self.seed)
        export_judge(work / "export", judge)
        return {"path": str(work / "export")}
