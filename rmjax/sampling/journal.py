"""The output file of a run, appended as samples finish, and beside it what it was sampled with.

    FILE            one Rollout a line, in the order in which they finished
    FILE.run.json   weights, sampling, seed, stop ids, and a hash of each request's prompt

A rerun goes on where the file ends; it refuses to mix samples of different settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmjax import json_file, jsonl
from rmjax.errors import UserError
from rmjax.records import Rollout
from rmjax.sharding import to_host

MEND = "delete both files or choose another path"


class Journal:
    """Rollouts on disk. `known` are those that were there."""

    def __init__(self, path: Path, settings: Mapping[str, Any], prompts: Mapping[str, str]) -> None:
        """Opens or resumes a file.

        Args:
            path: of the rollouts, .jsonl.
            settings: what every sample of the file depends on; JSON values.
            prompts: request id -> `digest` of its prompt.

        Raises:
            UserError: the file was sampled with other settings or prompts, or cannot be written.
        """
        self._appender = jsonl.Appender(path, Rollout)
        try:
            self.known: dict[tuple[str, int], Rollout] = {(r.id, r.index): r for r in self._appender.existing}
            beside = settings_path(path)
            if self.known:
                saved = _saved(path, beside)
                _agree(path, saved, settings, prompts, {id for id, _ in self.known})
                prompts = {**saved["prompts"], **prompts}
            json_file.write(beside, {"settings": settings, "prompts": prompts})
        except BaseException:
            self._appender.close()
            raise

    def append(self, rollout: Rollout) -> None:
        """Writes one rollout; raises UserError where the disk is full, and all those before stay."""
        self._appender.append(rollout)

    def close(self) -> None:
        self._appender.close()


def settings_path(path: Path) -> Path:
    """The file beside a rollout file that says what it was sampled with."""
    return path.with_name(path.name + ".run.json")


def digest(prompt: Any) -> str:
    """16 hex digits that stand for a prompt's ids."""
    return hashlib.blake2b(np.asarray(prompt, "<i8").tobytes(), digest_size=8).hexdigest()


def fingerprint(params: Any) -> str:
    """16 hex digits that stand for every bit of the parameters, however they are laid out over devices."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    sums = to_host(_sums(params)).tobytes()
    return hashlib.blake2b(json.dumps(paths).encode() + sums, digest_size=8).hexdigest()


@jax.jit
def _sums(params: Any) -> jax.Array:
    """Two weighted sums modulo 2**32 of each leaf's bits: exact, so the order of adding does not matter."""

    def leaf(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
        place, stride = jnp.zeros(x.shape, jnp.uint32), 1
        for axis in reversed(range(x.ndim)):
            place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
            stride *= x.shape[axis]
        mixed = (bits ^ (bits >> 15)) * (place * jnp.uint32(0x9E3779B1) | jnp.uint32(1))
        return jnp.stack([jnp.sum(bits * (2 * place + 1)), jnp.sum(mixed ^ (mixed >> 13))])

    return jnp.stack([leaf(x) for x in jax.tree.leaves(params)])


def _saved(path: Path, beside: Path) -> dict[str, Any]:
    if not beside.exists():
        raise UserError(f"{path}: holds samples, but {beside.name}, which says how they were made, is missing: {MEND}")
    return json_file.read(beside)


def _agree(
    path: Path, saved: Mapping[str, Any], settings: Mapping[str, Any], prompts: Mapping[str, str], known: set[str]
) -> None:
    asked = json.loads(json.dumps(settings))  # tuples as lists, as they are read back
    for name in asked:
        old, new = saved["settings"].get(name), asked[name]
        if old != new:
            raise UserError(f"{path}: was sampled with {name}={old!r}, but now {name}={new!r} is asked for: {MEND}")
    for id, prompt in prompts.items():
        if id in known and saved["prompts"].get(id) != prompt:
            raise UserError(f"{path}: request {id!r} was sampled with another prompt: {MEND}")


def settings_of(params: Any, model: Any, sampling: Any, seed: int, eos: tuple[int, ...]) -> dict[str, Any]:
    """What every sample of a run depends on, beside its prompt."""
    return {
        "seed": seed,
        **{f"sampling.{name}": value for name, value in dataclasses.asdict(sampling).items()},
        "eos": list(eos),
        "model": hashlib.blake2b(repr(model.config).encode(), digest_size=8).hexdigest(),
        "weights": fingerprint(params),
    }
