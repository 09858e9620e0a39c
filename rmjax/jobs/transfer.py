"""Train on one source, test on all others: heads on features of a frozen model, Bradley-Terry and MetaRM."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.console import Console

from rmjax.bounds import LAST_SEED, require
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.evaluation import curves, matrix, report
from rmjax.evaluation.baselines import trivial
from rmjax.evaluation.pairwise import Accuracy, Comparison, accuracy, compare_runs
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.evaluation.summary import Row, accuracies, write_summary
from rmjax.jobs.curve import rates
from rmjax.jobs.devices import Devices
from rmjax.jobs.reward import Overlong, load_model
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.jobs.study import Cells
from rmjax.jobs.workdir import Workdir, begin
from rmjax.methods.frozen import Bench, Frozen
from rmjax.methods.secrets import MetaRm
from rmjax.methods.shift import adapted, joined
from rmjax.records import Preference, content_id
from rmjax.statistics import t_interval
from rmjax.training.features import cached

console = Console()
BASELINE, METARM = "Bradley-Terry", "MetaRM"
NOTE = (
    "Rows are what a head was trained on, columns what it was tested on: percent of held-out pairs, blue above chance, "
    "with half a 95 % interval (Student's t over label draws) below; the diagonal is the usual figure. Intervals say "
    "nothing about other held-out pairs. The second map is MetaRM minus Bradley-Terry on the same draws, in points: "
    "MetaRM sees answers to the target's training prompts as well, without their labels."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """Heads on frozen features, trained on one source and tested on every source, over label draws.

    Bradley-Terry is tuned on the source's labels alone. MetaRM has unlabelled answers of the target's training pairs,
    and its setting is chosen on the source's labels, too.
    """

    workdir: str = "runs/transfer"
    model: ModelSource = ModelSource()
    train: tuple[str, ...] = ()  # a file of training pairs for each source
    held: tuple[str, ...] = ()  # its held-out pairs, in the same order
    data: PairFile = PairFile()  # schema and policies of all files; leave its path empty
    labels: int = 500  # of each source; half of its pairs at most, or draws have too much in common to be told apart
    unlabelled: int = 500  # pairs of the target's answers, for MetaRM
    draws: int = 20  # label draws of each source
    frozen: Frozen = Frozen()
    # training pairs longer than the model reads: error, drop or cut; auto: a decoder drops, an encoder cuts. Held-out
    # ones: a decoder refuses them, an encoder cuts them, but for error
    overlong: Overlong = "auto"
    features: str = "runs/features"  # where features are kept: they are computed once for a model and its data
    devices: Devices = Devices()
    seed: int = 0  # of label draws, folds and heads

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "draws", least=2)
        require("", self, "labels", "unlabelled", least=1)
        if self.data.path:
            raise UserError(f"--data.path {self.data.path}: give the files with --train and --held")
        if len(self.train) != len(self.held):
            raise UserError(
                f"--train has {len(self.train)} files and --held {len(self.held)}: give one of each for every source"
            )
        names = [stem(path) for path in self.train]
        if len(set(names)) < len(names):
            raise UserError(f"--train: two files are named {max(names, key=names.count)!r}; rename one")

    def run(self, command: str = "") -> None:
        """Computes what is not there yet, on all devices, and writes rows.jsonl, summary.json, report.html."""
        with self.devices.use():
            self.measure(command)

    def measure(self, command: str) -> None:
        """`run`, on whatever mesh is set."""
        pools, tests, hashes = self.read()
        start = load_model(self.model)
        for name in pools:
            fit = functools.partial(start.limited, most=0, flag="--overlong")
            pools[name] = fit(pools[name], policy=self.overlong, usual="drop", what=f"training pairs of {name}")
            how = "error" if self.overlong == "error" else "auto"
            tests[name] = fit(tests[name], policy=how, usual="error", what=f"held-out pairs of {name}")
        for name, pool in pools.items():
            if 2 * self.labels > len(pool):
                raise UserError(
                    f"labels={self.labels}: {name} has {len(pool)} training pairs; give at most half as many, or draws "
                    "of labels have too much in common for an interval over them"
                )
            if self.unlabelled > len(pool):
                raise UserError(f"unlabelled={self.unlabelled}: {name} has {len(pool)} training pairs; give fewer")
        read = [*zip(self.train, pools.values(), strict=True), *zip(self.held, tests.values(), strict=True)]
        work, provenance = begin(
            self, hashes, command=command, params=start.params, labels={path: len(items) for path, items in read}
        )
        made = lambda items: cached(self.features, start.model, start.params, start.chat, items)
        features = {name: made(pool) for name, pool in pools.items()}
        held = joined([made(test) for test in tests.values()])
        cells = Cells(work / "rows.jsonl", ("source", "draw"))
        done = {(x["source"], x["draw"]) for x in cells.rows}
        sizes = [len(test) for test in tests.values()]
        for source, pool in pools.items():
            if all((source, draw) in done for draw in range(self.draws)):
                continue
            bench = Bench(features[source], held, pool, self.frozen, parts=len(start.model.pool), seed=self.seed)
            for draw in range(self.draws):
                cells.fill({"source": source, "draw": draw}, functools.partial(self.cell, bench, features, sizes, draw))
            console.print(f"{source}: {self.draws} draws of {self.labels:,} labels")
        self.conclude(work, cells.rows, pools, tests, provenance, start.chat.contract())

    def read(self) -> tuple[dict[str, list[Preference]], dict[str, list[Preference]], dict[str, str]]:
        """(training pairs, held-out pairs, hashes of files), by source.

        Raises:
            UserError: fewer than two sources, or a held-out pair is a training pair of any source.
        """
        if len(self.train) < 2:
            raise UserError(f"--train has {len(self.train)} files: give at least two sources, each with its --held")
        pools, tests, hashes = {}, {}, {}
        for path, held in zip(self.train, self.held, strict=True):
            for place, file in ((pools, path), (tests, held)):
                source = dataclasses.replace(self.data, path=file).read()
                place[stem(path)], hashes[file] = list(source.records), source.hash
        content = lambda pairs: {content_id(p.prompt, *sorted((p.chosen, p.rejected))) for p in pairs}
        seen = {name: content(pool) for name, pool in pools.items()}
        for name, test in tests.items():
            for source, pairs in seen.items():
                if both := pairs & content(test):
                    raise UserError(
                        f"--held: {len(both)} held-out pairs of {name} are training pairs of {source}: remove them"
                    )
        return pools, tests, hashes

    def cell(self, bench: Bench, features: Mapping[str, Features], sizes: Sequence[int], draw: int) -> dict[str, Any]:
        """One draw of one source: accuracies of both methods on every target."""
        start = time.perf_counter()
        base = bench.baseline(self.labels, [draw])
        rng = np.random.default_rng([self.seed, draw])
        places = [f.take(rng.choice(len(f), self.unlabelled, replace=False)) for f in features.values()]
        fitted, _ = adapted(bench, self.labels, draw, MetaRm(), base, places)
        ends = np.cumsum(sizes)[:-1]
        of = lambda parts: [rates(part, 1)[0] for part in parts]
        own = [np.split(d, ends)[i] for i, d in enumerate(fitted.differences)]  # each place's head on its own pairs
        return {
            BASELINE: dict(zip(features, of(np.split(base.differences[0], ends)), strict=True)),
            METARM: dict(zip(features, of(own), strict=True)),
            "settings": {BASELINE: base.words[0], METARM: list(fitted.words)},
            "seconds": round(time.perf_counter() - start, 3),
        }

    def conclude(
        self,
        work: Workdir,
        lines: Sequence[Mapping[str, Any]],
        pools: Mapping[str, Sequence[Preference]],
        tests: Mapping[str, Sequence[Preference]],
        provenance: Provenance,
        contract: Mapping[str, Any],
    ) -> None:
        """Writes summary.json, run.json and report.html; prints the matrices."""
        names = list(pools)
        cells = [(m, s, t) for m in (BASELINE, METARM) for s in names for t in names]
        runs = {(m, s, t): self.rows(lines, m, s, t, len(tests[t])) for m, s, t in cells}
        found = curves.holm(compared(runs, names, self.labels))
        mean = {(s, t): t_interval([r.accuracy for r in runs[BASELINE, s, t]]) for s in names for t in names}
        gain = {(s, t): found[f"{s} to {t}", self.labels].difference for s in names for t in names}
        plain = {t: {n: accuracy(x) for n, x in trivial(tests[t], pools[t]).items()} for t in names}
        tried = {BASELINE: self.frozen.settings(), METARM: self.frozen.settings(MetaRm())}
        facts = {
            "testbed": "real data",
            "matrix": {BASELINE: nested(mean), f"{METARM} - {BASELINE}": nested(gain)},
            "comparisons": [dataclasses.asdict(c) for c in found.values()],
            "p": f"Student's t over paired draws, Holm's correction for {len(found)} comparisons",
            "baselines": {t: {n: dataclasses.asdict(a) for n, a in b.items()} for t, b in plain.items()},
            "settings_tried": tried,
        }
        rows = [r for group in runs.values() for r in group]
        write_summary(work / "summary.json", rows, **facts)
        run = provenance.finish(contract=contract)
        show = lambda cells, what, zero: Markup('<h3>{}</h3><figure class="wide">{}</figure>').format(
            what, matrix.figure(cells, names, names, label=what, zero=zero)
        )
        maps = show(mean, f"{BASELINE}, accuracy in %", 0.5) + show(gain, f"{METARM} minus {BASELINE}, points", 0.0)
        note = f"{NOTE} {curves.CORRECTED.format(len(found))}"
        flat = {f"{n}, on {t}": a for t, b in plain.items() for n, a in b.items()}
        data = ReportData(
            title="Trained here, tested there",
            testbed="real data",
            lead=f"Heads on frozen features of {self.model.path}: {self.labels:,} labels of the source, {self.draws} "
            "label draws.",
            panels=(Panel(id="transfer", title="Transfer", note=note, body=maps),),
            baselines=flat,
            comparisons=list(found.values()),
            run=run,
        )
        report.write(work / "report.html", data)
        console.print(f"\n[bold]{BASELINE}[/], {self.labels:,} labels, accuracy in % over {self.draws} label draws")
        console.print(matrix.table(mean, names, names))
        for name in next(iter(plain.values())):
            console.print(f"  {name}: " + ", ".join(f"{t} {100 * b[name].accuracy:.1f}" for t, b in plain.items()))
        console.print(f"\n[bold]{METARM} minus {BASELINE}[/], points, paired over the same draws")
        console.print(matrix.table(gain, names, names, zero=0.0))
        told = [f"{s} to {t}" for s in names for t in names if found[f"{s} to {t}", self.labels].distinguishable]
        console.print(f"distinguishable after Holm's correction for {len(found)}: {', '.join(told) or 'none'}")
        console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")

    def rows(self, lines: Sequence[Mapping[str, Any]], method: str, source: str, target: str, n: int) -> list[Row]:
        """A row a draw."""
        return [
            Row.of(
                Accuracy.of(x[method][target], n),
                method=f"{method}, {source} to {target}",
                labels=self.labels,
                seed=self.seed,
                draw=x["draw"],
                seconds=x["seconds"],
            )
            for x in lines
            if x["source"] == source
        ]


def compared(
    runs: Mapping[tuple[str, str, str], Sequence[Row]], names: Sequence[str], labels: int
) -> dict[curves.Point, Comparison]:
    """MetaRM against Bradley-Terry in every cell, over the same draws."""
    of = lambda method, s, t: accuracies(runs[method, s, t])
    titles = lambda s, t: (f"{METARM}, {s} to {t}", f"{BASELINE}, {s} to {t}")
    return {
        (f"{s} to {t}", labels): compare_runs(of(METARM, s, t), of(BASELINE, s, t), names=titles(s, t))
        for s in names
        for t in names
    }


def nested(cells: matrix.Cells) -> dict[str, dict[str, Any]]:
    """Source -> target -> interval."""
    out: dict[str, dict[str, Any]] = {}
    for (source, target), i in cells.items():
        out.setdefault(source, {})[target] = dataclasses.asdict(i)
    return out


def stem(path: str) -> str:
    """The name of a source: its file's, without endings."""
    return Path(path).name.split(".")[0]
