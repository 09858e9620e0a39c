"""How many labels are worth buying: learning curves so far, their continuation with an interval, and what was spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.config import to_json
from rmjax.data.files import content_hash
from rmjax.errors import UserError
from rmjax.evaluation import ledger
from rmjax.evaluation.learning_curve import LEAST, Draw, points
from rmjax.evaluation.ledger import Prices
from rmjax.evaluation.planner import Plan, Rule
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs import plan_report
from rmjax.jobs.plan_report import Check, Curve
from rmjax.jobs.workdir import Workdir

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanJob:
    """Fits the learning curves of runs of `curve` and says what more labels would bring, or that it cannot be told.

    With --ledgers alone it sums up what runs spent.
    """

    workdir: str = "runs/plan"
    rows: tuple[str, ...] = ()  # summary.json or rows.jsonl of curve runs, or lines of labels, accuracy, draw, method
    methods: tuple[str, ...] = ("Bradley-Terry",)  # whose curves; empty: all in the files
    wish: float = 0.0  # accuracy that is wished for, as a share (0.7); 0: none
    fit_up_to: int = 0  # fit only numbers of labels up to this one, and compare the rest with what is predicted; 0: all
    rule: Rule = Rule()
    prices: str = ""  # price list, .json or .toml: currency, label, million_sampled, million_trained, hour
    budget: float = 0.0  # money that is left for labels; 0: not said
    ledgers: tuple[str, ...] = ()  # workdirs (or run.json files) of runs whose spending is summed
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "wish", least=0, below=1)
        require("", self, "budget", "fit_up_to", least=0)
        if not self.rows and (self.wish or self.budget or self.fit_up_to):
            raise UserError("--wish, --budget and --fit-up-to need the curve that --rows gives")
        if self.budget and not self.prices:
            raise UserError(f"--budget {self.budget:g}: how many labels that buys is said by --prices")
        if twice := {p for p in self.ledgers if self.ledgers.count(p) > 1}:
            raise UserError(f"--ledgers {min(twice)}: is there twice; give each run once")

    def run(self, command: str = "") -> None:
        """Fits, prints the findings, and writes summary.json and report.html."""
        if not self.rows and not self.ledgers:
            raise UserError("--rows is empty: give summary.json of a curve run, or --ledgers with workdirs to sum up")
        prices = Prices.read(self.prices) if self.prices else None
        if self.budget and not prices.label:
            raise UserError(f"{self.prices}: has no price of a label above 0, which --budget needs")
        if prices and prices.label is None and not self.ledgers:
            raise UserError(f"{self.prices}: has no price of a label, and no other price enters a curve; add one")
        entries = [ledger.read(path) for path in self.ledgers]
        found = [Curve(name=n, of=of, plan=p, checks=c) for of in self.rows for n, p, c in self.plans(of)]
        hashes = {path: content_hash(path) for path in (*self.rows, *([self.prices] if self.prices else []))}
        work = Workdir(self.workdir, {"job": "plan"}, {})  # nothing is kept from run to run: other settings are welcome
        provenance = Provenance(
            work / "run.json", command=command, config=to_json(self), data=hashes, seed=self.seed, labels={}
        )
        facts: dict[str, Any] = {"curves": [c.facts(self.wish, prices, self.budget) for c in found]}
        if entries:
            facts["spent"] = {
                "runs": {e.workdir: e.spent.to_json(prices) for e in entries},
                "all": ledger.total(entries).to_json(prices),
            }
        json_file.write(work / "summary.json", facts)
        run = provenance.finish()
        plan_report.write(work / "report.html", found, entries, self.wish, prices, self.budget, run=run)
        plan_report.show(console, found, entries, self.wish, prices, self.budget)
        console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")

    def plans(self, path: str) -> list[tuple[str, Plan, list[Check]]]:
        """Every method's plan of one file, and how well it predicts what was left out of the fit."""
        rows = read(path)
        if missing := [m for m in self.methods if m not in rows]:
            has = ", ".join(repr(m) for m in rows if m)
            mend = f"it has {has}" if has else "its rows name no method: give --methods with nothing after it"
            raise UserError(f"{path}: --methods {missing[0]!r} is not there; {mend}")
        return [(m, *self.plan(path, m, rows[m])) for m in self.methods or rows]

    def plan(self, path: str, method: str, rows: Mapping[int, Mapping[Draw, float]]) -> tuple[Plan, list[Check]]:
        """One method's."""
        fitted = {n: runs for n, runs in rows.items() if not self.fit_up_to or n <= self.fit_up_to}
        if len(fitted) < LEAST and len(rows) > len(fitted):
            raise UserError(
                f"--fit-up-to {self.fit_up_to}: leaves {len(fitted)} numbers of labels; give at least {LEAST}"
            )
        try:
            every, part = points(rows), points(fitted)
        except UserError as error:
            raise UserError(f"{path}: {method}: {error}") from None
        plan = Plan(part, self.rule, seed=self.seed)
        rest = [i for i, n in enumerate(every.labels) if n > part.labels[-1]]
        checks = [
            Check(
                labels=int(every.labels[i]),
                predicted=plan.predicted(int(every.labels[i]), float(every.halves[i])),
                law=plan.at(int(every.labels[i])),
                measured=float(every.means[i]),
            )
            for i in rest
        ]
        return plan, checks


def read(path: str) -> dict[str, dict[int, dict[Draw, float]]]:
    """Method -> labels -> run -> accuracy, of a file in one of three forms.

    summary.json of a run (`rows`), rows.jsonl of a curve run (a method and a number of labels a line, with `runs`), or
    any JSON lines with `labels` and `accuracy`, and perhaps `draw`, `seed` and `method`.

    Raises:
        UserError: none of these, an impossible number, or a run that is there twice.
    """
    if Path(path).suffix == ".json":
        value = json_file.read(Path(path))
        if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
            raise UserError(f"{path}: has no `rows`; give summary.json of a curve run")
        lines = [(f"{path}: rows[{i}]", row) for i, row in enumerate(value["rows"])]
    else:
        lines = [(f"{path}:{i}", row) for i, row in jsonl.lines(path)]
    out: dict[str, dict[int, dict[Draw, float]]] = {}
    for where, row in lines:
        if not isinstance(row, dict):
            raise UserError(f"{where}: {type(row).__name__} found; an object with labels and accuracy is expected")
        for run in row["runs"] if isinstance(row.get("runs"), list) else [row]:
            if not isinstance(run, dict):
                raise UserError(f"{where}: field 'runs' holds {run!r}; objects with run and accuracy are expected")
            _add(out, where, {**row, "draw": run.get("run", 0), **run})
    if not out:
        raise UserError(f"{path}: holds no row; give summary.json or rows.jsonl of a curve run")
    return out


def _add(out: dict[str, dict[int, dict[Draw, float]]], where: str, row: Mapping[str, Any]) -> None:
    labels, accuracy = row.get("labels"), row.get("accuracy")
    if type(labels) is not int or labels < 0:
        raise UserError(f"{where}: field 'labels' is {labels!r}; a number of labels is expected")
    if type(accuracy) not in (int, float) or not 0 <= accuracy <= 1:
        raise UserError(f"{where}: field 'accuracy' is {accuracy!r}; a share from 0 to 1 is expected")
    run = (row.get("draw", 0), row.get("seed", 0))
    if any(type(x) is not int for x in run):
        raise UserError(f"{where}: draw {run[0]!r}, seed {run[1]!r}; give integers, or leave these fields out")
    if labels == 0:  # a model as it is: no point of a curve in the number of labels
        return
    runs = out.setdefault(str(row.get("method", "")), {}).setdefault(labels, {})
    if run in runs:
        raise UserError(f"{where}: draw {run[0]}, seed {run[1]} with {labels} labels is there twice; give each its own")
    runs[run] = float(accuracy)
