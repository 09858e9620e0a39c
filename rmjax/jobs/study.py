"""A study in the judge world: entries side by side over SFT seeds and label draws, every row with the same search.

Search draws and final draws are different label draws; search looks at dev items, the table at test items.
Each finished run is one line of rows.jsonl, so a killed study continues where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from rmjax import jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import ItemScore, accuracy, compare, compare_runs
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.summary import Row, accuracies, write_scores, write_summary
from rmjax.evaluation.tables import accuracy_table, comparison_table
from rmjax.jobs import study_report
from rmjax.jobs.devices import Devices
from rmjax.jobs.entries import Bench, Entry, Outcome
from rmjax.jobs.export import export_judge, load_judge
from rmjax.jobs.sources import ModelSource
from rmjax.jobs.workdir import Workdir, begin
from rmjax.judging.judge import Judge
from rmjax.methods import gfriend
from rmjax.records import Preference
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train
from rmjax.worlds.judge_world import JudgeWorld

console = Console()
FIRST_FINAL_DRAW = 100  # search draws count from 0, final draws from here


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Entries compared over SFT seeds and label draws in a controlled world."""

    workdir: str
    world: JudgeWorld = JudgeWorld()
    demonstrations: int = 12_000  # transcripts of the faulty demonstrators
    sft: Train
    max_new_tokens: int = 80
    seeds: tuple[int, ...] = (0, 1, 2)  # of SFT
    draws: int = 10  # final label draws per SFT seed
    search_draws: int = 6  # label draws of the search, spread over the SFT seeds
    dev: int = 512  # items that the search looks at
    test: int = 1024  # items of the table
    entries: tyro.conf.Fixed[tuple[Entry, ...]]
    devices: Devices = Devices()
    baseline: str = ""  # name of the row that others are compared with, at their number of labels; empty: the first
    keep: bool = False  # keep every final run's metrics, judgments and judge (needed for the report's details)

    def __post_init__(self) -> None:
        keys = [e.key for e in self.entries]
        if not keys or len(set(keys)) < len(keys):
            raise UserError(
                f"entries: {len(keys)} rows, {len(set(keys))} different: give them different names or labels"
            )
        if self.sft.seed:
            raise UserError(f"sft.seed={self.sft.seed}: the study's own --seeds decide; set those")
        searched = {e.key for e in self.entries if e.grid}
        if self.baseline not in {*keys, *(e.name for e in self.entries), ""}:
            raise UserError(f"study: baseline={self.baseline!r} is no row of it; rows: {'; '.join(keys)}")
        for e in self.entries:
            if e.labels:
                e.method.train.check_no_files(f"study: {e.key!r}: train")
            if e.like and e.like not in searched:
                raise UserError(f"study: {e.key!r} is like {e.like!r}, which is no searched row: {'; '.join(searched)}")
        require("", self, "demonstrations", "max_new_tokens", "draws", "dev", "test", least=1)
        require("", self, "search_draws", least=0, most=FIRST_FINAL_DRAW)  # more would be final draws
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or not all(0 <= s <= LAST_SEED for s in self.seeds):
            raise UserError(f"seeds={self.seeds}: give at least one, all different, from 0 to {LAST_SEED}")

    def run(self, command: str = "") -> None:
        """Trains the SFT judges, searches, runs every cell that is missing, writes the table; on all devices."""
        with self.devices.use(self.sft, *(e.method.train for e in self.entries if e.labels)):
            self.measure(command)

    def measure(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        work, provenance = begin(self, {}, command=command, seed=self.seeds[0])
        benches = {seed: Bench(self.judge(work, seed), seed=seed) for seed in self.seeds}
        chosen = self.search(work, benches)
        test = self.world.preferences(self.test, split="test")
        cells = Cells(work / "rows.jsonl", ("entry", "seed", "draw"))
        # Draws outermost: a study cut short has fewer draws of everything, not fewer seeds or entries.
        for number, seed, entry in itertools.product(range(self.draws), self.seeds, self.entries):
            if number < (entry.draws or self.draws):
                draw = FIRST_FINAL_DRAW + number
                folder = work / "runs" / folder_of(entry, seed, draw) if self.keep else None
                run = functools.partial(self.cell, benches[seed], entry.at(chosen[entry.key]), test, draw, folder)
                cells.fill({"entry": entry.key, "seed": seed, "draw": draw}, run)
        self.conclude(work, cells.rows, chosen, test, provenance)

    def conclude(
        self,
        work: Workdir,
        lines: Sequence[dict],
        chosen: dict[str, Any],
        test: Sequence[Preference],
        provenance: Provenance,
    ) -> None:
        """Writes summary.json, run.json and report.html; prints accuracies and paired differences to the baseline."""
        names = ("accuracy", "n", "ties", "unparsed", "seconds", "seed", "draw", "labels")
        rows = [
            Row(
                method=e.name,
                ci95=tuple(x["ci95"]),
                extra={k: x[k] for k in ("pairs", "usable")},
                **{k: x[k] for k in names},
            )
            for e in self.entries
            for x in lines
            if x["entry"] == e.key
        ]
        of = {e.key: accuracies([r for r in rows if (r.method, r.labels) == (e.name, e.labels)]) for e in self.entries}
        found = []
        for e in self.entries:
            base = self.base_of(e)
            runs = of[e.key].keys() & of[base].keys()
            if e.key != base and len(runs) > 1:
                pick = lambda values, runs=runs: {r: values[r] for r in runs}
                found.append(compare_runs(pick(of[e.key]), pick(of[base]), names=(e.key, base)))
            elif e.key != base and runs:
                pair = [next(x for x in lines if x["entry"] == k) for k in (e.key, base)]
                found.append(compare(*map(item_outcomes, pair), names=(e.key, base)))
        facts = {"testbed": "controlled world", "search": chosen}
        write_summary(work / "summary.json", rows, comparisons=[dataclasses.asdict(c) for c in found], **facts)
        train = self.world.draw(labels=max(e.labels for e in self.entries), draw=FIRST_FINAL_DRAW)
        folders = {e.key: folder_of(e, self.seeds[0], FIRST_FINAL_DRAW) for e in self.entries} if self.keep else {}
        run = provenance.finish()
        study_report.write(
            work, entries=self.entries, test=test, train=train, rows=rows, comparisons=found, run=run, folders=folders
        )
        baselines = {name: accuracy(scores) for name, scores in trivial(test, train).items()}
        console.print(accuracy_table(rows, baselines, title=f"Controlled world, {self.test:,} test items"))
        if found:
            console.print(comparison_table(found, title="Paired differences"))
        console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")

    def base_of(self, entry: Entry) -> str:
        """The key of the row that `entry` is compared with: the baseline, at as many labels if it is there."""
        same = f"{self.baseline}, {entry.labels} labels"
        keys = [e.key for e in self.entries]
        first = next((e.key for e in self.entries if self.baseline in (e.key, e.name)), keys[0])
        return same if same in keys else first

    def judge(self, work: Workdir, seed: int) -> Judge:
        """The SFT judge of one seed, trained once."""
        name = f"sft-{seed}"
        sampling = Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens)
        load = lambda path: load_judge(path, ModelSource(), self.world.prompt(), sampling, seed=0)

        def train(folder: Path) -> None:
            base = self.world.write_base(folder / "base", seed=seed)
            judge = load(base)
            train = dataclasses.replace(self.sft, seed=seed)
            judge = gfriend.sft(judge, self.world.demonstrations(self.demonstrations, seed=seed), train, folder=folder)
            export_judge(folder / "export", judge)

        work.stage(name, train)
        return load(work / name / "export")

    def cell(
        self, bench: Bench, entry: Entry, test: Sequence[Preference], draw: int, folder: Path | None = None
    ) -> dict[str, Any]:
        """One run as a line of rows.jsonl."""
        items = self.world.draw(labels=entry.labels, draw=draw)
        outcome = bench.run(entry, items, test, draw=draw, folder=folder)
        if folder:
            write_scores(folder / "scores.jsonl", outcome.scores)
        return {"labels": entry.labels, **line(outcome)}

    def search(self, work: Workdir, benches: Mapping[int, Bench]) -> dict[str, tuple[float, int] | None]:
        """The grid point with the best mean dev accuracy over the search draws, for every entry."""
        cells = Cells(work / "search.jsonl", ("entry", "rate", "steps", "seed", "draw"))
        dev = self.world.preferences(self.dev, split="dev")
        grid = any(e.grid for e in self.entries)
        for draw in range(self.search_draws if grid else 0):
            seed = self.seeds[draw % len(self.seeds)]
            for entry in self.entries:
                for point in entry.grid:
                    run = functools.partial(self.cell, benches[seed], entry.at(point), dev, draw)
                    name = {"entry": entry.key, "rate": point[0], "steps": point[1], "seed": seed, "draw": draw}
                    cells.fill(name, run)
        found = {e.key: best_point(e, cells.rows) for e in self.entries}
        return {e.key: found[e.like or e.key] for e in self.entries}


def best_point(entry: Entry, rows: Sequence[dict]) -> tuple[float, int] | None:
    """The searched point of highest mean accuracy; None where there is no grid."""
    mean = lambda p: np.mean(
        [r["accuracy"] for r in rows if (r["entry"], r["rate"], r["steps"]) == (entry.key, *p)] or [-1.0]
    )
    return max(entry.grid, key=mean) if entry.grid and any(r["entry"] == entry.key for r in rows) else None


def line(outcome: Outcome) -> dict:
    """An outcome for a JSON line: its accuracy, and per item one character: 1, 0, t for a tie, u for unparsed."""
    result = accuracy(outcome.scores)
    return {
        **dataclasses.asdict(result),
        "pairs": outcome.pairs,
        "usable": outcome.usable,
        "seconds": round(outcome.seconds, 3),
        "items": "".join("u" if s.unparsed else "t" if s.tie else str(int(s.outcome)) for s in outcome.scores),
    }


def item_outcomes(line: Mapping[str, Any]) -> list[ItemScore]:
    """Per-item outcomes of a line of rows.jsonl."""
    value = {"0": 0.0, "1": 1.0, "t": 0.5, "u": 0.5}
    return [ItemScore(id=str(i), outcome=value[c], unparsed=c == "u") for i, c in enumerate(line["items"])]


def folder_of(entry: Entry, seed: int, draw: int) -> str:
    """The name of a run's folder."""
    return f"{re.sub(r'[^a-z0-9]+', '-', entry.name.lower()).strip('-')}-{entry.labels}-{seed}-{draw}"


class Cells:
    """A grid of runs as JSON lines; a cell that is there is not run again."""

    def __init__(self, path: Path, key: tuple[str, ...]):
        self._file = jsonl.Appender(path, dict, sync_every=1)
        self._key = key
        self.rows: list[dict[str, Any]] = self._file.existing

    def fill(self, name: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> None:
        """Runs and appends the cell called `name` unless it is there."""
        if any(all(r[k] == name[k] for k in self._key) for r in self.rows):
            return
        row = {**name, **run()}
        self._file.append(row)
        self.rows.append(row)
