"""Checkpoints (Orbax): state, data position, settings and token contract, in folders `<updates made>`.

A folder appears under its name only when it is whole. Orbax notices files that are missing or cut, but not a flipped
byte, so checksums of the state and of what is kept beside it are kept too.

With several processes every one of them calls every method; one of them renames and deletes. Each reads its parts by
itself, and all go on or back together: one whose files are broken leaves no other one waiting. What is no damage (no
memory, a device's failure) ends its process, and the others when they notice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from rmjax import distributed
from rmjax.errors import UserError
from rmjax.progress import say
from rmjax.training.identity import changes, checksum
from rmjax.training.state import TrainState

T = TypeVar("T")
FOLDER = "checkpoints"  # in the folder of a training
NO_DAMAGE = (UserError, MemoryError, jax.errors.JaxRuntimeError)  # of loading: a device without memory is none


class Damaged(Exception):
    """A checkpoint that some process cannot read; all of them raise it."""


class Resumed(NamedTuple):
    """Where a run stood; the data iterator has been set to its position."""

    step: int
    state: TrainState
    sums: Mapping[str, Any]  # of `metrics.Window`


class Best(NamedTuple):
    """The lowest held-out loss so far, and the number of updates that it was reached after."""

    step: int
    loss: float


class Checkpoints:
    """The checkpoints of one run in `folder`; the newest `keep` are kept, and the best one.

    `best` is None until a checkpoint with a held-out loss was saved.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], *, keep: int) -> None:
        self.folder = folder.absolute()
        self.best: Best | None = None
        self._settings = dict(settings)
        self._keep = keep
        self._saving: Any = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def steps(self) -> list[int]:
        """The updates made at each finished checkpoint, ascending."""
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdigit())

    def restore(self, abstract: Callable[[int], TrainState], data: Any) -> Resumed | None:
        """The newest checkpoint that can be read, or None where there is none at all. Sets `data` to its position.

        A damaged one is named on stderr and put aside as `<step>.damaged`.

        Args:
          abstract: updates made -> what the state after them is restored as.

        Raises:
          UserError: it belongs to a run with other settings, or none of them can be read, now or in an earlier call.
        """
        for step in reversed(distributed.agree(self.steps())):  # a disk may show one process more than another
            path = self.folder / str(step)
            try:
                about, state = self._load(path, abstract(step))
            except Damaged as problem:
                say(f"DAMAGED checkpoint {path}: {problem}; put aside, trying the one before it", style="bold red")
                _first_process(lambda path=path, step=step: path.rename(_free(path.with_name(f"{step}.damaged"))))
                continue
            data.set_state(about["data"])
            # Where a damaged checkpoint had beaten the best one, that is gone; it will be beaten again.
            self.best = about["best"] and Best(*about["best"])
            return Resumed(step, state, about["sums"])
        damaged = sorted(path.name for path in self.folder.glob("*.damaged*"))
        if damaged:
            raise UserError(f"{self.folder}: none of its checkpoints can be read ({', '.join(damaged)}); remove it to "
                            "start anew")  # fmt: skip
        return None

    def restore_best(self, abstract: Callable[[int], TrainState]) -> TrainState:
        """The state of the best checkpoint, when it is written; `abstract` as in `restore`.

        Raises:
          UserError: there is none, or it cannot be read; another one would be another result.
        """
        self.wait()
        if self.best is None:
            raise UserError(f"{self.folder}: no checkpoint was evaluated; choose the last one: train.select=last")
        path = self.folder / str(self.best.step)
        try:
            return self._load(path, abstract(self.best.step))[1]
        except Damaged as problem:
            raise UserError(
                f"DAMAGED checkpoint {path}, the best of this training: {problem}; remove {self.folder} to train anew"
            ) from problem

    def improves(self, loss: float | None) -> bool:
        """Whether a held-out loss is lower than all before it; None is not."""
        return loss is not None and (self.best is None or loss < self.best.loss)

    def save(
        self, step: int, state: TrainState, data: Any, sums: Mapping[str, Any], *, loss: float | None = None
    ) -> None:
        """Begins to save; the files are written while training goes on. `state` may be donated afterwards.

        Args:
          data: the iterator, whose position is the same in all processes.
          loss: the held-out loss of these parameters, if they were evaluated.

        Raises UserError where this checkpoint, or the one before it, cannot be written.
        """
        from orbax.checkpoint import v1 as ocp

        self.wait()
        if self.improves(loss):
            self.best = Best(step, loss)
        about = {"settings": self._settings, "sums": dict(sums), "data": data.get_state(), "best": self.best}
        about = {**about, "checksum": checksum(state)}
        path = self.folder / str(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # Orbax takes minutes to notice that it cannot
            metadata = {**about, "digest": _digest(about)}
            self._saving = ocp.save_checkpointables_async(path, {"state": state}, custom_metadata=metadata)
        except (OSError, ValueError) as error:
            raise _unwritable(path, error) from error

    def wait(self) -> None:
        """Returns when nothing is being written any more, and only the newest and the best checkpoint are left.

        Nothing is deleted before the checkpoint that takes its place is whole.
        """
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        try:
            saving.result()
        except (OSError, ValueError) as error:
            raise _unwritable(self.folder, error) from error
        if jax.process_index() == 0:
            for step in self.steps()[: -self._keep]:
                if self.best is None or step != self.best.step:
                    shutil.rmtree(self.folder / str(step))
            for left in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a killed process
                shutil.rmtree(left)

    def _load(self, path: Path, abstract: TrainState) -> tuple[Mapping[str, Any], TrainState]:
        logger = logging.getLogger("absl")  # Orbax warns about every checkpoint that has one part
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            about = _in_all(lambda: self._about(path))
            state = _in_all(lambda: _arrays(path, abstract))
        finally:
            logger.setLevel(level)
        if checksum(state) != about["checksum"]:  # over all processes
            raise Damaged("the arrays' checksum is not the one that was saved")
        return about, state

    def _about(self, path: Path) -> Mapping[str, Any]:
        """What is kept beside the arrays. UserError where the settings are others."""
        from orbax.checkpoint import v1 as ocp

        about = dict(ocp.checkpointables_metadata(path).custom_metadata)
        if about.pop("digest") != _digest(about):
            raise ValueError("what is kept beside the arrays is not what was saved")
        if about["settings"] != self._settings:
            raise UserError(
                f"{path} belongs to a run with other settings ({changes(about['settings'], self._settings)}): "
                "repeat its settings to continue it, or give another folder"
            )
        return about


def remove(folder: Path) -> None:
    """Deletes the checkpoints of a training in `folder`, if there are any: what it gave is safe elsewhere."""
    if jax.process_index() == 0 and (folder / FOLDER).exists():
        shutil.rmtree(folder / FOLDER)


def _arrays(path: Path, abstract: TrainState) -> TrainState:
    """The state, as far as it lies on this process's devices."""
    from orbax.checkpoint import v1 as ocp

    context, this = ocp.Context(), jax.process_index()
    # Else each would wait for the others, minutes for one that has failed.
    context.multiprocessing.primary_host, context.multiprocessing.active_processes = this, {this}
    with context:
        return ocp.load_checkpointables(path, {"state": _on_device(abstract)})["state"]


def _on_device(abstract: TrainState) -> TrainState:
    """Without a mesh, on the first device, whatever it was saved from."""
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or first), abstract)


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _in_all(work: Callable[[], T]) -> T:
    """What `work` gives in this process, where it gives something in all of them. Raises Damaged where it does not."""
    value, problem = None, ""
    try:
        value = work()
    except NO_DAMAGE:
        raise
    except Exception as error:  # whatever Orbax and TensorStore make of broken files
        problem = _short(error)
    if _any(bool(problem)):
        raise Damaged(problem or "another process cannot read it")
    return value


def _any(one: bool) -> bool:
    """Whether it is so in any process."""
    return one if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(one)).any())


def _first_process(change: Callable[[], Any]) -> None:
    """Changes what is on the disk once; every process goes on only when it is done."""
    if jax.process_index() == 0:
        change()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checkpoint")


def _unwritable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: the checkpoint cannot be written ({_short(error)}); make room or choose another place, then run the "
        "same command again"
    )


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _free(path: Path) -> Path:
    number = 1
    while path.exists():
        path, number = path.with_suffix(f".damaged{number}"), number + 1
    return path
