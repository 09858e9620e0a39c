"""Checkpoints (Orbax): state, data position, settings and token contract, in folders `<updates made>`.

A folder appears under its name only when it is whole. Orbax notices files that are missing or cut, but not a flipped
byte in an array, so a checksum of the state is kept too.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.progress import say
from rmjax.training.state import TrainState

FOLDER = "checkpoints"  # in the folder of a training


class Resumed(NamedTuple):
    """Where a run stood; the data iterator has been set to its position."""

    step: int
    state: TrainState
    sums: Mapping[str, Any]  # of `metrics.Window`


class Checkpoints:
    """The checkpoints of one run in `folder`; the newest `keep` are kept."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, keep: int) -> None:
        self.folder = folder.absolute()
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

    def restore(self, abstract: TrainState, data: Any) -> Resumed | None:
        """The newest checkpoint that can be read, or None where there is none at all. Sets `data` to its position.

        A damaged one is named on stderr and put aside as `<step>.damaged`.

        Raises:
          UserError: it belongs to a run with other settings, or none of them can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.folder / str(step)
            try:
                about, state = _load(path, abstract, data, self._settings)
            except UserError:
                raise
            except Exception as error:  # whatever Orbax and TensorStore make of broken files
                say(
                    f"DAMAGED checkpoint {path}: {_short(error)}; put aside, trying the one before it", style="bold red"
                )
                if jax.process_index() == 0:
                    path.rename(_free(path.with_name(f"{step}.damaged")))
                continue
            return Resumed(step, state, about["sums"])
        if steps:
            raise UserError(f"{self.folder}: none of its checkpoints {steps} can be read; remove it to start anew")
        return None

    def save(self, step: int, state: TrainState, data: Any, sums: Mapping[str, Any]) -> None:
        """Begins to save; the files are written while training goes on. `state` may be donated afterwards.

        Raises UserError where this checkpoint, or the one before it, cannot be written.
        """
        from orbax.checkpoint import v1 as ocp

        self.wait()
        about = {"settings": self._settings, "sums": dict(sums), "checksum": checksum(state)}
        path = self.folder / str(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # Orbax takes minutes to notice that it cannot
            self._saving = ocp.save_checkpointables_async(path, {"state": state, "data": data}, custom_metadata=about)
        except (OSError, ValueError) as error:
            raise _unwritable(path, error) from error

    def wait(self) -> None:
        """Returns when nothing is being written any more, and only the newest checkpoints are left."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            try:
                saving.result()
            except (OSError, ValueError) as error:
                raise _unwritable(self.folder, error) from error
        if jax.process_index() == 0:
            for step in self.steps()[: -self._keep]:
                shutil.rmtree(self.folder / str(step))
            for left in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a killed process
                shutil.rmtree(left)


def remove(folder: Path) -> None:
    """Deletes the checkpoints of a training in `folder`, if there are any: what it gave is safe elsewhere."""
    if jax.process_index() == 0 and (folder / FOLDER).exists():
        shutil.rmtree(folder / FOLDER)


def _load(
    path: Path, abstract: TrainState, data: Any, settings: Mapping[str, str]
) -> tuple[Mapping[str, Any], TrainState]:
    from orbax.checkpoint import v1 as ocp

    logger = logging.getLogger("absl")  # Orbax warns about every iterator that it cannot describe
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        about = ocp.checkpointables_metadata(path).custom_metadata
        if about["settings"] != settings:
            raise UserError(f"{path} belongs to a run with other settings ({_changes(about['settings'], settings)}): "
                            "repeat its settings to continue it, or give another folder")  # fmt: skip
        state = ocp.load_checkpointables(path, {"state": _on_device(abstract), "data": data})["state"]
    finally:
        logger.setLevel(level)
    if checksum(state) != about["checksum"]:
        raise ValueError("the arrays' checksum is not the one that was saved")
    return about, state


def _on_device(abstract: TrainState) -> TrainState:
    """Without a mesh, on the first device, whatever it was saved from."""
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or first), abstract)


def checksum(tree: Any) -> int:
    """The sum of all arrays' bits, modulo 2**32: the same on every mesh, and cheap beside writing them."""
    return int(_checksum(tree))


@jax.jit
def _checksum(tree: Any) -> jax.Array:
    def of(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
        return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)

    return functools.reduce(jnp.add, [of(x) for x in jax.tree.leaves(tree)])


def describe(value: Any, at: str) -> dict[str, str]:
    """A configuration as a flat table, `field.field` -> text."""
    if not dataclasses.is_dataclass(value):
        return {at: repr(value)}
    fields = [describe(getattr(value, f.name), f"{at}.{f.name}") for f in dataclasses.fields(value)]
    return functools.reduce(dict.__or__, fields, {at: type(value).__qualname__})


def fingerprint(groups: Sequence[Group]) -> str:
    """A hash of everything in the groups, in order."""
    digest = hashlib.sha256()
    for group in groups:
        columns = (group.ref_logps, group.weight, group.margin, group.smooth)
        numbers = [np.asarray(x, np.float32) for x in columns]
        for ids in (group.prompt, *group.completions, group.skip, [i for pair in group.pairs for i in pair]):
            numbers.append(np.asarray(ids, np.int32))
        digest.update(f"{group.id} {[x.size for x in numbers]}".encode())
        digest.update(b"".join(x.tobytes() for x in numbers))
    return digest.hexdigest()[:16]


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return "; ".join(f"{k}: {old.get(k)} -> {new.get(k)}" for k in changed[:4]) + more


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
