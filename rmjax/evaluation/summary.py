"""summary.json: one row a method and run, machine-readable; and its aggregation over runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmjax import json_file, jsonl
from rmjax.errors import UserError
from rmjax.evaluation.pairwise import Accuracy, ItemScore, Run, over_runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one method in one run."""

    method: str
    labels: int  # labelled pairs that the method saw
    seed: int
    accuracy: float
    ci95: tuple[float, float]
    n: int  # items
    seconds: float  # to train, sampling included; evaluation is not counted
    draw: int = 0  # which draw of labels
    ties: int = 0
    unparsed: int = 0
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # further columns: tokens, consistency, ...

    def __post_init__(self) -> None:
        if clash := {f.name for f in dataclasses.fields(self)} & self.extra.keys():
            raise ValueError(f"extra columns {sorted(clash)} are columns of Row")

    @classmethod
    def of(
        cls, result: Accuracy, *, method: str, labels: int, seed: int, seconds: float, draw: int = 0, **extra: Any
    ) -> Row:
        """The row of an accuracy."""
        return cls(
            method=method,
            labels=labels,
            seed=seed,
            draw=draw,
            seconds=seconds,
            extra=extra,
            **{f.name: getattr(result, f.name) for f in dataclasses.fields(result)},
        )

    def to_json(self) -> dict[str, Any]:
        """The columns of summary.json, the extra ones last."""
        columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        return {**columns, "ci95": list(self.ci95), **self.extra}


def write_summary(path: Path, rows: Sequence[Row], **facts: Any) -> None:
    """Writes {"rows": [...], **facts} whole.

    Args:
        path: usually workdir / "summary.json".
        rows: in the order in which they are shown.
        facts: further top-level entries, such as testbed="controlled world".

    Raises:
        UserError: the disk is full or the folder not writable, or a value is not JSON (NaN included).
    """
    json_file.write(path, {"rows": [row.to_json() for row in rows], **facts})


def write_scores(path: Path, scores: Sequence[ItemScore]) -> None:
    """Writes per-item scores whole, one line an item, every float at full precision."""
    jsonl.write(path, scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """All runs of one method at one number of labels."""

    method: str
    labels: int
    accuracy: float  # mean over runs
    low: float
    high: float
    over: str  # what the interval generalises over, in words
    values: tuple[float, ...]  # the accuracy of each run
    n: int  # items in a run
    seconds: float  # mean over runs
    ties: float  # share of the items
    unparsed: float  # share of the items


def groups(rows: Sequence[Row]) -> list[Group]:
    """Rows of the same method and number of labels together, in order of first appearance.

    One run: its Wilson interval, which holds for other items and says nothing about other runs. Several: the interval
    over runs (see `over_runs`), within [0, 1].

    Raises:
        UserError: two rows of a group have the same draw and seed, or differ in n.
    """
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row.method, row.labels), []).append(row)
    return [_group(runs) for runs in found.values()]


def accuracies(rows: Sequence[Row]) -> dict[Run, float]:
    """The accuracy of each (draw, seed) of one method: the input of `compare_runs`. Raises UserError on a repeat."""
    out: dict[Run, float] = {}
    for row in rows:
        if (row.draw, row.seed) in out:
            raise UserError(
                f"method {row.method!r} with {row.labels} labels: two rows have draw={row.draw}, seed={row.seed}; "
                "give every run its own"
            )
        out[row.draw, row.seed] = row.accuracy
    return out


def _group(runs: Sequence[Row]) -> Group:
    first, values = runs[0], accuracies(runs)
    if any(row.n != first.n for row in runs):
        raise UserError(
            f"method {first.method!r}: its runs have n={sorted({r.n for r in runs})} items; use one test set"
        )
    if len(runs) == 1:
        mean, (low, high), over = first.accuracy, first.ci95, f"{first.n:,} items"
    else:
        interval, over = over_runs(values)
        mean, low, high = interval.value, max(0.0, interval.low), min(1.0, interval.high)
    return Group(
        method=first.method,
        labels=first.labels,
        accuracy=mean,
        low=low,
        high=high,
        over=over,
        values=tuple(values.values()),
        n=first.n,
        seconds=float(np.mean([r.seconds for r in runs])),
        ties=float(np.mean([r.ties / r.n for r in runs])),
        unparsed=float(np.mean([r.unparsed / r.n for r in runs])),
    )
