"""Self-training on frozen features: seed labels, labels that the model or labelling functions give, before and after.

The labels of the training pairs that a draw does not take are hidden from every rule, and used to say how many of the
given labels are right.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import accuracy
from rmjax.jobs.curve import outcomes
from rmjax.jobs.curve_report import BASELINE, conclude
from rmjax.jobs.devices import Devices
from rmjax.jobs.lengths import Policy
from rmjax.jobs.reward import load_model
from rmjax.jobs.self_train_report import SEED, TITLES, labelling_functions, labels_given, rows
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.study import Cells
from rmjax.jobs.workdir import Workdir, begin
from rmjax.methods.frozen import Bench, Fitted, Frozen
from rmjax.methods.self_training import Rule, Ser, Ssrm, Trained, Weak, seeded, train, voted
from rmjax.records import Pair, Preference
from rmjax.refine import weak_labels
from rmjax.training.features import cached
from rmjax.training.frozen.nonlinear import Schedule

RULES = tuple(name for name in TITLES if name != SEED)
READ_BY = {
    "ser": ("ser",),
    "ssrm": ("ssrm",),
    "rounds": ("ser", "ssrm"),
    **dict.fromkeys(("weak", "functions", "worse_words", "worse_patterns"), ("weak",)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTrain:
    """Labels for the rest of the pairs, by confident scores or by labelling functions: are they right, do they help?

    The Bradley-Terry head on the seed labels alone, tuned by cross-validation inside them, is what each rule is
    compared with on the same draws. A second row shows each rule's pairs with their true labels.
    """

    workdir: str = "runs/self_train"
    model: ModelSource = ModelSource()
    data: Pairs = Pairs()
    labels: tuple[int, ...] = (50, 200)  # of the training pairs, seed labels; those of the rest are hidden
    draws: int = 20  # label draws of each number
    rules: tuple[str, ...] = ("ser", "ssrm", "weak")
    rounds: int = 3  # of ser and ssrm: label the rest, train again
    ser: Ser = Ser()
    ssrm: Ssrm = Ssrm()
    weak: Weak = Weak()
    functions: tuple[str, ...] = weak_labels.PAPER  # of weak; each says which answer is better
    worse_words: tuple[str, ...] = ()  # one more function: the answer with more of these words is the worse one
    worse_patterns: tuple[str, ...] = ()  # the same with regular expressions
    frozen: Frozen = Frozen()
    overlong: Policy = "drop"  # training pairs longer than a decoder can read (held-out ones are an error always)
    features: str = "runs/features"  # where features are kept: they are computed once for a model and its data
    devices: Devices = Devices()
    seed: int = 0  # of label draws and folds

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "draws", least=2)
        require("", self, "rounds", least=1)
        for field, given, known in (
            ("rules", self.rules, RULES),
            ("functions", self.functions, weak_labels.FUNCTIONS),
        ):
            if wrong := [name for name in given if name not in known]:
                raise UserError(f"{field}: {wrong[0]!r} is none of {', '.join(known)}")
            if len(set(given)) < len(given):
                raise UserError(f"{field}={given}: give each once")
        if not self.rules:
            raise UserError(f"rules=(): give one or more of {', '.join(RULES)}")
        if not self.labels or min(self.labels) < 1 or len(set(self.labels)) < len(self.labels):
            raise UserError(f"labels={self.labels}: give numbers of pairs above 0, each once")
        if self.frozen.schedule != Schedule():
            raise UserError("frozen.schedule: self-training has no minibatches and does not read it; leave it out")
        for field, readers in READ_BY.items():
            changed = getattr(self, field) != SelfTrain.__dataclass_fields__[field].default
            if changed and not set(readers) & set(self.rules):
                names = " or ".join(readers)
                raise UserError(f"{field}: is read by the rule {names} alone, which is not among --rules; add it")
        if not self.labelling_functions():
            raise UserError("functions=(): the rule weak needs one or more, --worse-words or --worse-patterns")

    def labelling_functions(self) -> list[weak_labels.LabellingFunction]:
        """Those that were named, and the user's words and patterns."""
        found = [weak_labels.FUNCTIONS[name] for name in self.functions]
        if self.worse_words:
            found.append(weak_labels.keywords("worse words", self.worse_words))
        if self.worse_patterns:
            found.append(weak_labels.matches("worse patterns", self.worse_patterns))
        return found

    def run(self, command: str = "") -> None:
        """Computes what is not there yet, on all devices, and writes rows.jsonl, summary.json, report.html."""
        with self.devices.use():
            self.measure(command)

    def measure(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        pairs, test, hashes = self.data.load()
        start = load_model(self.model)
        pairs = start.fitting(pairs, most=0, policy=self.overlong, what="training pairs")
        test = start.fitting(test, most=0, policy="error", what="held-out pairs")
        if more := [n for n in self.labels if n >= len(pairs)]:
            raise UserError(f"labels={more[0]}: {len(pairs)} training pairs leave none without a label; give fewer")
        votes = self.votes(pairs) if "weak" in self.rules else None
        work, provenance = begin(
            self, hashes, command=command, params=start.params, labels=self.data.labels(pairs, test)
        )
        pool, held = (cached(self.features, start.model, start.params, start.chat, p) for p in (pairs, test))
        bench = Bench(pool, held, pairs, self.frozen, parts=len(start.model.pool), seed=self.seed)
        lines, found = self.lines(bench, votes, work)
        functions = self.facts(votes, found)
        conclude(
            work,
            rows(lines, seed=self.seed),
            title="Self-training",
            testbed=f"pairs of {self.data.path}",
            lead=f"Heads on frozen features of {self.model.path}: seed labels of {self.data.path}, and labels given "
            f"to the rest of its {len(pairs):,} pairs; {len(test):,} held out. {BASELINE} is the head on the seed "
            "labels alone.",
            baselines={name: accuracy(scores) for name, scores in trivial(test, pairs).items()},
            run=provenance.finish(contract=start.chat.contract()),
            facts={"labelling_functions": functions},
            listings=[labels_given(lines), *([labelling_functions(functions)] if functions else [])],
        )

    def votes(self, labelled: Sequence[Preference]) -> Int[np.ndarray, "N k"]:
        """Of the labelling functions: +1 for the chosen answer, -1 for the rejected one. They compare a measure of both
        texts, so that the chosen one comes first tells them nothing.
        """
        pairs = [Pair(prompt=p.prompt, first=p.chosen, second=p.rejected, id=p.id) for p in labelled]
        found = weak_labels.votes(pairs, self.labelling_functions())
        self.weak.model.check(found)
        return found

    def facts(
        self, votes: Int[np.ndarray, "N k"] | None, found: Mapping[int, Float[np.ndarray, "r k"]]
    ) -> dict[str, dict[str, Any]]:
        """Per labelling function its votes, its accuracy as it is, and as it was found at each number of labels."""
        if votes is None:
            return {}
        cast, right = np.abs(votes).sum(0), (votes > 0).sum(0)
        return {
            f.name: {
                "votes": int(cast[i]),
                "accuracy_true": float(right[i] / cast[i]) if cast[i] else None,
                "accuracy_found": {str(labels): float(a[:, i].mean()) for labels, a in found.items()},
            }
            for i, f in enumerate(self.labelling_functions())
        }

    def lines(
        self, bench: Bench, votes: Int[np.ndarray, "N k"] | None, work: Workdir
    ) -> tuple[list[dict[str, Any]], dict[int, Float[np.ndarray, "r k"]]]:
        """Every rule at every number of labels, and the accuracies of labelling functions that were found at each.
        What rows.jsonl holds of a killed run is not computed again.
        """
        cells, numbers, found = Cells(work / "rows.jsonl", ("rule", "labels")), range(self.draws), {}
        for labels in sorted(self.labels):
            rules: dict[str, Rule] = {"ser": self.ser, "ssrm": self.ssrm}
            if votes is not None:
                weak, found[labels] = voted(votes, seeded(bench, labels, numbers), self.weak)
                rules["weak"] = lambda rewards, weak=weak: weak
            base = functools.cache(functools.partial(bench.baseline, labels, numbers))
            for name in (SEED, *self.rules):
                rounds = 1 if name == "weak" else self.rounds
                run = functools.partial(self.cell, bench, labels, base, rules.get(name), rounds)
                cells.fill({"rule": name, "labels": labels}, run)
        order = (SEED, *self.rules)
        return sorted(cells.rows, key=lambda x: (order.index(x["rule"]), x["labels"])), found

    def cell(
        self, bench: Bench, labels: int, base: Callable[[], Fitted], rule: Rule | None, rounds: int
    ) -> dict[str, Any]:
        """A rule over all draws, or the seed labels alone where it is None; seconds are a draw's."""
        if rule is not None:
            base()  # no part of the rule's seconds
        begun = time.perf_counter()
        if rule is None:
            runs = results(base().differences)
        else:
            found = train(bench, labels, range(self.draws), base(), rule, rounds=rounds)
            runs = given(found, len(bench.groups) - labels)
        return {"runs": runs, "seconds": round((time.perf_counter() - begun) / self.draws, 4)}


def results(differences: Float[np.ndarray, "r e"]) -> list[dict[str, Any]]:
    """One JSON value a run."""
    return [
        {"accuracy": float(o.mean()), "ties": int((o == 0.5).sum()), "n": len(o)} for o in map(outcomes, differences)
    ]


def given(found: Trained, rest: int) -> list[dict[str, Any]]:
    """The same of a rule, with what it gave of `rest` hidden labels after each round, and the head on true labels."""
    columns = results(found.differences), results(found.true), found.given.T.tolist(), found.right.T.tolist()
    names = ("true", "given", "right")
    return [{**own, **dict(zip(names, x, strict=True)), "rest": rest} for own, *x in zip(*columns, strict=True)]
