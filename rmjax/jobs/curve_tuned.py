"""Accuracy against the number of labels: fully fine-tuned reward models, methods side by side over label draws.

The same question as `jobs/curve.py`, which trains heads on frozen features. Here every run is a training of its own,
so the number of runs is what counts: one process compiles each method's step once (rows of the whole pool's shape,
the learning rate an argument of the step), and each finished run is one line of a file.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import Accuracy, accuracy
from rmjax.evaluation.summary import Row
from rmjax.jobs.curve import counts_of, require_counts
from rmjax.jobs.curve_report import BASELINE, conclude
from rmjax.jobs.curve_tuned_report import rates_tried
from rmjax.jobs.devices import Devices
from rmjax.jobs.reward import PairLengths, RewardModel, load_model
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.study import Cells
from rmjax.jobs.tuned_bench import RANKING, Bench
from rmjax.jobs.workdir import begin
from rmjax.methods.fine_tuning import Grm, MetaRm, Plain, ProtoRm, SimCse, Swav
from rmjax.models.config import Lora
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer
from rmjax.training.step import check_microbatches

console = Console()
METHODS: Mapping[str, tuple[str, Plain]] = {
    "plain": (BASELINE, Plain()),
    "simcse": ("+ SimCSE", SimCse()),
    "swav": ("+ SwAV", Swav()),
    "metarm": ("MetaRM", MetaRm()),
    "proto-rm": ("Proto-RM", ProtoRm()),
    # The paper's 0.01 of -log sigmoid(0.1 log pi) is about 0.1 of a token's mean at answers of 100 tokens.
    "grm-sft": ("GRM-sft", Grm(sft=0.1)),
    "grm-dpo": ("GRM-dpo", Grm(dpo=0.01)),
}
FIRST_SEARCH_DRAW = 1000  # final draws count from 0, those of the search from here
UNREAD = ("seed", "save_every", "keep", "log_every", "peak_flops")  # of `Train`, by runs that leave one line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """How each method's learning rate is chosen: by accuracy on training pairs that a search draw did not take."""

    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)  # as many for every method
    draws: int = 1  # label draws of the search, none of them a final one
    labels: int = 100  # of a search draw
    pairs: int = 150  # scored, of the training pairs whose prompts the draw did not take

    def __post_init__(self) -> None:
        require("search.", self, "draws", "labels", "pairs", least=1)
        if not self.rates or len(set(self.rates)) < len(self.rates) or not all(0 < r < np.inf for r in self.rates):
            raise UserError(f"search.rates={self.rates}: give learning rates above 0, each once")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveTuned:
    """Fine-tuned reward models at several numbers of labels: accuracy with bands, paired tests, a plot.

    The ranking loss alone is always there: every method is compared with it on the same draws. Fewer labels of a draw
    are the first of its more. The defaults are cheap: pairs cut to 128 tokens, the embeddings and the lowest four
    layers not trained (of MiniLM's six), two epochs, a small search. The same command continues a killed run.
    """

    workdir: str = "runs/curve_tuned"
    model: ModelSource = ModelSource()  # without a reward head
    data: Pairs = Pairs()
    labels: tuple[int, ...] = (50, 200)  # numbers of labelled pairs; 0: all
    draws: int = 5  # label draws of each number; each has its own head, order of data and dropout
    # beside the baseline; swav too, and with a language model grm-sft and grm-dpo
    methods: tuple[str, ...] = ("simcse", "metarm", "proto-rm")
    train: Train = Train(optimizer=Optimizer(), batch=8, epochs=2, dropout=0.05, freeze=4, quiet=True)
    # adapters that are trained in the model's place, with its head; none in the lowest train.freeze layers
    lora: Lora = Lora()
    search: Search = Search()  # of the learning rate; train.optimizer.learning-rate is not read
    lengths: PairLengths = PairLengths(max_length=128)
    devices: Devices = Devices()
    seed: int = 0  # of label draws; a draw's training has this and the draw's number

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED - FIRST_SEARCH_DRAW - self.search.draws)
        require("", self, "draws", least=2, most=FIRST_SEARCH_DRAW)
        among = [name for name in METHODS if name != "plain"]
        if wrong := [name for name in self.methods if name not in among]:
            raise UserError(f"methods: {wrong[0]!r} is none of {', '.join(among)}; the baseline is always there")
        if len(set(self.methods)) < len(self.methods):
            raise UserError(f"methods={self.methods}: give each once")
        require_counts(self.labels)
        for name in UNREAD:
            if (value := getattr(self.train, name)) != Train.__dataclass_fields__[name].default:
                raise UserError(
                    f"train.{name}={value}: not read by these runs, which leave one line each; leave it out"
                )
        self.train.check_no_files()
        if (rate := self.train.optimizer.learning_rate) != Optimizer().learning_rate:
            raise UserError(f"train.optimizer.learning_rate={rate}: the search chooses among --search.rates; set those")
        for method in self.chosen().values():
            method.check(self.train)
            check_microbatches(method.objective(RANKING), self.train.microbatches)

    def chosen(self) -> dict[str, Plain]:
        """The methods by the titles that they are shown under, the baseline first."""
        return dict(METHODS[name] for name in ("plain", *self.methods))

    def run(self, command: str = "") -> None:
        """Computes what is not there yet, on all devices, and writes rows.jsonl, summary.json, report.html."""
        with self.devices.use(self.train):
            self.measure(command)

    def measure(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        train, test, hashes = self.data.load()
        length = self.lengths.max_length
        reward = load_model(self.model, length=length, flag="--lengths.max-length", lora=self.lora)
        if reward.model.head is not None:
            raise UserError(f"--model.path {self.model.path}: a reward model; start from the model it was made from")
        how, most = self.lengths, self.lengths.max_length
        flag, what = "--lengths.train", "training pairs"
        train = reward.limited(train, most=most, policy=how.train, usual="drop", flag=flag, what=what)
        flag, what = "--lengths.evaluation", "held-out pairs"
        test = reward.limited(test, most=most, policy=how.evaluation, usual="error", flag=flag, what=what)
        bench, counts = (
            Bench(reward, train, test, self.train, self.lora, seed=self.seed),
            counts_of(self.labels, len(train)),
        )
        bench.check(self.chosen().values())
        for number in range(self.search.draws):
            self.search_others(bench, number)
        work, provenance = begin(
            self, hashes, command=command, params=reward.params, labels=self.data.labels(train, test)
        )
        found = self.searched(bench, Cells(work / "search.jsonl", ("method", "rate", "draw")))
        best = {title: max(means, key=means.__getitem__) for title, means in found.items()}
        lines = self.final(bench, counts, best, Cells(work / "rows.jsonl", ("method", "labels", "draw")))
        rows = [
            row(x, rate=best[title], tried=len(self.search.rates), seed=self.seed, whole=labels == len(train))
            for title, labels in itertools.product(best, counts)
            for x in lines
            if (x["method"], x["labels"]) == (title, labels)
        ]
        where = f"draws of {self.data.path}: {len(train):,} labelled pairs, {len(test):,} held out"
        search = {title: {f"{rate:g}": mean for rate, mean in means.items()} for title, means in found.items()}
        listing = rates_tried(search, **dataclasses.asdict(self.search))
        conclude(
            work,
            rows,
            title="Accuracy of fine-tuned reward models against labels",
            testbed=f"pairs of {self.data.path}",
            lead=f"{self.model.path} fine-tuned on {where}; {self.settings(reward)}.",
            baselines={name: accuracy(scores) for name, scores in trivial(test, train).items()},
            run=provenance.finish(contract=reward.chat.contract()),
            facts={"search": {"how": listing.note, "accuracy": search}},
            listings=[listing],
        )

    def settings(self, reward: RewardModel) -> str:
        """What every training shares, in words."""
        train, length = self.train, reward.chat.contract().get("length")
        cut = f"pairs cut to {length} tokens, " if length else ""
        frozen = f"the lowest {train.freeze} layers and the embeddings not trained, " if train.freeze else ""
        frozen += f"adapters of rank {self.lora.rank} upon the model, " if self.lora.rank else ""
        return (
            f"{cut}{frozen}{train.steps or train.epochs} {'updates' if train.steps else 'epochs'} of {train.batch} "
            f"rows, dropout {train.dropout:g}"
        )

    def search_others(self, bench: Bench, number: int) -> list[int]:
        """The training pairs that search draw `number` is scored on."""
        return bench.others(self.search.labels, FIRST_SEARCH_DRAW + number, self.search.pairs)

    def searched(self, bench: Bench, cells: Cells) -> dict[str, dict[float, float]]:
        """Method -> learning rate -> mean accuracy over the search draws; rates from the lowest on."""
        rates = sorted(self.search.rates)
        for number, rate in itertools.product(range(self.search.draws), rates):
            draw = FIRST_SEARCH_DRAW + number
            scored = [bench.pool[i] for i in self.search_others(bench, number)]
            taken = bench.order(draw)[: self.search.labels]
            for title, method in self.chosen().items():
                name = {"method": title, "rate": rate, "draw": draw}
                run = functools.partial(bench.run, method, rate, taken, self.seed + draw, scored)
                tell(cells, name, run, f"search {rate:g}")
        mean = lambda t, r: float(np.mean([x["accuracy"] for x in cells.rows if (x["method"], x["rate"]) == (t, r)]))
        return {title: {rate: mean(title, rate) for rate in rates} for title in self.chosen()}

    def final(
        self, bench: Bench, counts: Sequence[int], best: Mapping[str, float], cells: Cells
    ) -> list[dict[str, Any]]:
        """A line for every method, number of labels and draw; draws outermost: what is cut short has fewer of all."""
        for number, labels in itertools.product(range(self.draws), counts):
            taken = bench.order(number)[:labels]
            for title, method in self.chosen().items():
                name = {"method": title, "labels": labels, "draw": number}
                run = functools.partial(bench.run, method, best[title], taken, self.seed + number, bench.held)
                tell(cells, name, run, f"{labels:,} labels")
        return cells.rows


def tell(cells: Cells, name: Mapping[str, Any], run: Callable[[], Mapping[str, Any]], where: str) -> None:
    """Fills a cell; a line in the terminal unless it was there."""
    before = len(cells.rows)
    cells.fill(name, run)
    if len(cells.rows) > before:
        x = cells.rows[-1]
        console.print(
            f"draw {x['draw']:>4}  {where:>12}  {x['method']:16} {100 * x['accuracy']:.1f} %  {x['seconds']:.1f} s"
        )


def row(x: Mapping[str, Any], *, rate: float, tried: int, seed: int, whole: bool) -> Row:
    """A line of rows.jsonl as a row of the summary; where all labels are taken, a run is a seed and not a draw."""
    result = Accuracy(accuracy=x["accuracy"], ci95=tuple(x["ci95"]), n=x["n"], ties=x["ties"])
    place = {"draw": 0, "seed": seed + x["draw"]} if whole else {"draw": x["draw"], "seed": seed}
    more = {"learning_rate": rate, "settings_tried": tried}
    return Row.of(result, method=x["method"], labels=x["labels"], seconds=x["seconds"], **place, **more)
