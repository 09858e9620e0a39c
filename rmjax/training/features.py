"""Features of a frozen trunk: computed once by packed forward passes, kept on disk.

    DIR/<key>/00000.npy   [2, n, f] float32: chosen and rejected features of the first SHARD pairs
    DIR/<key>/00000.json  the hash of that file's bytes, written after it

`key` stands for everything that decides a feature: every bit of the parameters, the model's config (but for `FREE`),
its pooling, the token contract, and each pair's id, prompt and answers in order. Files are written whole and renamed,
so a killed run goes on at the first shard that is missing. A shard whose bytes are not those that were written (a copy
cut short, a bad disk) is computed again, and that is said; it is never read. NaN and infinite features are refused
before they are kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console

from rmjax import json_file, jsonl
from rmjax.data.features import Features
from rmjax.data.limits import require_context
from rmjax.data.rows import Group
from rmjax.data.text_pair import TextPair
from rmjax.errors import UserError
from rmjax.models.model import Model, Params
from rmjax.models.pooling import pooled
from rmjax.objectives.reference import packed_scores
from rmjax.records import Preference

console = Console()
SHARD = 2048  # pairs a file
FREE = ("frozen", "remat")  # fields of a model's config that change no feature


def groups_of(contract: Any, items: Sequence[Preference]) -> list[Group]:
    """One group a pair; an encoder's over-long ones are cut, as its contract says (the job counts them)."""
    groups = [
        Group(
            id=p.id,
            prompt=contract.prompt_ids(p.prompt),
            completions=[contract.completion_ids(p.chosen), contract.completion_ids(p.rejected)],
        )
        for p in items
    ]
    return list(contract.cut(groups).groups) if isinstance(contract, TextPair) else groups


def compute(
    model: Model, params: Params, contract: Any, items: Sequence[Preference], *, batch: int = 8
) -> Float[np.ndarray, "2 n f"]:
    """Pooled features of chosen and rejected answers.

    Args:
        contract: the model's token contract (`Chat` or `TextPair`).
        batch: packed rows a forward pass.

    Raises:
        UserError: an item that is longer than the model can read and that the contract does not cut; a value that is
            not finite.
    """
    if not items:
        raise UserError("features of no pairs: give at least one")
    groups = groups_of(contract, items)
    require_context(groups, model.context)
    found = np.stack(
        packed_scores(model, params, groups, pooled, [2] * len(groups), batch=batch, name="features"), axis=1
    )
    Features(tuple(p.id for p in items), found[0], found[1]).require_finite()
    return found.astype(np.float32)


def key_of(model: Model, params: Params, contract: Any, items: Sequence[Preference]) -> str:
    """32 hex digits that stand for all that decides the features."""
    total = hashlib.blake2b(digest_size=16)
    config = {f.name: repr(getattr(model.config, f.name)) for f in dataclasses.fields(model.config)}
    config = {name: value for name, value in config.items() if name not in FREE}
    facts = {"format": 2, "config": config, "pool": list(model.pool), "contract": contract.contract()}
    total.update(json.dumps(facts, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path({k: v for k, v in params.items() if k != "head"}):
        total.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
    for p in items:
        turns = [[m.role, m.content] for m in p.prompt]
        total.update(json.dumps([p.id, turns, p.chosen, p.rejected]).encode() + b"\n")
    return total.hexdigest()


def cached(
    folder: str | Path, model: Model, params: Params, contract: Any, items: Sequence[Preference], *, batch: int = 8
) -> Features:
    """Features from the cache in `folder`, computed and kept where they are not there. Raises UserError (`compute`)."""
    place = Path(folder) / key_of(model, params, contract, items)

    def shard(start: int) -> Float[np.ndarray, "2 n f"]:
        part = items[start : start + SHARD]
        make = lambda: compute(model, params, contract, part, batch=batch)
        return kept(place / f"{start // SHARD:05d}.npy", make, shape=(2, len(part), model.features))

    if not items:
        raise UserError("features of no pairs: give at least one")
    both = np.concatenate([shard(start) for start in range(0, len(items), SHARD)], axis=1)
    return Features(tuple(p.id for p in items), both[0], both[1])


def kept(path: Path, make: Callable[[], np.ndarray], *, shape: tuple[int, ...]) -> np.ndarray:
    """The array in `path`, or what `make` returns, which is then written; a damaged file is said and made anew."""
    note = path.with_suffix(".json")
    if note.exists():
        array, why = _read(path, note, shape)
        if array is not None:
            return array
        console.print(f"feature cache: {path} {why}; computing it again")
    array = make()
    buffer = io.BytesIO()
    np.save(buffer, array)
    with jsonl.writing(path), jsonl.replacing(path) as file:
        file.write(buffer.getvalue())
    json_file.write(note, {"blake2b": _hash(buffer.getvalue()), "shape": list(array.shape)})
    return array


def _read(path: Path, note: Path, shape: tuple[int, ...]) -> tuple[np.ndarray | None, str]:
    """The array, or None and what is wrong with the file."""
    try:
        wanted = json_file.read(note)["blake2b"]
        data = path.read_bytes()
    except (UserError, KeyError, TypeError, OSError) as error:
        return None, f"cannot be read ({error})"
    if _hash(data) != wanted:
        return None, "is damaged (its bytes are not those that were written)"
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return (array, "") if array.shape == shape else (None, f"has shape {array.shape}, not {shape}")


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
