"""A person labels pairs; with several of them, how far they agree; a file of preferences to train on."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmjax import json_file, jsonl
from rmjax.bounds import LAST_SEED, require
from rmjax.config import to_json
from rmjax.data import files
from rmjax.data.sources import Source
from rmjax.errors import UserError
from rmjax.evaluation.agreement import Agreement, agreement, agreement_table
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs.sources import PairFile
from rmjax.jobs.workdir import Workdir
from rmjax.oracles import export, terminal
from rmjax.oracles.column import ColumnOracle, hide
from rmjax.oracles.journal import Entry, require_on, standing_votes
from rmjax.oracles.page import Server
from rmjax.oracles.session import Session
from rmjax.records import Pair, Preference
from rmjax.statistics import wilson

console = Console()
ANSWERS = {"chosen": "first", "rejected": "second"}  # a file of pairs is read by the schema of preferences
LABELS = ("margin", "weight", "prob_chosen", "tie", "votes")
OWN = ("by", "how", "port", "workdir")  # fields that are one annotator's, not the whole study's


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairsToLabel(PairFile):
    """Preferences, whose labels are hidden, or pairs: records with `prompt`, `first` and `second`."""

    tie: Literal["keep", "error", "drop"] = "keep"  # pairs that the file calls a tie; keep: they are labelled, too

    def load(self, *, seed: int) -> tuple[list[Pair], ColumnOracle | None, str]:
        """(pairs to label, the file's own labels or None where it has none, hash of the file).

        Raises:
          UserError: no path, unreadable data, or pairs that have labels after all.
        """
        if self.path and _compared_by_nobody(self.path):
            try:
                source = dataclasses.replace(self, columns={**ANSWERS, **self.columns}).read()
            except UserError as error:
                raise UserError(f"{error} (in a file of pairs, 'chosen' means first and 'rejected' second)") from None
            odd = next((n for n in LABELS if any(_given(getattr(p, n)) for p in source.records)), None)
            if odd:
                raise UserError(f"{self.path}: column {odd!r} in pairs that nobody compared: list it in --data.ignore")
            return [_pair(p) for p in source.records], None, source.hash
        source: Source = self.read()
        return hide(source.records, seed=seed), ColumnOracle(source.records, name="the file"), source.hash


def _compared_by_nobody(path: str) -> bool:
    first = next((row.value for row in files.load(path).rows if row.error is None), {})
    return {"first", "second"} <= first.keys() and not {"chosen", "rejected"} & first.keys()


def _given(value: Any) -> bool:
    return value is not None and value is not False  # 0.0 was given


def _pair(p: Preference) -> Pair:
    return Pair(prompt=p.prompt, first=p.chosen, second=p.rejected, id=p.id, source=p.source, meta=p.meta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelJob:
    """Shows pairs in a blind order and writes every label down at once; run it again with another name for another
    annotator. When a session ends: agreement, and preferences.jsonl of all votes, to train on."""

    workdir: str = "runs/label"
    data: PairsToLabel = PairsToLabel()
    by: str = ""  # who labels; each annotator has a votes file of this name
    # page: a web page on 127.0.0.1; export: label nothing, only write the table and the file
    how: Literal["page", "terminal", "export"] = "page"
    port: int = 0  # of the page; 0: a free one
    seed: int = 0  # of the order in which answers are shown; all annotators of a workdir have the same

    def __post_init__(self) -> None:
        require("", self, "seed", least=0, most=LAST_SEED)
        require("", self, "port", least=0, most=65535)
        if 0 < self.port < 1024:  # 80 stands in no address of a browser; the others are the system's
            raise UserError(f"--port {self.port}: give one from 1024 to 65535, or 0 for a free one")
        if self.port and self.how != "page":
            raise UserError(f"--port {self.port}: only --how page has a port; leave it out with --how {self.how}")
        if self.by and self.how == "export":
            raise UserError(f"--by {self.by}: --how export takes the votes of all annotators; leave --by out")

    def run(self, command: str = "") -> None:
        """Labels until the person stops, then writes the table and the file."""
        if not self.by and self.how != "export":
            raise UserError("--by is empty: give the name of who labels, such as --by ann")
        pairs, column, digest = self.data.load(seed=self.seed)
        config = {k: v for k, v in to_json(self).items() if k not in OWN}
        work = Workdir(self.workdir, config, {self.data.path: digest})
        if self.how != "export":
            self._label(pairs, work, command, {self.data.path: digest})
        self._export(pairs, column, work)

    def _label(self, pairs: Sequence[Pair], work: Workdir, command: str, hashes: Mapping[str, str]) -> None:
        session = Session(pairs, votes_file(work, self.by), by=self.by, seed=self.seed)
        try:
            server = Server(session, port=self.port) if self.how == "page" else None
            run = work / "votes" / f"{self.by}.run.json"
            before = session.done
            provenance = Provenance(
                run, command=command, config=to_json(self), data=hashes, seed=self.seed, labels={self.by: before}
            )
            try:
                if server:
                    console.print(f"{session.done:,} of {session.total:,} pairs are labelled by {self.by}")
                    console.print("open this address; it works once, on this machine (Ctrl-C ends the session):")
                    console.print(server.address, style="bold", soft_wrap=True, highlight=False)
                    server.run()
                else:
                    terminal.label(session, console)
            except KeyboardInterrupt:  # a usual way to stop: every label is on disk
                console.print()
            seconds = round(sum(entry.seconds for entry in session.votes), 2)
            provenance.bought({self.by: session.done})
            provenance.finish(labels_now=session.done - before, seconds_of_labelling=seconds)
            left = session.total - session.done
            more = f"; {left:,} left: the same command continues" if left else ""
            console.print(f"{session.done:,} of {session.total:,} pairs are labelled by {self.by}{more}")
        finally:
            session.close()

    def _export(self, pairs: Sequence[Pair], column: ColumnOracle | None, work: Workdir) -> None:
        """Writes preferences.jsonl and summary.json of all votes so far, and prints who agrees with whom."""
        entries = all_votes(work, pairs)
        if not entries:
            console.print("no labels yet, so nothing is written")
            return
        seen = {e.item for e in entries}
        own = column.label([pair for pair in pairs if pair.id in seen]) if column else []
        found, made = agreement(entries, reference=own, seed=self.seed), export.preferences(pairs, entries)
        people = annotators(entries)
        path = work / "preferences.jsonl"
        jsonl.write(path, made.records)
        facts = {"pairs": len(pairs), "exported": len(made.records), "ties": made.ties}
        facts |= {"cannot_tell": made.unknown, "unlabelled": made.unlabelled}
        json_file.write(work / "summary.json", {"annotators": people, **_plain(found), **facts})
        console.print(annotator_table(people))
        if found.twos:
            console.print(agreement_table(found))
        console.print(
            f"{len(made.records):,} preferences, {made.ties:,} of them ties; left out: {made.unknown:,} that nobody "
            f"could tell, {made.unlabelled:,} not labelled",
            soft_wrap=True,
        )
        tie = " --data.tie half" if made.ties else ""
        console.print(f"to train on: [bold]{escape(str(path))}[/] (train --data.path ...{tie})", soft_wrap=True)


def votes_file(work: Workdir, by: str) -> Path:
    """Where the votes of an annotator are."""
    return work / "votes" / f"{by}.jsonl"


def all_votes(work: Workdir, pairs: Sequence[Pair]) -> list[Entry]:
    """The standing votes of all annotators, by name. Raises UserError for a file of other pairs, or of another name."""
    found = []
    for path in sorted((work / "votes").glob("*.jsonl")):
        votes = standing_votes(path)
        if (odd := next((v.by for v in votes if v.by != path.stem), None)) is not None:
            raise UserError(f"{path}: holds votes by {odd!r}: name the file {odd}.jsonl, or take it away")
        require_on(pairs, votes, path)
        found += votes
    return found


def annotators(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Of every annotator: labels, ties, can't tell, how often the answer shown first won, time."""
    rows = []
    for by in dict.fromkeys(e.by for e in entries):
        own = [e for e in entries if e.by == by]
        named = [e for e in own if e.choice in ("first", "second")]
        shown_first = sum((e.choice == "second") == e.swapped for e in named)
        rows.append(
            {
                "by": by,
                "labels": len(own),
                "tie": sum(e.choice == "tie" for e in own),
                "cannot_tell": sum(e.choice == "unknown" for e in own),
                "shown_first": shown_first / len(named) if named else None,
                "shown_first_ci95": list(wilson(shown_first, len(named))),
                "median_seconds": statistics.median(e.seconds for e in own),
            }
        )
    return rows


def annotator_table(people: Sequence[Mapping[str, Any]]) -> Table:
    """One row an annotator."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in (
        "annotator",
        "labels",
        "ties",
        "can't tell",
        "took what stood first, %",
        "95 % interval",
        "seconds",
    ):
        table.add_column(name, justify="left" if name == "annotator" else "right")
    for p in people:
        low, high = p["shown_first_ci95"]
        share = p["shown_first"]
        first = ("", "") if share is None else (f"{100 * share:.0f}", f"{100 * low:.0f} to {100 * high:.0f}")
        counts = (f"{p[name]:,}" for name in ("labels", "tie", "cannot_tell"))
        table.add_row(escape(p["by"]), *counts, *first, f"{p['median_seconds']:.1f}")
    return table


def _plain(found: Agreement) -> dict[str, Any]:
    return {"agreement": [dataclasses.asdict(two) for two in found.twos], "fleiss": _json(found.kappa)}


def _json(value: Any) -> Any:
    return dataclasses.asdict(value) if value else None
