"""Samples of several processes: each one samples a part of the requests into a journal of its own.

Beside NAME.jsonl that is NAME.process-I-of-N.jsonl, as `journal` writes it; the next run takes it over.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmjax import distributed
from rmjax.records import Rollout
from rmjax.sampling.journal import Journal, settings_path

Known = dict[tuple[str, int], Rollout]  # by request and index


def own(path: Path) -> Path:
    """Where this process writes: `path` itself where it is the only one."""
    count = distributed.count()
    return path if count == 1 else path.with_name(f"{path.stem}.process-{distributed.index()}-of-{count}.jsonl")


def _others(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.process-*-of-*.jsonl"))


def fold(path: Path, settings: Mapping[str, Any], prompts: Mapping[str, str]) -> Known:
    """Takes what processes have left over into `path`, however many they were; returns what it then holds.

    Raises:
        UserError: as `Journal`.
    """

    def take() -> Known:
        if distributed.count() == 1 and not _others(path):
            return {}  # whoever opens the one file reads it
        journal = Journal(path, settings, prompts)
        try:
            known = dict(journal.known)
            for shard in _others(path):
                part = Journal(shard, settings, prompts)
                part.close()
                for key, rollout in part.known.items():
                    if key not in known:
                        journal.append(rollout)
                        known[key] = rollout
        finally:
            journal.close()
        remove_parts(path)
        return known

    return distributed.first(take)


def remove_parts(path: Path) -> None:
    """Deletes what processes have left beside `path`."""
    if distributed.writes():
        for shard in _others(path):
            for file in (shard, settings_path(shard)):
                file.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Deletes a run's journals, of no more use."""
    if distributed.writes():
        remove_parts(path)
        for file in (path, settings_path(path)):
            file.unlink(missing_ok=True)
