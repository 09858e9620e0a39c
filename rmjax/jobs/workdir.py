"""A run's folder: one configuration, stages that are done once, files that are written whole.

runs/mine/
  run.json       command, resolved config, versions, data hashes, seed, wall time
  summary.json   the result, machine-readable
  <stage>/done.json   written last, so that a stage without it is not done

With several processes all call the same methods in the same order; process 0 reads and writes (`distributed`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmjax import distributed, json_file
from rmjax.config import to_json
from rmjax.errors import UserError
from rmjax.evaluation.provenance import Provenance
from rmjax.sampling.journal import fingerprint
from rmjax.training import checkpoint
from rmjax.training.loop import FREE


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """The fields in which two JSON trees differ, as `field: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{at}.{k}" if at else str(k))]
    return [] if old == new else [f"--{at} {old!r} -> {new!r}"]


def _settled(config: Any) -> Any:
    """A config without the fields of its `Train`s that change no result."""
    if not isinstance(config, Mapping):
        return config
    free = FREE if str(config.get("class", "")).endswith(":Train") else ()
    return {k: _settled(v) for k, v in config.items() if k not in free}


class Workdir:
    """The folder of one run. The same command continues it; another configuration is refused."""

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        data_hashes: Mapping[str, str],
        *,
        first_read: Mapping[str, str] | None = None,
    ):
        """Opens or makes the folder.

        Args:
          first_read: settings (`method.train`) -> the first stage that reads them. They may change until that stage
            has left a file: what was sampled is not lost over a training row that proves too short for it.

        Raises:
          UserError: not writable, or it holds a run with other settings or other data, or processes differ in them.
        """
        self.path = Path(path)
        kept = {k: v for k, v in config.items() if k != "only"}
        identity = {"config": _settled(kept), "data": dict(data_hashes)}
        first, *others = distributed.gather(identity)
        for number, theirs in enumerate(others, 1):
            if changed := differences(first, theirs):
                raise UserError(
                    f"--distributed: process {number} has other settings or data than process 0 ({changed[0]}): "
                    "give the same command to all, and the same files"
                )
        distributed.first(lambda: self._open(identity, first_read or {}))

    def _open(self, identity: Mapping[str, Any], first_read: Mapping[str, str]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):  # two runs that start at once do not see each other's
                pass
        except OSError as e:
            raise UserError(f"--workdir {self.path}: not writable ({e.strerror}); give another folder") from e
        lock = self.path / "identity.json"
        if lock.exists():
            changed = differences(json_file.read(lock), json.loads(json.dumps(identity)))
            free = [f"--config.{at}." for at, stage in first_read.items() if not self._begun(stage)]
            changed = [c for c in changed if not c.startswith(tuple(free))]
            changed = [
                c.replace("--config.", "--").replace("--data.", "content of ")
                if c.startswith("--data.")
                else c.replace("--config.", "--")
                for c in changed
                if "--config.workdir" not in c
            ]
            if changed:
                raise UserError(
                    f"--workdir {self.path} holds a run with other settings ({'; '.join(changed[:4])}): "
                    "repeat its settings to continue it, or give another --workdir"
                )
        json_file.write(lock, identity)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _begun(self, stage: str) -> bool:
        folder = self.path / stage
        return folder.is_dir() and any(folder.iterdir())

    def done(self, stage: str) -> Mapping[str, Any] | None:
        """What the stage left when it finished, or None."""
        marker = self.path / stage / "done.json"
        return distributed.first(lambda: json_file.read(marker) if marker.exists() else None)

    def stage(self, name: str, work: Callable[[Path], Mapping[str, Any] | None]) -> Mapping[str, Any]:
        """Runs `work(folder)` unless it has finished before; returns what it returned, with its `seconds`.

        Seconds are those of the attempt that finished. Checkpoints of a training in the folder go when it is done, and
        not before: a stage killed between its training and its export goes on with the trained parameters.
        """
        folder = self.path / name
        result = self.done(name)
        if result is None:
            folder.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            result = dict(work(folder) or {})
            result["seconds"] = round(time.perf_counter() - start, 3)
            json_file.write(folder / "done.json", result)
            result = distributed.agree(result)  # and all wait until its files are there
        checkpoint.remove(folder)
        return result

    def require(self, stage: str, needed_by: str) -> None:
        """Raises UserError unless `stage` is done."""
        if self.done(stage) is None:
            raise UserError(f"--only {needed_by} needs stage {stage}, which is not done in {self.path}: run it first")


def begin(
    job: Any,
    hashes: Mapping[str, str],
    *,
    command: str,
    params: Any = None,
    labels: Mapping[str, int] | None = None,
    seed: int | None = None,
    first_read: Mapping[str, str] | None = None,
) -> tuple[Workdir, Provenance]:
    """Opens `job.workdir` and writes run.json: the last check of a job, for one that is refused leaves nothing behind.

    Args:
        job: a job's settings.
        hashes: of the data, by file.
        params: of `job.model`; their hash is kept with those of the data.
        labels: as in `Provenance`.
        seed: None: `job.seed`.
        first_read: as in `Workdir`.

    Raises:
        UserError: as `Workdir` and `Provenance`.
    """
    data = dict(hashes) if params is None else {**hashes, f"weights of {job.model.path}": fingerprint(params)}
    config, seed = to_json(job), job.seed if seed is None else seed
    work = Workdir(job.workdir, config, data, first_read=first_read)
    return work, Provenance(work / "run.json", command=command, config=config, data=data, seed=seed, labels=labels)
