"""Adapters as PEFT's files, adapter_config.json and adapter_model.safetensors, in and out.

Their A and B of a matrix [outputs, inputs] are [rank, inputs] and [outputs, rank], one of each a layer; their scaling
is `Lora.scale`. A reward head, and an encoder's pooler, are whole modules beside them ("modules_to_save").
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rmjax import distributed, json_file
from rmjax.errors import UserError
from rmjax.models import bert, hf
from rmjax.models.config import TARGETS, EncoderConfig, Lora
from rmjax.models.heads import Linear
from rmjax.models.lora import plain
from rmjax.models.model import Model, Params, join, lookup, partition, place
from rmjax.models.tensors import read_object
from rmjax.models.weights import TABLES, Tensor, layout
from rmjax.sharding import to_host, tree_shardings

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# What other fields of adapter_config.json may be; a field that is not here changes no score.
USUAL: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal"),  # the others change the base's weights
    **{
        name: (False, None, {}, [])
        for name in (
            "use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern",
            "layers_to_transform", "layer_replication", "trainable_token_indices", "target_parameters",
            "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
            "megatron_config", "loftq_config",
        )
    },
}  # fmt: skip
HEADS = {"score.weight", "classifier.weight", "classifier.bias", "pooler.dense.weight", "pooler.dense.bias"}


def save(path: Path, model: Model, params: Params, *, base: str) -> None:
    """Writes a directory that `peft.PeftModel.from_pretrained` loads upon the base that the adapters were trained on.

    Every process must call it; process 0 writes.

    Args:
      base: the base's directory or hub id, kept as `base_model_name_or_path`.

    Raises:
      UserError: a head that transformers has no class for, or the place cannot be written.
    """
    if model.head is not None and not hf.expressible(model):
        raise UserError(f"{path}: transformers has no class for this head, so an adapter cannot hold it")
    encoder, lora = isinstance(model.config, EncoderConfig), model.config.lora
    tensors = {}
    for row, layer in _rows(model, _names(model)):
        value = to_host(lookup(params, row.keys))
        tensors[PREFIX + row.name] = row.write(value if layer is None else value[layer]).astype(np.float32)
    if encoder and model.head is not None and not model.head.bias:
        tensors[PREFIX + bert.BIAS] = np.zeros(1, np.float32)  # their classifier always has one
    modules = [row.name.removesuffix(".weight") for row in _matrices(model).values()]
    if encoder:  # a list would match by the ends of names, and output.dense ends attention.output.dense
        inside = "|".join(name.split("{l}.")[1].replace(".", r"\.") for name in modules)
        wanted: Any = rf"(bert\.)?encoder\.layer\.\d+\.({inside})"
    else:
        wanted = [name.rsplit(".", 1)[1] for name in modules]
    kept = (["classifier", "pooler"] if encoder else ["score"]) if model.head is not None else None
    task = "SEQ_CLS" if model.head is not None else "FEATURE_EXTRACTION" if encoder else "CAUSAL_LM"
    config = {
        "peft_type": "LORA", "task_type": task, "base_model_name_or_path": base, "inference_mode": True,
        "r": lora.rank, "lora_alpha": lora.alpha, "use_rslora": lora.rslora, "lora_dropout": 0.0, "bias": "none",
        "target_modules": wanted, "modules_to_save": kept, "fan_in_fan_out": False, "use_dora": False,
    }  # fmt: skip
    if distributed.writes():
        try:
            path.mkdir(parents=True, exist_ok=True)
            json_file.write(path / CONFIG, config)
            save_file(tensors, path / TENSORS, metadata={"format": "pt"})
        except (OSError, SafetensorError) as e:
            raise UserError(f"{path}: the adapter cannot be saved: {e}; make room or choose another place") from e
    distributed.agree(None)  # the others may read it now


def load(path: Path, model: Model, params: Params, *, mesh: Mesh | None = None) -> tuple[Model, Params]:
    """A base with an adapter of a directory beside its matrices; its head, where it holds one, takes the base's place.

    Raises:
      UserError: the files are missing or damaged, do not fit the base, or ask for what is not supported.
    """
    adapted, new = read(path, model)
    return adapted, _together(path, adapted, params, _placed(adapted, new, mesh))


def load_merged(path: Path, base: Path, model: Model, *, mesh: Mesh | None = None) -> tuple[Model, Params]:
    """A base's directory with an adapter added to its matrices, before they are stored as `model` keeps them.

    A head that the adapter holds takes the base's place. Raises UserError: as `load` and `hf.load_params`.
    """
    adapted, new = read(path, model)
    lora = adapted.config.lora

    def change(keys: tuple[str, ...], value: np.ndarray) -> np.ndarray:
        adapter = functools.reduce(lambda tree, key: tree.get(key, {}), (*keys[:-1], "lora", keys[-1]), new)
        return plain({keys[-1]: value, "lora": {keys[-1]: adapter}}, keys[-1:], lora, np) if adapter else value

    params = hf.load_params(base, model, mesh=mesh, change=change)
    whole = adapted.with_config(lora=None)
    rest = partition(new, lambda keys: "lora" not in keys)[0]
    return whole, _together(path, whole, params, _placed(whole, rest, mesh))


def read(path: Path, model: Model) -> tuple[Model, Params]:
    """An adapter's model, upon a base, and its own parameters: float32, on the host (errors: `load`)."""
    raw, where = read_object(path / CONFIG), path / CONFIG
    if raw.get("peft_type") != "LORA":
        raise UserError(f"{where}: peft_type {raw.get('peft_type')!r} is not supported; only LORA is")
    for name, usual in USUAL.items():
        if name in raw and raw[name] not in usual:
            raise UserError(f"{where}: {name}={raw[name]!r} is not supported; merge the adapter with peft, load that")
    found = _tensors(path)
    if odd := sorted(n for n in found if not n.endswith(("lora_A.weight", "lora_B.weight")) and _short(n) not in HEADS):
        raise UserError(
            f"{path / TENSORS}: tensor {odd[0]!r} ({len(odd)} in all) is no part of an adapter that is supported: "
            "low-rank matrices of attention and MLP, a reward head, a pooler"
        )
    config = dataclasses.replace(model.config, lora=_lora(raw, where, found, model))
    head, pool = model.head, model.pool
    if heads := {_short(name) for name in found} & HEADS:
        encoder = isinstance(config, EncoderConfig)
        head, pool = Linear(bias=encoder), ("pooler",) if encoder else ("last",)
        if encoder:
            config = dataclasses.replace(config, pooler=config.pooler or "pooler.dense.weight" in heads)
    adapted = Model.of(config, head, pool)
    new: Params = {}
    used = set()
    mend = "use the base that the adapter was trained on"
    for row, layer in _rows(adapted, found):
        if row.name not in found:
            raise UserError(f"{path / TENSORS}: tensor {row.name!r} is missing; every layer needs its adapters")
        shape = lookup(adapted.shapes, row.keys).shape
        one = shape if layer is None else shape[1:]
        if found[row.name].shape != row.their_shape(one):
            raise UserError(
                f"{path / TENSORS}: tensor {row.name!r} has shape {list(found[row.name].shape)}, rank "
                f"{config.lora.rank} and the base ask for {list(row.their_shape(one))}; {mend}"
            )
        if layer in (None, 0):
            hf.put(new, row.keys, np.empty(shape, np.float32))
        lookup(new, row.keys)[... if layer is None else layer] = row.read(found[row.name].astype(np.float32), one)
        used.add(row.name)
    if left := sorted(found.keys() - used):
        raise UserError(f"{path / TENSORS}: tensor {left[0]!r} ({len(left)} in all) has no place in the base; {mend}")
    return adapted, new


def _placed(model: Model, new: Params, mesh: Mesh | None) -> Params:
    shardings = None if mesh is None else tree_shardings(model.axes, model.shapes, mesh)
    at = lambda path: None if shardings is None else lookup(shardings, [key.key for key in path])
    return jax.tree_util.tree_map_with_path(lambda path, value: place(value, at(path)), new)


def _together(path: Path, model: Model, params: Params, new: Params) -> Params:
    """The base's parameters with new ones beside or instead of them. UserError where that is not the model."""
    written = {tuple(key.key for key in keys) for keys, _ in jax.tree_util.tree_leaves_with_path(new)}
    kept = partition(params, lambda keys: keys not in written and not ("head" in new and keys[0] == "head"))[0]
    out = join(kept, new)
    if jax.tree.structure(out) != jax.tree.structure(model.shapes):
        raise UserError(f"{path}: the adapter lacks a part of the reward head; use one that holds head and pooler")
    return out


def _lora(raw: Mapping[str, Any], where: Path, found: Mapping[str, np.ndarray], model: Model) -> Lora:
    """The adapters' settings: their matrices are those that tensors are there for."""
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(f"{where}: r={rank!r}, lora_alpha={alpha!r}: an adapter has a rank and an alpha")
    rows = {row.keys[-1]: row for row in TABLES[model.config.family]}
    there = [t for t, name in TARGETS.items() if name in rows and any(map(_of(rows[name]).search, found))]
    if not there:
        raise UserError(f"{where.parent / TENSORS}: none of its tensors belongs to a {model.config.family} model")
    whole = [t for t, name in TARGETS.items() if name in rows]
    targets = () if there == whole else tuple(there)
    return Lora(rank=rank, alpha=float(alpha), rslora=bool(raw.get("use_rslora", False)), targets=targets)


def _of(row: Tensor) -> re.Pattern[str]:
    """The names of a matrix's low-rank tensors; of an encoder, output.dense ends attention.output.dense, too."""
    before, after = map(re.escape, row.name.removesuffix("weight").split("{l}"))
    return re.compile(rf"{before}\d+{after}lora_")


def _matrices(model: Model) -> dict[str, Tensor]:
    """Our names of the adapted matrices, with their rows of the family's table."""
    rows = {row.keys[-1]: row for row in TABLES[model.config.family]}
    backbone = "encoder" if isinstance(model.config, EncoderConfig) else "decoder"
    return {name: rows[name] for name in model.shapes[backbone]["blocks"]["lora"]}


def _rows(model: Model, names: Any) -> Iterator[tuple[Tensor, int | None]]:
    """Every tensor of an adapter of this model, one layer after the other: its row, with the layer in its name.

    Args:
      names: of the tensors in the file, which say how an encoder's begin and whether its pooler is among them.
    """
    start = bert.PREFIX if any(name.startswith(bert.PREFIX) for name in names) else ""
    for name, row in _matrices(model).items():
        outputs, inputs = (" ".join(group) for group in layout(row.theirs))
        parts = (("A", f"r ({inputs})", f"{inputs} r"), ("B", f"({outputs}) r", f"r {outputs}"))
        for part, theirs, ours in parts:
            path = ".".join((*row.keys[:-1], "lora", name, part.lower()))
            for layer in range(model.config.layers):
                theirs_name = row.name.replace("{l}", str(layer)).removesuffix("weight") + f"lora_{part}.weight"
                yield Tensor(start * row.name.startswith("encoder.") + theirs_name, path, theirs, ours), layer
    for row in TABLES[model.config.family]:
        whole = start + row.name if row.name.startswith("pooler.") else row.name
        if _short(whole) in HEADS and whole in names:
            yield dataclasses.replace(row, name=whole), None


def _names(model: Model) -> set[str]:
    """What of the head is written, and how an encoder's tensors begin."""
    if model.head is None:
        return set()
    if not isinstance(model.config, EncoderConfig):
        return {"score.weight"}
    bias = {bert.BIAS} if model.head.bias else set()
    return bias | {"classifier.weight", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def _short(name: str) -> str:
    return name.removeprefix(bert.PREFIX)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    if not (path / TENSORS).is_file():
        raise UserError(f"{path / TENSORS}: missing; save the adapter as safetensors")
    try:
        found = load_file(path / TENSORS)
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"{path / TENSORS}: not a readable safetensors file ({e}); download it again") from e
    return {name.removeprefix(PREFIX): value for name, value in found.items()}
