"""A job's trials in the reward world: a new world for every seed, a line each, continued where a run was cut."""

from __future__ import annotations

import functools
from typing import Any

from rmjax.evaluation.provenance import Provenance
from rmjax.jobs.study import Cells
from rmjax.jobs.workdir import Workdir, begin


def trials(job: Any, command: str) -> tuple[Workdir, list[dict[str, Any]], Provenance]:
    """Runs `job.trial(seed)` for the seeds that rows.jsonl lacks, from `job.world.seed` on; returns every line."""
    first = job.world.seed
    work, provenance = begin(job, {}, command=command, seed=first)
    cells = Cells(work / "rows.jsonl", ("seed",))
    for seed in range(first, first + job.seeds):
        cells.fill({"seed": seed}, functools.partial(job.trial, seed))
    return work, cells.rows, provenance
