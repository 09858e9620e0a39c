"""The exact head beside the weights that transformers reads: for heads and poolings that its classes cannot express.

    config.json             field rmjax_head: these files are part of the model
    rmjax_head.json         the head's kind and settings, its pooling, and how near the linear head beside it comes
    rmjax_head.safetensors  its parameters, named by their path: head.weight, ...

transformers reads config.json and model.safetensors, which hold a linear head; rmjax reads all four. An encoder's own
pooler is kept in rmjax_head.safetensors as well: transformers' may have been changed for that linear head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rmjax import json_file
from rmjax.decoding import decode
from rmjax.errors import UserError
from rmjax.models.heads import Ensemble, HeadConfig, Linear, Mlp, Prototypes
from rmjax.models.model import Model, Params, lookup
from rmjax.models.pooling import Pool

FIELD = "rmjax_head"
JSON, TENSORS = "rmjax_head.json", "rmjax_head.safetensors"
FORMAT = 1
POOLER = ("pool_weight", "pool_bias")  # of an encoder's parameters
MEND = "copy the exported directory whole, or export the model again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactHead:
    """What rmjax_head.json says."""

    head: HeadConfig
    pool: Pool
    pooler: bool  # whether the encoder has a pooler of its own
    nearest: Mapping[str, Any]  # how near transformers' linear head comes


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandIn:
    """A model with a linear head, which transformers can express, for one with a head that it cannot."""

    model: Model
    params: Params
    nearest: Mapping[str, Any]  # how near it comes: JSON


def part(model: Model, params: Params) -> dict[str, Any]:
    """The parameters that rmjax_head.safetensors holds, by name."""
    return {name: lookup(params, name.split(".")) for name in names(model)}


def write(folder: Path, model: Model, tensors: Mapping[str, np.ndarray], nearest: Mapping[str, Any]) -> None:
    """Writes both files. `tensors` are `part`'s, whole and on the host."""
    pooler = bool(getattr(model.config, "pooler", False))
    kind = _written(model.head)
    json_file.write(
        folder / JSON,
        {"format": FORMAT, "head": kind, "pool": list(model.pool), "pooler": pooler, "nearest": dict(nearest)},
    )
    (folder / TENSORS).touch()  # save_file puts a file in its place that only its owner may read: keep the usual mode
    mode = (folder / TENSORS).stat().st_mode
    save_file({name: np.array(value, np.float32, order="C") for name, value in tensors.items()}, folder / TENSORS)
    (folder / TENSORS).chmod(mode)


def names(model: Model) -> list[str]:
    """The tensors of rmjax_head.safetensors."""
    leaves = jax.tree_util.tree_leaves_with_path({"head": model.shapes["head"]})
    own = [f"encoder.{name}" for name in POOLER] if getattr(model.config, "pooler", False) else []
    return [".".join(key.key for key in path) for path, _ in leaves] + own


def read(path: Path) -> ExactHead:
    """The head that a directory's config.json refers to. UserError where the file is missing or says something else."""
    file = path / JSON
    if not file.is_file():
        raise UserError(f"{file}: missing, but config.json says that the exact head is there; {MEND}")
    content = json_file.read(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file}: not a head in format {FORMAT}; {MEND}")
    try:
        head, pool = _read(content["head"], f"{file}: field 'head'"), tuple(content["pool"])
        return ExactHead(head=head, pool=pool, pooler=bool(content["pooler"]), nearest=content["nearest"])
    except (KeyError, TypeError) as e:
        raise UserError(f"{file}: not a head's description ({e}); {MEND}") from e


def load(path: Path, model: Model) -> Mapping[str, np.ndarray]:
    """The tensors of rmjax_head.safetensors by name, float32.

    Raises:
        UserError: the file is missing or damaged, or a tensor is missing, unknown or of another shape.
    """
    file = path / TENSORS
    if not file.is_file():
        raise UserError(f"{file}: missing, but config.json says that the exact head is there; {MEND}")
    try:
        found = load_file(file)
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"{file}: not a readable safetensors file ({e}); {MEND}") from e
    wanted = names(model)
    if stray := sorted(set(found) ^ set(wanted)):
        raise UserError(f"{file}: tensor {stray[0]!r} is {'unknown' if stray[0] in found else 'missing'}; {MEND}")
    for name in wanted:
        shape = lookup(model.shapes, name.split(".")).shape
        if found[name].shape != shape:
            raise UserError(f"{file}: tensor {name!r} has shape {list(found[name].shape)}, not {list(shape)}; {MEND}")
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _written(head: HeadConfig) -> dict[str, Any]:
    fields = {f.name: getattr(head, f.name) for f in dataclasses.fields(head)}
    fields |= {name: _written(value) for name, value in fields.items() if dataclasses.is_dataclass(value)}
    return {"kind": type(head).__name__, **fields}


def _read(content: Any, where: str) -> HeadConfig:
    kinds = {kind.__name__: kind for kind in (Linear, Mlp, Prototypes, Ensemble)}
    if not isinstance(content, dict) or content.get("kind") not in kinds:
        raise UserError(f"{where} is none of {', '.join(kinds)}; {MEND}")
    kind, fields = kinds[content["kind"]], {name: value for name, value in content.items() if name != "kind"}
    if kind is Ensemble and "of" in fields:
        fields["of"] = _read(fields["of"], f"{where}.of")
        return Ensemble(**fields)
    return decode(fields, kind, where)
