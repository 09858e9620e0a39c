"""From prompts to synthetic pairs: RMBoost and what it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.data.sources import read_preferences
from rmjax.errors import UserError
from rmjax.evaluation.style_leak import style_leak
from rmjax.jobs.devices import Devices
from rmjax.jobs.judging import Judging
from rmjax.jobs.prompts import PromptFile
from rmjax.jobs.reward import load_reward
from rmjax.jobs.sources import ModelSource
from rmjax.jobs.workdir import Workdir, begin
from rmjax.methods.rmboost import RmBoost
from rmjax.methods.synthetic import Models, Recipe, Scorer, Synthetic, affordable
from rmjax.methods.synthetic_baselines import RandomEdit, Rlaif, Rlcd, WestOfN
from rmjax.records import Demonstration, Messages, Preference
from rmjax.refine import aspects
from rmjax.refine.conditional import drop_table
from rmjax.refine.edit_prompts import WritingPrompts
from rmjax.refine.mixing import mix
from rmjax.refine.writers import Generator
from rmjax.sampling.journal import fingerprint
from rmjax.sampling.policy import Sampling

console = Console()
named = tyro.conf.subcommand
Method = (
    Annotated[RmBoost, named("rmboost")]
    | Annotated[Rlaif, named("rlaif")]
    | Annotated[WestOfN, named("west-of-n")]
    | Annotated[Rlcd, named("rlcd")]
    | Annotated[RandomEdit, named("random-edit")]
)
READS = {RmBoost: {"answer", "edit"}, RandomEdit: {"answer", "edit"}, Rlcd: {"steering"}}  # prompts; others: answer
WRITING = "writing"  # folder of what generator and judge wrote


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real:
    """Labelled pairs to mix with the synthetic ones: mixed.jsonl."""

    path: str = ""  # empty: nothing is mixed
    weight: float = 1.0  # of a synthetic pair, where a real one counts 1

    def __post_init__(self) -> None:
        require("real.", self, "weight", above=0)
        if self.weight != 1 and not self.path:
            raise UserError(f"--real.weight {self.weight} without --real.path weighs nothing: give a file of pairs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RmBoostJob:
    """Writes preferences.jsonl (for train), drops.jsonl, summary.json. The same command continues an interrupted run.

    Another method comes last: rmboost --model.path DIR --data.path prompts.jsonl method:west-of-n --method.n 4
    """

    workdir: str = "runs/rmboost"
    model: ModelSource = ModelSource()  # the generator
    data: PromptFile = PromptFile()
    aspects: str = "helpfulness"  # question-answering, helpfulness, summarisation, safety, or a file of aspects
    budget: int = 0  # texts that the generator may write, prompts drawn for it; 0: all prompts
    sampling: Sampling = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=1024)
    method: Method = RmBoost()
    judge: Judging = Judging()
    scorer: ModelSource = ModelSource()  # West-of-N's reward model
    real: Real = Real()
    devices: Devices = Devices()
    seed: int = 0

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "budget", least=0)
        name, reads = self.method.name, READS.get(type(self.method), {"answer"})
        if self.judge != Judging() and not isinstance(self.method, Rlaif):
            raise UserError(f"--judge.*: method {name} asks no judge; leave them out, or choose method:rlaif")
        if self.judge.model != ModelSource() and not self.judge.model.path:
            raise UserError(
                "--judge.model.*: without --judge.model.path the generator judges, as it is; leave them out"
            )
        if self.scorer != ModelSource() and not isinstance(self.method, WestOfN):
            raise UserError(f"--scorer.*: method {name} scores nothing; leave them out, or choose method:west-of-n")
        if (self.aspects, self.method.recipe.aspects) != ("helpfulness", Recipe().aspects) and "edit" not in reads:
            raise UserError(f"--aspects, method.recipe.aspects: method {name} reads no aspects; leave them out")
        for part in ("answer", "edit", "steering"):
            if part not in reads and getattr(self.method.recipe.prompts, part) != getattr(WritingPrompts(), part):
                raise UserError(f"method.recipe.prompts.{part}: method {name} does not ask it; leave it as it is")
        if isinstance(self.method, Rlaif | WestOfN) and self.sampling.greedy:
            raise UserError("--sampling.temperature 0: all answers to a prompt would be alike; give a number above 0")

    def run(self, command: str = "") -> None:
        """Writes what is not written yet, on all devices, and prints what became of the pairs."""
        with self.devices.use():
            self.write(command)

    def write(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        method = dataclasses.replace(self.method, recipe=self.recipe())
        items, hash = self.data.read()
        hashes = {self.data.path: hash}
        if self.budget:
            items = affordable(items, method, self.budget, seed=self.seed)
        real: Sequence[Preference] = ()
        if self.real.path:
            source = read_preferences(self.real.path)
            real, hashes[self.real.path] = source.records, source.hash
        models = self.models(hashes)
        work, provenance = begin(self, hashes, command=command, labels={self.real.path: len(real)} if real else {})
        folder = work / WRITING
        folder.mkdir(exist_ok=True)
        made = method.make(models, items, seed=self.seed, folder=folder)
        jsonl.write(work / "preferences.jsonl", made.preferences)
        jsonl.write(work / "drops.jsonl", made.drops)
        if real:
            jsonl.write(work / "mixed.jsonl", mix(real, made.preferences, weight=self.real.weight))
        run = provenance.finish(contract=models.generator.chat.contract())
        self.conclude(work, method.name, items, made, len(real), seconds=run["seconds"])

    def recipe(self) -> Recipe:
        """The method's recipe with the aspects that were asked for. A config file's own aspects stay."""
        recipe = self.method.recipe
        if self.aspects == "helpfulness":
            return recipe
        if recipe.aspects != Recipe().aspects:
            raise UserError(
                f"--aspects {self.aspects}: the config sets method.recipe.aspects too; leave one of them out"
            )
        if self.aspects in aspects.TASKS:
            return dataclasses.replace(recipe, aspects=aspects.TASKS[self.aspects])
        if not Path(self.aspects).exists():
            known = ", ".join(aspects.TASKS)
            raise UserError(f"--aspects {self.aspects}: no such file, and not one of {known}")
        return dataclasses.replace(recipe, aspects=aspects.read(self.aspects))

    def models(self, hashes: dict[str, str]) -> Models:
        """The generator, RLAIF's judge, West-of-N's scorer; their weights' hashes are put among `hashes`."""
        model, params, chat = self.model.load()
        hashes[f"weights of {self.model.path}"] = fingerprint(params)
        generator = Generator(name=self.model.path, model=model, params=params, chat=chat, sampling=self.sampling)
        if isinstance(self.method, Rlaif):
            path = Path(self.workdir, WRITING, "judgments.jsonl")
            own = {} if self.judge.model.path else {"source": self.model, "loaded": generator}
            judge = self.judge.oracle(path, seed=self.seed, **own)
            hashes[f"weights of {judge.name}"] = fingerprint(judge.judge.params)
            return Models(generator=generator, judge=judge)
        if not isinstance(self.method, WestOfN):
            return Models(generator=generator)
        if not self.scorer.path:
            raise UserError("--scorer.path is empty: West-of-N needs a reward model (the train job makes one)")
        reward = load_reward(self.scorer)
        hashes[f"weights of {self.scorer.path}"] = fingerprint(reward.params)

        def score(answers: Sequence[tuple[Messages, str]]) -> Sequence[float | None]:
            single = [Demonstration(prompt=p, completion=a, id=str(i)) for i, (p, a) in enumerate(answers)]
            read = reward.fitting(single, most=0, policy="drop", what="answers to score")
            worth = dict(zip((d.id for d in read), reward.rewards(read)[:, 0].tolist(), strict=True))
            return [worth.get(d.id) for d in single]

        scorer: Scorer = score
        return Models(generator=generator, scorer=scorer)

    def conclude(
        self, work: Workdir, name: str, items: Sequence[Any], made: Synthetic, real: int, *, seconds: float
    ) -> None:
        """summary.json and the tables."""
        leak = style_leak(made.preferences, seed=self.seed)
        facts = {"method": name, "prompts": len(items), "real": real, **made.facts()}
        json_file.write(work / "summary.json", {**facts, "style": leak.facts(), "seconds": seconds})
        console.print(drop_table(made.preferences, made.drops))
        spent = made.spent
        console.print(
            f"{name}: {spent.calls:,} texts of {spent.wrote:,} tokens from prompts of {spent.read:,} tokens, "
            f"{spent.unfinished:,} cut at their greatest length; {spent.judged:,} pairs judged, "
            f"{spent.scored:,} answers scored"
        )
        if made.preferences:
            console.print(leak.rich())
        else:
            console.print("[bold]no pair was made[/]: drops.jsonl has the last text of every pair that was dropped")
        console.print(f"pairs: [bold]{work / 'preferences.jsonl'}[/]   dropped: {work / 'drops.jsonl'}")
        if real:
            console.print(f"mixed with {real:,} real pairs: [bold]{work / 'mixed.jsonl'}[/]")
