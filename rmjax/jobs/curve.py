"""Accuracy against the number of labels: methods side by side on frozen features, over many label draws."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from rmjax import jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import Accuracy, accuracy
from rmjax.evaluation.summary import Row
from rmjax.jobs.curve_report import BASELINE, conclude
from rmjax.jobs.devices import Devices
from rmjax.jobs.lengths import Policy
from rmjax.jobs.reward import load_model
from rmjax.jobs.sources import ModelSource, Pairs
from rmjax.jobs.workdir import Workdir, begin
from rmjax.methods.frozen import Bench, Fitted, Frozen
from rmjax.methods.proto_rm import ProtoRm
from rmjax.methods.secrets import MetaRm, Projection, SimCse, Swav
from rmjax.records import Preference
from rmjax.training.features import cached
from rmjax.training.frozen.nonlinear import Auxiliary, Schedule
from rmjax.training.frozen.treatments import Flip, Margin, Smooth, Treatment

console = Console()
METHODS = {
    "flip": ("+ flip by strength", Flip()),
    "smooth": ("+ smoothing by strength", Smooth()),
    "margin": ("+ margin by strength", Margin()),
    "projection": ("projection (control)", Projection()),
    "simcse": ("+ SimCSE", SimCse()),
    "simcse-difference": ("+ SimCSE, differences", SimCse(form="difference")),
    "swav": ("+ SwAV", Swav()),
    "swav-difference": ("+ SwAV, differences", Swav(form="difference")),
    "metarm": ("MetaRM", MetaRm()),
    "proto-rm": ("Proto-RM", ProtoRm()),
}
TRAINED_TRUNK = {
    "grm-sft": "its regulariser is the trunk's language-model loss, which frozen features cannot change; fine-tune a "
    "language model with it instead (python -m rmjax.launch train, with --objective.sft)",
    "grm-dpo": "its regulariser is the trunk's DPO loss, which frozen features cannot change; fine-tune a language "
    "model with it instead (python -m rmjax.launch train, with --objective.dpo)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Heads on features of a frozen model at several numbers of labels: accuracy with bands, paired tests, a plot.

    Bradley-Terry, tuned by cross-validation inside each draw's labels, is always there: every method is compared with
    it on the same draws. Fewer labels of a draw are the first of its more. Where all labels are taken there is one
    draw, and the runs are seeds.
    """

    workdir: str = "runs/curve"
    model: ModelSource = ModelSource()
    data: Pairs = Pairs()
    labels: tuple[int, ...] = (50, 100, 200, 500, 0)  # numbers of labelled pairs; 0: all
    draws: int = 20  # label draws of each number
    methods: tuple[str, ...] = (
        "flip",
        "smooth",
        "margin",
        "simcse",
        "swav",
        "metarm",
        "proto-rm",
    )  # beside the baseline
    frozen: Frozen = Frozen()
    # training pairs longer than a decoder can read (held-out ones are an error always); an encoder's contract cuts
    # both, and says so
    overlong: Policy = "drop"
    features: str = "runs/features"  # where features are kept: they are computed once for a model and its data
    devices: Devices = Devices()
    seed: int = 0  # of label draws, folds and heads

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "draws", least=2)
        known_methods(self.methods)
        require_read(self.frozen.schedule, self.methods)
        require_counts(self.labels)

    def run(self, command: str = "") -> None:
        """Computes what is not there yet, on all devices, and writes rows.jsonl, summary.json, report.html."""
        with self.devices.use():
            self.measure(command)

    def measure(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        train, test, hashes = self.data.load()
        require_bare(train, self.methods, path=self.data.path)
        start = load_model(self.model)
        train = start.fitting(train, most=0, policy=self.overlong, what="training pairs")
        test = start.fitting(test, most=0, policy="error", what="held-out pairs")
        counts = counts_of(self.labels, len(train))
        work, provenance = begin(
            self, hashes, command=command, params=start.params, labels=self.data.labels(train, test)
        )
        made = time.perf_counter()
        pool, held = (cached(self.features, start.model, start.params, start.chat, p) for p in (train, test))
        made, begun = time.perf_counter() - made, time.perf_counter()
        bench = Bench(pool, held, train, self.frozen, parts=len(start.model.pool), seed=self.seed)
        rows = self.rows(bench, counts, work)
        seconds = {"features": round(made, 3), "heads": round(time.perf_counter() - begun, 3)}
        tried = {title: self.frozen.settings(m) for title, m in self.titled()}
        remarks = [budget(tried), f"features {seconds['features']:.0f} s, heads {seconds['heads']:.0f} s"]
        if len(train) in counts:
            covered = "intervals cover seeds on one set of labels and held-out pairs only."
            remarks = [f"At {len(train):,} labels {covered}", *remarks]
        conclude(
            work,
            rows,
            title="Accuracy against labels",
            testbed=f"pairs of {self.data.path}",
            lead=f"Heads on frozen features of {self.model.path}, trained on draws of {self.data.path}: {len(train):,} "
            f"labelled pairs, {len(test):,} held out. {budget(tried)}",
            baselines={name: accuracy(scores) for name, scores in trivial(test, train).items()},
            run=provenance.finish(contract=start.chat.contract(), seconds_of=seconds),
            facts={"settings_tried": tried, "seconds_of": seconds},
            remarks=remarks,
        )

    def rows(self, bench: Bench, counts: Sequence[int], work: Workdir) -> list[Row]:
        """Every method at every number of labels; what rows.jsonl holds of a killed run is not computed again."""
        file = jsonl.Appender(work / "rows.jsonl", dict, sync_every=1)
        done = {(x["method"], x["labels"]): x["runs"] for x in file.existing}
        out = []
        with file:
            for labels in counts:
                numbers = range(self.draws)
                whole = labels == len(bench.groups)
                base: Fitted | None = None
                for title, method in self.titled():
                    if (title, labels) not in done:
                        if base is None and method is not None:  # a resumed run's: no part of the method's seconds
                            base = bench.baseline(labels, numbers)
                        begun = time.perf_counter()
                        if method is None:
                            fitted = base = bench.baseline(labels, numbers)
                        else:
                            fitted = learn(bench, labels, numbers, method, base)
                        seconds = (time.perf_counter() - begun) / len(numbers)
                        done[title, labels] = lines(fitted, seconds)
                        file.append({"method": title, "labels": labels, "runs": done[title, labels]})
                        mean = np.mean([r["accuracy"] for r in done[title, labels]])
                        console.print(
                            f"{labels:>6,} labels  {title:24} {100 * mean:.1f} %  {seconds * len(numbers):.1f} s"
                        )
                    tried = self.frozen.settings(method)
                    out += [row(title, labels, x, self.seed, whole, tried) for x in done[title, labels]]
        return out

    def titled(self) -> list[tuple[str, Any]]:
        """The methods by the names that they are shown under, the baseline (None) first."""
        return [(BASELINE, None), *(METHODS[m] for m in self.methods)]


def known_methods(names: Sequence[str], *, field: str = "methods", among: Collection[str] = METHODS) -> None:
    """Raises UserError for a method that is none, has no meaning on a frozen model, or is there twice."""
    for name in names:
        if name in TRAINED_TRUNK:
            raise UserError(f"{field}: {name!r} has no meaning on a frozen model: {TRAINED_TRUNK[name]}")
        if name not in among:
            raise UserError(f"{field}: {name!r} is none of {', '.join(among)}")
    if len(set(names)) < len(names):
        raise UserError(f"{field}={tuple(names)}: give each once")


def require_read(schedule: Schedule, methods: Sequence[str]) -> None:
    """Raises UserError for a field of the schedule that is set and that none of the methods reads."""
    usual, trained = Schedule(), [m for _, m in map(METHODS.get, methods) if isinstance(m, Auxiliary)]
    hidden = any(m.head(usual.hidden) != m.head(usual.hidden + 1) for m in trained)
    for f in dataclasses.fields(Schedule):
        read = hidden if f.name == "hidden" else bool(trained)
        if not read and (value := getattr(schedule, f.name)) != getattr(usual, f.name):
            names = ", ".join(["bradley-terry", *methods])
            raise UserError(
                f"frozen.schedule.{f.name.replace('_', '-')}={value}: none of {names} reads it; leave it out"
            )


def require_bare(items: Sequence[Preference], methods: Sequence[str], *, path: str) -> None:
    """Raises UserError where a treatment by strength would replace what a pair says of its own strength."""
    treated = [name for name in methods if isinstance(METHODS[name][1], Treatment)]
    first = next((p for p in items if p.margin or p.smooth), None)
    if not treated or first is None:
        return
    column = "margin" if first.margin else "prob_chosen" if first.prob_chosen is not None else "votes"
    what, mend = f"has {column}", f"--data.ignore {column}"
    if first.tie:
        what, mend = "is a tie, kept as a soft label of 1/2", "--data.tie drop"
    raise UserError(
        f"{path}: record {first.id!r} {what}, which the methods {', '.join(treated)} would replace: leave such columns "
        f"or ties out ({mend}), or these methods"
    )


def require_counts(labels: Sequence[int]) -> None:
    """Raises UserError for no number of labels, one below 0, and one that is there twice."""
    if not labels or min(labels) < 0 or len(set(labels)) < len(labels):
        raise UserError(f"labels={labels}: give numbers of pairs, each once; 0 means all")


def counts_of(labels: Sequence[int], pairs: int) -> list[int]:
    """Numbers of labels with 0 as all. Raises UserError for more than there are."""
    if more := [n for n in labels if n > pairs]:
        raise UserError(f"labels={more[0]}: --data.path has {pairs} training pairs; give at most that, or 0 for all")
    return sorted({n or pairs for n in labels})


def budget(tried: Mapping[str, int]) -> str:
    """How many settings each method chose among, in words."""
    counts = ", ".join(f"{title} {n}" for title, n in tried.items())
    inherited = f" The others inherit the form of the features and the penalty that {BASELINE} chose."
    return f"Settings tried in each run, on its own labels: {counts}." + inherited * (len(tried) > 1)


def learn(bench: Bench, labels: int, numbers: Sequence[int], method: Any, base: Fitted) -> Fitted:
    """A method over label draws, given the baseline's fit to them."""
    fit: Callable = bench.treated if isinstance(method, Treatment) else bench.auxiliary
    return fit(labels, numbers, method, base)


def lines(fitted: Fitted, seconds: float) -> list[dict[str, Any]]:
    """One JSON value a run: accuracy, ties, the chosen setting, and each item's outcome as 1, 0 or t (tie)."""
    return [
        {
            "run": i,
            "accuracy": float(o.mean()),
            "ties": int((o == 0.5).sum()),
            "n": len(o),
            "setting": fitted.words[i],
            "held_loss": float(fitted.held_loss[i]),
            "seconds": round(seconds, 4),
            "items": "".join({0.0: "0", 0.5: "t", 1.0: "1"}[v] for v in o.tolist()),
        }
        for i, o in enumerate(outcomes(fitted.differences))
    ]


def outcomes(differences: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """1 where the chosen answer's score is higher, 0 where it is lower, ties one half.

    Raises:
        UserError: a score is not finite.
    """
    if not np.isfinite(differences).all():
        raise UserError("heads: a score is not a finite number; lower --frozen.schedule.learning-rate")
    return np.where(differences == 0, 0.5, differences > 0)


def rates(differences: Float[np.ndarray, " e"], parts: int) -> list[float]:
    """The accuracy of each of `parts` tests of one size. UserError as in `outcomes`."""
    return outcomes(differences).reshape(parts, -1).mean(1).tolist()


def row(method: str, labels: int, x: dict[str, Any], seed: int, whole: bool, tried: int) -> Row:
    """A line of rows.jsonl as a row of the summary; where all labels are taken, a run is a seed and not a draw."""
    result = Accuracy.of(x["accuracy"], x["n"], x["ties"])
    place = {"draw": 0, "seed": seed + x["run"]} if whole else {"draw": x["run"], "seed": seed}
    more = {"setting": x["setting"], "settings_tried": tried, "held_loss": x["held_loss"]}
    return Row.of(result, method=method, labels=labels, seconds=x["seconds"], **place, **more)
