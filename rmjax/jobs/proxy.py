"""The proxy oracle on a real language model: few labels bought, many given, a policy trained on both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.data.sources import read_demonstrations
from rmjax.errors import UserError
from rmjax.jobs import proxy_report
from rmjax.jobs.active import STRATEGIES, require_labels
from rmjax.jobs.devices import Devices
from rmjax.jobs.judging import Judging
from rmjax.jobs.lengths import kept
from rmjax.jobs.prompts import PromptFile
from rmjax.jobs.sources import ModelSource, Pairs, with_adapters
from rmjax.jobs.workdir import Workdir, begin
from rmjax.methods import proxy_oracle
from rmjax.methods.proxy_oracle import Bought, Evaluator, ProxyOracle
from rmjax.methods.responses import Policy, Responses, of_pairs, respond, with_logps
from rmjax.models import hf
from rmjax.models.config import Lora
from rmjax.oracles.budget import Budget
from rmjax.oracles.column import ColumnOracle, hide
from rmjax.oracles.oracle import Oracle
from rmjax.records import Pair, Preference, Vote, content_id
from rmjax.refine.select import Random
from rmjax.refine.uncertainty import ENSEMBLE
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer

console = Console()
named = tyro.conf.subcommand


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """Answers and labels are a file's; the labels are hidden until they are bought."""

    data: Pairs = Pairs()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """The seed policy answers prompts, and another model judges the answers."""

    data: PromptFile = PromptFile()
    judge: Judging = Judging()  # who sells the labels
    held: int = 100  # the file's last prompts, on which the policy is compared with the seed policy by the judge

    def __post_init__(self) -> None:
        require("source.", self, "held", least=1)


Source = Annotated[Column, named("column")] | Annotated[OnPolicy, named("judge")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxyJob:
    """Seed SFT -> responses -> labels bought -> evaluation model -> labels given -> DPO -> evaluation -> export.

    The same command continues an interrupted run. Who labels comes last:
    proxy --model.path DIR source:column --source.data.path pairs.jsonl
    proxy --model.path DIR source:judge --source.data.path prompts.jsonl --source.judge.model.path JUDGE
    """

    workdir: str = "runs/proxy"
    model: ModelSource = ModelSource()
    demonstrations: str = ""  # file of demonstrations for the seed SFT; empty: the model is the seed policy as it is
    sft: Train = Train(
        optimizer=Optimizer(learning_rate=1e-5, warmup=0.1, schedule="linear"), batch=4, epochs=3, save_every=100
    )
    selection: Literal[tuple(STRATEGIES)] = "random"  # which labels to buy
    method: ProxyOracle = ProxyOracle()
    lora: Lora = Lora()  # adapters that are trained in the policy's place; every stage's export has them merged
    source: Source = Column()
    devices: Devices = Devices()
    seed: int = 0

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        if self.method.selection != Random():
            raise UserError("method.selection: the job's own --selection decides; set that one")
        trainings = {
            "sft": self.sft,
            "method.train": self.method.train,
            "method.evaluator_train": self.method.evaluator_train,
        }
        for name, train in trainings.items():
            if train.seed:
                raise UserError(f"{name}.seed={train.seed}: the job's own --seed decides; set that one")
        ignored = {"start": self.selection == "random", "members": not isinstance(STRATEGIES[self.selection], ENSEMBLE)}
        for name in (n for n, unread in ignored.items() if unread):
            if getattr(self.method, name) != getattr(ProxyOracle(), name):
                raise UserError(f"--method.{name}: --selection {self.selection} does not read it; leave it out")
        if isinstance(self.source, Column):
            for name in ("responses", "sampling"):
                if getattr(self.method, name) != getattr(ProxyOracle(), name):
                    raise UserError(f"--method.{name}: the responses are those of the file; leave it out")
        self.chosen()  # the selection may refuse the method's settings

    def chosen(self) -> ProxyOracle:
        """The method with the selection."""
        return dataclasses.replace(self.method, selection=STRATEGIES[self.selection])

    def run(self, command: str = "") -> None:
        """Runs every stage that is not done, on all devices."""
        with self.devices.use(*self.trainings()):
            self.stages(command)

    def trainings(self) -> Sequence[Train]:
        """What is trained."""
        return [self.method.train, self.method.evaluator_train, *([self.sft] if self.demonstrations else [])]

    def stages(self, command: str) -> None:
        """Checks what can be checked before work is done, then runs the stages in order."""
        method, base = self.chosen(), self.model.directory()
        policy = self.policy(base)
        for how in self.trainings():
            how.check(self.tuned(policy).model)
        items, held, hashes = self.load(policy)
        method.check_pool(len(items))
        demonstrations = []
        if self.demonstrations:
            demonstrations = read_demonstrations(self.demonstrations)
            hashes[self.demonstrations] = content_id((), *(d.id for d in demonstrations))
        work, provenance = begin(self, hashes, command=command, params=policy.params)

        work.stage("sft", lambda f: self.sft_stage(policy, demonstrations, f))
        policy = self.policy(work / "sft" / "export")
        work.stage("respond", lambda f: self.respond_stage(policy, items, f))
        responses = jsonl.read(work / "respond" / "responses.jsonl", Responses)
        work.stage("buy", lambda f: self.buy_stage(policy, items, responses, method, f))
        bought = Bought(
            tuple(jsonl.read(work / "buy" / "pairs.jsonl", Pair)),
            tuple(jsonl.read(work / "buy" / "bought.jsonl", Vote)),
        )
        spent = {self.seller: len(bought.votes)}
        if isinstance(self.source, Column):
            held_path = self.source.data.eval_path or self.seller
            spent[held_path] = spent.get(held_path, 0) + len(held)
        provenance.bought(spent)
        work.stage("evaluator", lambda f: self.evaluator_stage(policy, responses, bought, held, method, f))
        work.stage("label", lambda f: self.label_stage(work, responses, bought, method, f))
        work.stage("dpo", lambda f: self.dpo_stage(policy, work, responses, bought, method, f))
        after = self.policy(work / "dpo" / "export")
        done = work.stage("evaluate", lambda f: self.evaluate_stage(policy, after, held, method, f))
        proxy_report.conclude(work, bought, done, seller=self.seller, seed=self.seed, provenance=provenance)

    @property
    def seller(self) -> str:
        """Who labels, by name."""
        return self.source.data.path if isinstance(self.source, Column) else self.source.judge.model.path

    def policy(self, path: Path) -> Policy:
        """The policy of the model or of an exported one."""
        return Policy(*self.model.of_stage(path, self.lora))

    def hand_on(self, folder: Path, policy: Policy) -> None:
        """Writes a stage's export, for others and for the next stage."""
        export(folder / "export", policy)
        self.model.keep_adapters(folder / "export", policy.model, policy.params)

    def tuned(self, policy: Policy) -> Policy:
        """What is trained: the policy, with its adapters, or with new ones where they are asked for."""
        model, params = with_adapters(policy.model, policy.params, self.lora, seed=self.seed)
        return dataclasses.replace(policy, model=model, params=params)

    def load(self, policy: Policy) -> tuple[Sequence[Any], Sequence[Any], dict[str, str]]:
        """(pairs or prompts to work on, held-out ones, hashes). UserError for a bad file or source."""
        most, chat = policy.model.config.max_positions, policy.chat
        if isinstance(self.source, Column):
            train, held, hashes = self.source.data.load()
            require_labels([*train, *held], path=self.source.data.path)
            if any(p.tie for p in train):
                console.print("ties of the file are sold as ties: they cost a label and teach no preference")
            for what, pairs in (("pairs", train), ("held-out pairs", held)):
                ids = chat.completion_ids
                needs = [(len(chat.prompt_ids(p.prompt)), max(len(ids(p.chosen)), len(ids(p.rejected)))) for p in pairs]
                kept(pairs, needs, most, policy="error", what=what, parts=("prompt", "answer"), mend="take it out")
            return train, held, hashes
        items, hash = self.source.data.read()
        if not self.source.judge.model.path:
            raise UserError("--source.judge.model.path is empty: give the model that sells labels")
        if len(items) <= self.source.held:
            raise UserError(f"--source.held {self.source.held}: the file has {len(items)} prompts; hold out fewer")
        needs = [(len(chat.prompt_ids(i.prompt)), self.method.sampling.max_new_tokens) for i in items]
        mend = "lower --method.sampling.max-new-tokens, or take it out"
        kept(items, needs, most, policy="error", what="prompts", parts=("prompt", "response"), mend=mend)
        return items[: -self.source.held], items[-self.source.held :], {self.source.data.path: hash}

    def oracle(self, items: Sequence[Any], folder: Path, name: str) -> Oracle:
        """Who sells labels; a judge keeps its judgments in the folder."""
        if isinstance(self.source, Column):
            return ColumnOracle(items, name=self.seller)
        return self.source.judge.oracle(folder / f"{name}.judgments.jsonl", seed=self.seed)

    def sft_stage(self, policy: Policy, demonstrations: Sequence[Any], folder: Path) -> Mapping[str, Any]:
        if demonstrations:
            train = dataclasses.replace(self.sft, seed=self.seed)
            policy = proxy_oracle.sft(self.tuned(policy), demonstrations, train, folder)
        else:
            console.print("no --demonstrations: SFT is skipped, the model itself is the seed policy and the reference")
        self.hand_on(folder, policy)
        return {"demonstrations": len(demonstrations)}

    def respond_stage(self, policy: Policy, items: Sequence[Any], folder: Path) -> Mapping[str, Any]:
        if isinstance(self.source, Column):
            pairs = [(p.id, p.prompt, (p.first, p.second)) for p in hide(items, seed=self.seed)]
            responses = with_logps(policy, pairs)
        else:
            prompts = {i.id: i.prompt for i in items}
            path = folder / "rollouts.jsonl"
            how = {"samples": self.method.responses, "seed": self.seed, "path": path}
            responses = respond(policy, prompts, self.method.sampling, **how)
        jsonl.write(folder / "responses.jsonl", responses)
        return {"prompts": len(responses), "different": sum(len(r.texts) for r in responses)}

    def buy_stage(
        self, policy: Policy, items: Sequence[Any], responses: Sequence[Responses], method: ProxyOracle, folder: Path
    ) -> Mapping[str, Any]:
        purse = Budget(self.oracle(items, folder, "bought"), method.budget, path=folder / "votes.jsonl", part=16)
        try:
            bought = proxy_oracle.buy(self.tuned(policy), responses, purse, method, seed=self.seed)
        finally:
            purse.close()
        proxy_oracle.bought_groups(responses, bought)  # refuses labels that teach nothing, before they are written
        jsonl.write(folder / "pairs.jsonl", bought.pairs)
        names = [f.name for f in dataclasses.fields(Vote)]  # a purse that was opened again hands out its own records
        jsonl.write(folder / "bought.jsonl", [Vote(**{n: getattr(v, n) for n in names}) for v in bought.votes])
        return {"bought": purse.spent}

    def evaluator_stage(
        self,
        policy: Policy,
        responses: Sequence[Responses],
        bought: Bought,
        held: Sequence[Any],
        method: ProxyOracle,
        folder: Path,
    ) -> Mapping[str, Any]:
        start = self.tuned(policy)
        evaluator = proxy_oracle.evaluation_model(start, responses, bought, method, seed=self.seed, folder=folder)
        export(folder / "export", dataclasses.replace(policy, model=evaluator.model, params=evaluator.params))
        scores = evaluator.scores(responses)
        jsonl.write(
            folder / "scores.jsonl", [{"id": r.id, "scores": s} for r, s in zip(responses, scores, strict=True)]
        )
        if isinstance(self.source, Column):
            proxy_report.write_held(folder, held, evaluator.scores(of_pairs(policy, held)))
        return {"responses": sum(map(len, scores))}

    def label_stage(
        self, work: Workdir, responses: Sequence[Responses], bought: Bought, method: ProxyOracle, folder: Path
    ) -> Mapping[str, Any]:
        scores = [row["scores"] for row in jsonl.read(work / "evaluator" / "scores.jsonl", dict)]
        given = proxy_oracle.label_rest(responses, scores, bought, method)
        order, by_id = bought.groups, {r.id: r for r in responses}
        of = lambda id, pair, source: Preference(
            prompt=by_id[id].prompt,
            chosen=by_id[id].texts[pair[0]],
            rejected=by_id[id].texts[pair[1]],
            id=id,
            source=source,
        )
        rows = [of(id, pair, "bought") for id, pair in order.items()]
        jsonl.write(folder / "labels.jsonl", rows + [of(id, pair, "proxy") for id, pair in given.pairs.items()])
        json_file.write(folder / "given.json", given.pairs)
        return {"given": len(given.groups), "close": given.close, "left": given.left}

    def dpo_stage(
        self,
        policy: Policy,
        work: Workdir,
        responses: Sequence[Responses],
        bought: Bought,
        method: ProxyOracle,
        folder: Path,
    ) -> Mapping[str, Any]:
        by_id = {r.id: r for r in responses}
        given = [by_id[id].group(*pair) for id, pair in json_file.read(work / "label" / "given.json").items()]
        groups = [*proxy_oracle.bought_groups(responses, bought), *given]
        # The first two, which were for sale, may all be shorter than a pair that was given.
        pool = [r.group(*r.longest) for r in responses if len(r.texts) > 1]
        start = self.tuned(policy)
        self.hand_on(folder, proxy_oracle.dpo(start, groups, method, seed=self.seed, folder=folder, pool=pool))
        return {"pairs": len(groups)}

    def evaluate_stage(
        self, before: Policy, after: Policy, held: Sequence[Any], method: ProxyOracle, folder: Path
    ) -> Mapping[str, Any]:
        """Held-out pairs: accuracy of the policy's implicit reward. Held-out prompts: the judge's view of both."""
        if isinstance(self.source, Column):
            policy = Evaluator(after.model, after.params, method.objective)
            proxy_report.write_held(folder, held, policy.scores(of_pairs(before, held)))
            return {"held_out_pairs": len(held)}
        prompts = {i.id: i.prompt for i in held}
        return proxy_report.duel(before, after, prompts, method.sampling, self.oracle((), folder, "held"), self.seed)


def export(path: Path, policy: Policy) -> None:
    """A Hugging Face directory."""
    chat = policy.chat
    hf.save(path, policy.model, policy.params, tokenizer=chat.tokenizer, eos=chat.eos, pad=chat.pad, files=chat.save)
