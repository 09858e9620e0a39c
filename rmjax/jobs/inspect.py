"""Looks at preference data before a model is trained on it: what is wrong, where, and what to do about it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.bounds import require
from rmjax.config import to_json
from rmjax.data.doctor import intake as lenient
from rmjax.data.doctor.examine import WORDS, examine
from rmjax.data.doctor.findings import SEVERITIES, Finding
from rmjax.data.doctor.intake import Intake
from rmjax.errors import UserError
from rmjax.evaluation.baselines import cross_validated
from rmjax.evaluation.pairwise import Accuracy, accuracy
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs import inspect_report
from rmjax.jobs.workdir import Workdir
from rmjax.records import Preference

console = Console()
FOLDS = 5
PROBED = 10_000  # pairs that the bag of words sees at most, evenly over the file
ALL_FOLDS = 2_000  # so many pairs or fewer are all tested, a fold after the other; of more one fold is
STYLE = 0.6  # a bag of words that is right so often, for sure, is a warning


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyFile:
    """A file of labelled pairs; what cannot be read is a finding."""

    path: str = ""  # .jsonl, .jsonl.gz, .json, .parquet or hub:owner/name[:split]; schemas: docs/data.md
    schema: str = "auto"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # schema's column -> the file's
    ignore: tuple[str, ...] = ()  # columns to leave out


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectJob:
    """Finds duplicates, contradictions, cycles, leaks, artefacts and broken text in labelled pairs; changes nothing."""

    workdir: str = "runs/inspect"
    data: AnyFile = AnyFile()
    evaluation: tuple[str, ...] = ()  # files of pairs to evaluate on: what of them is in the data already?
    words: int = WORDS  # of a run in common that counts as overlap; 8 finds more, some of it by chance
    probe: bool = True  # whether a bag of words is trained on the answers alone (--no-probe saves seconds)

    def __post_init__(self) -> None:
        require("", self, "words", least=3, most=100)

    def run(self, command: str = "") -> None:
        """Reads, examines, and writes findings.jsonl, summary.json and report.html."""
        if not self.data.path:
            raise UserError("--data.path is empty: give a file of labelled pairs (docs/data.md lists the schemas)")
        intake = lenient.read(
            self.data.path, schema=self.data.schema, columns=self.data.columns, ignore=self.data.ignore
        )
        held = self.held(intake)
        hashes = {i.path: i.hash for i in (intake, *held.values())}
        work = Workdir(self.workdir, {"job": "inspect"}, {})  # nothing is kept from run to run: any file is welcome
        provenance = Provenance(
            work / "run.json",
            command=command,
            config=to_json(self),
            data=hashes,
            seed=0,
            labels={i.path: len(i.records) for i in (intake, *held.values())},
        )
        with console.status("examining") as status:
            found = examine(intake, held, words=self.words, after=lambda name: status.update(f"{name}: done"))
            words = probe(intake.records) if self.probe else None
        if words is not None and words.ci95[0] > 0.5:
            found.append(style(words))
        found.sort(key=lambda f: SEVERITIES.index(f.severity))
        jsonl.write(work / "findings.jsonl", lines(found))
        facts = {
            "file": intake.path,
            "schema": intake.schema,
            "pairs": len(intake.records),
            "unreadable_lines": len(intake.faults),
            "bag_of_words": None if words is None else dataclasses.asdict(words),
            "findings": [entry(f) for f in found],
        }
        json_file.write(work / "summary.json", facts)
        run = provenance.finish()
        inspect_report.write(work / "report.html", intake, found, words, run=run)
        inspect_report.show(console, intake, found, words)
        console.print(
            f"report: [bold]{work / 'report.html'}[/]   every case: {work / 'findings.jsonl'}   "
            f"numbers: {work / 'summary.json'}"
        )

    def held(self, intake: Intake) -> dict[str, Intake]:
        """Name -> evaluation file. UserError where one is the data itself, or is there twice."""
        parts = [Path(path).parts for path in self.evaluation]
        if twice := [path for path, p in zip(self.evaluation, parts, strict=True) if parts.count(p) > 1]:
            raise UserError(f"--evaluation {twice[0]}: is there twice; give each file once")
        # The ends of the paths, as long as it takes to tell them apart.
        depth = next(d for d in itertools.count(1) if len({p[-d:] for p in parts}) == len(parts))
        out: dict[str, Intake] = {}
        for path, p in zip(self.evaluation, parts, strict=True):
            read = out["/".join(p[-depth:])] = lenient.read(path)
            if read.hash == intake.hash:
                raise UserError(f"--evaluation {path}: is --data.path itself; give files that are evaluated on")
        return out


def probe(records: Sequence[Preference]) -> Accuracy | None:
    """The accuracy of a bag of words that never sees the prompt, on prompts that it was not trained on.

    None where a fold is empty: too few prompts.
    """
    usable = [p for p in records if not p.tie and p.chosen != p.rejected]
    if len(usable) > PROBED:
        usable = [usable[int(i)] for i in np.linspace(0, len(usable) - 1, PROBED)]
    scores = cross_validated(usable, [_fold(p) for p in usable], range(FOLDS if len(usable) <= ALL_FOLDS else 1))
    return accuracy(scores) if scores else None


def _fold(p: Preference) -> int:
    text = "\x1e".join(m.content for m in p.prompt)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] % FOLDS


def style(words: Accuracy) -> Finding:
    """The finding that answers can be told by their words."""
    low, high = words.ci95
    return Finding(
        kind="bag-of-words",
        severity="warning" if low > STYLE else "note",
        title="a bag of words that never sees the prompt tells the chosen answer",
        count=round(words.accuracy * words.n),
        of=words.n,
        unit="pairs tested",
        advice="so much of an accuracy needs no understanding of the prompt: compare every model with it",
        detail=f"right on {100 * words.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})",
    )


def lines(found: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """findings.jsonl: a line for each case; one for a finding about all pairs."""
    for f in found:
        head = {"kind": f.kind, "severity": f.severity, "title": f.title}
        if not f.cases:
            yield {**head, "ids": [], "where": [], "detail": f.detail}
        for c in f.cases:
            yield {**head, "ids": list(c.ids), "where": list(c.where), "detail": c.detail}


def entry(f: Finding) -> dict[str, Any]:
    """A finding in summary.json, with its first examples."""
    value = {x.name: getattr(f, x.name) for x in dataclasses.fields(f) if x.name != "cases"}
    return {
        **value,
        "share": f.count / f.of if f.of else None,
        "examples": [list(c.ids or c.where) for c in f.cases[:3]],
    }
