"""Models in and out of Hugging Face directories: config.json, safetensors, generation_config.json, tokenizer."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError

from rmjax import distributed, json_file
from rmjax.errors import UserError
from rmjax.models import bert, head_file
from rmjax.models.config import EncoderConfig
from rmjax.models.families import ARCHITECTURES, read_config, write_config
from rmjax.models.head_file import StandIn
from rmjax.models.heads import Linear
from rmjax.models.lora import plain
from rmjax.models.model import Model, Params, lookup, place
from rmjax.models.quantised import SCALE, stored
from rmjax.models.tensors import TensorFiles, read_object, write_tensors
from rmjax.models.weights import Tensor, ignored, table
from rmjax.sharding import to_host, tree_shardings

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
LINEAR = ("score.weight", "classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias")
Change = Callable[[tuple[str, ...], np.ndarray], np.ndarray]
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def unchanged(keys: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """The value as it is on disk."""
    return value


def load(path: Path | str, *, mesh: Mesh | None = None) -> tuple[Model, Params]:
    """A directory -> (model, float32 parameters). A classifier with one label becomes a model with a linear head.

    Where the directory has an exact head beside its weights (`head_file`), the model has that one.

    Raises:
      UserError: the directory, its config or its weights are missing, unsupported or do not fit each other.
    """
    model = load_model(path)
    return model, load_params(path, model, mesh=mesh)


def load_model(path: Path | str) -> Model:
    """The model that a directory describes, without its parameters (errors: `load`)."""
    path = _directory(path)
    raw = read_object(path / "config.json")
    where = str(path / "config.json")
    config = bert.read_config(raw, where) if raw.get("model_type") == "bert" else read_config(raw, where)
    if isinstance(config, EncoderConfig):
        with TensorFiles(path) as files:
            there = bert.prefix(files.names) + bert.POOLER in files.names
        config = dataclasses.replace(config, pooler=there)
    if not any(name.endswith("ForSequenceClassification") for name in raw.get("architectures") or ()):
        return Model.of(config)
    labels = raw.get("num_labels", len(raw.get("id2label", ("", ""))))  # two: Hugging Face's default
    if labels != 1:
        raise UserError(f"{path / 'config.json'}: a classifier with {labels} labels; a reward model has num_labels 1")
    exact = head_file.read(path) if raw.get(head_file.FIELD) else None
    if isinstance(config, EncoderConfig):
        if exact is not None:
            return Model.of(dataclasses.replace(config, pooler=exact.pooler), exact.head, exact.pool)
        return Model.of(config, Linear(bias=True), pool=("pooler",))
    if not config.tied:
        with TensorFiles(path) as files:
            config = dataclasses.replace(config, lm_head="lm_head.weight" in files.names)
    return Model.of(config, Linear()) if exact is None else Model.of(config, exact.head, exact.pool)


def load_stand_in(path: Path | str) -> tuple[Model, Params]:
    """What transformers reads of a directory: its linear head, whether or not an exact one is beside it."""
    path = _directory(path)
    model = load_model(path)
    if not has_exact_head(path):
        return model, load_params(path, model)
    encoder = isinstance(model.config, EncoderConfig)
    config = dataclasses.replace(model.config, pooler=True) if encoder else model.config
    model = Model.of(config, Linear(bias=encoder), pool=("pooler",) if encoder else ("last",))
    return model, _load_params(path, model, exact=False, mesh=None)


def has_exact_head(path: Path) -> bool:
    """Whether the exact head is in files beside the weights."""
    return bool(read_object(path / "config.json").get(head_file.FIELD))


def expressible(model: Model) -> bool:
    """Whether transformers' classifier of this backbone is the model, head and pooling included."""
    encoder = isinstance(model.config, EncoderConfig)
    plain = isinstance(model.head, Linear) and (encoder or not model.head.bias)
    return plain and model.pool == (("pooler",) if encoder else ("last",))


def load_params(path: Path | str, model: Model, *, mesh: Mesh | None = None, change: Change = unchanged) -> Params:
    """The directory's tensors as `model` keeps its parameters (`config.weights`); with a mesh, laid out over it.

    Adapters are not part of a directory: see `models/peft.py`, `Model.with_adapters`.

    Args:
      change: (path of keys, float32 array) -> what it is before it is stored.

    Raises:
      UserError: a missing or unexpected tensor, or one of another shape, by its file and name.
    """
    path = _directory(path)
    return _load_params(path, model, exact=model.head is not None and has_exact_head(path), mesh=mesh, change=change)


def _load_params(path: Path, model: Model, *, exact: bool, mesh: Mesh | None, change: Change = unchanged) -> Params:
    shardings = None if mesh is None else tree_shardings(model.axes, model.shapes, mesh)
    at = lambda keys: None if mesh is None else lookup(shardings, keys)
    params: Params = {}
    ours = head_file.load(path, model) if exact else {}
    whole = model.with_config(weights="float32", lora=None).shapes
    shapes = {branch: shape for branch, shape in whole.items() if not (exact and branch == "head")}
    with TensorFiles(path) as files:
        encoder = isinstance(model.config, EncoderConfig)
        used = {"lm_head.weight"} if not encoder and model.config.tied else set()  # some hold the tied table twice
        used |= set(LINEAR) if exact else set()  # of the head that stands in for ours
        for row, shape in table(model.config.family, shapes, bert.prefix(files.names) if encoder else ""):
            layers = range(shape[0]) if row.stacked else (None,)
            value = np.empty(shape, np.float32)
            for layer in layers:
                name = row.name.format(l=layer)
                name = bert.spelled(name, files.names) if encoder else name
                one = value if layer is None else value[layer]
                one[...] = row.read(files.get(name, row.their_shape(one.shape)), one.shape)
                used.add(name)
            value = change(row.keys, value)
            for leaf, part in stored(row.keys[-1], value, lookup(model.shapes, row.keys).dtype).items():
                keys = (*row.keys[:-1], leaf)
                put(params, keys, place(part, at(keys)))
        extra = sorted(name for name in files.names - used if not ignored(name))
        if extra:
            raise UserError(
                f"{files.file(extra[0])}: tensor {extra[0]!r} ({len(extra)} in all) is not part of the "
                f"{model.config.family} model in config.json; use the config.json saved with these weights"
            )
    for name, value in ours.items():
        keys = tuple(name.split("."))
        put(params, keys, place(value, at(keys)))
    return params


def save(
    path: Path | str,
    model: Model,
    params: Params,
    *,
    tokenizer: Any = None,
    eos: Sequence[int] = (),
    pad: int | None = None,
    files: Callable[[Path], object] | None = None,
    stand_in: StandIn | None = None,
    dtype: str = "float32",
    max_shard: int = 5 * 2**30,
) -> Path:
    """Writes a directory that transformers loads: a language model or bare encoder, with a head a one-label classifier.

    The directory appears whole or not at all: it is written beside `path`, then renamed. A model that was there is
    replaced. Every process must call it; process 0 writes. A classifier has no output head: an untied one is left out.
    Adapters are added to their matrices, and weights that are kept smaller written as what they stand for.

    Args:
      tokenizer: a transformers tokenizer to save beside the weights; its special tokens go into the configs.
      eos: ids that end a text, where they are not the tokenizer's own.
      pad: the padding id, where it is not the tokenizer's own.
      files: writes further files into the directory that it is given.
      stand_in: what transformers reads, where it has no class for the model; the exact head goes into `head_file`'s.
      dtype: of the tensors on disk: float32, bfloat16 or float16.
      max_shard: bytes per file at most; more than one file gets an index.

    Raises:
      UserError: the place cannot be written or holds something else than a model, or the model has no such form.
    """
    path = Path(path)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} cannot be saved; use one of {', '.join(DTYPES)}")
    theirs, their_params = (model, params) if stand_in is None else (stand_in.model, stand_in.params)
    config = _config(theirs.with_config(weights="float32", lora=None)) | {"dtype": dtype, "torch_dtype": dtype}
    config |= _token_ids(tokenizer, eos, pad)
    if stand_in is not None:
        config[head_file.FIELD] = head_file.JSON
    if path.exists() and not (path.is_dir() and ((path / "config.json").is_file() or not any(path.iterdir()))):
        raise UserError(f"{path}: exists and is not a model directory, so it is not replaced; choose another place")
    # A fixed name, so that a killed run's leftovers are found and removed by the next one.
    work = path.with_name(f".{path.name}.partial") if distributed.writes() else None
    try:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
        _write_params(work, theirs, their_params, np.dtype(DTYPES[dtype]), max_shard)
        exact = None if stand_in is None else jax.tree.map(to_host, head_file.part(model, params))
        if work is not None:
            json_file.write(work / "config.json", config)
            if exact is not None:
                head_file.write(work, model, exact, stand_in.nearest)
            if model.head is None and not isinstance(model.config, EncoderConfig):
                json_file.write(work / "generation_config.json", {name: config[name] for name in TOKEN_IDS})
            if tokenizer is not None:
                tokenizer.save_pretrained(work)
            if files is not None:
                files(work)
            _replace(path, work)
    except (OSError, SafetensorError) as e:
        reason = e.strerror if isinstance(e, OSError) else None
        raise UserError(f"{path}: the model cannot be saved: {reason or e}; make room or choose another place") from e
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    distributed.agree(None)  # the others may read it now
    return path


def _config(model: Model) -> dict[str, Any]:
    """config.json without token ids and dtype."""
    encoder = isinstance(model.config, EncoderConfig)
    out = bert.write_config(model.config) if encoder else write_config(model.config)
    plain, classifier = bert.ARCHITECTURES if encoder else ARCHITECTURES[model.config.family]
    if model.head is None:
        if not encoder and not model.config.lm_head:
            raise UserError("model field lm_head=False: without an output head it cannot be saved as a language model")
        return out | {"architectures": [plain]}
    if not isinstance(model.head, Linear):
        raise UserError(
            f"a {type(model.head).__name__} head has no Hugging Face form: give a linear head to stand in for it "
            "(methods/nearest.py)"
        )
    pool = ("pooler",) if encoder else ("last",)
    if model.pool != pool:
        raise UserError(f"model field pool={model.pool}: a Hugging Face {classifier} reads {pool}; train with that")
    if model.head.bias and not encoder:
        raise UserError(f"model field head.bias=True: a Hugging Face {classifier} has none; train without it")
    one = {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    return out | {"architectures": [classifier]} | one


def _token_ids(tokenizer: Any, eos: Sequence[int], pad: int | None) -> dict[str, Any]:
    """Written even where there are none: the families' defaults are ids of their own tokenizers."""
    ids = {name: None if tokenizer is None else getattr(tokenizer, name) for name in TOKEN_IDS}
    if eos:
        ids["eos_token_id"] = int(eos[0]) if len(eos) == 1 else [int(e) for e in eos]
    if pad is not None:
        ids["pad_token_id"] = int(pad)
    return ids


def _write_params(work: Path | None, model: Model, params: Params, dtype: np.dtype, max_shard: int) -> None:
    rows: dict[str, tuple[Tensor, int | None]] = {}
    sizes: list[tuple[str, int]] = []
    encoder = isinstance(model.config, EncoderConfig)
    shapes, adapters = model.with_config(weights="float32", lora=None).shapes, model.config.lora
    for row, shape in table(model.config.family, shapes, bert.PREFIX if encoder and model.head else ""):
        if model.head is not None and row.name == "lm_head.weight":
            continue
        layers = range(shape[0]) if row.stacked else (None,)
        for layer in layers:
            name = row.name.format(l=layer)
            rows[name] = (row, layer)
            sizes.append((name, int(np.prod(shape)) // len(layers) * dtype.itemsize))

    if encoder and model.head is not None and not model.head.bias:
        sizes.append((bert.BIAS, dtype.itemsize))  # their classifier always has one

    @functools.lru_cache(maxsize=1)  # the layers of a parameter follow each other
    def host(keys: tuple[str, ...]) -> np.ndarray:
        near = lookup(params, keys[:-1])
        here = {name: jax.tree.map(to_host, near[name]) for name in (keys[-1], keys[-1] + SCALE) if name in near}
        adapter = near.get("lora", {}).get(keys[-1])
        here |= {} if adapter is None else {"lora": {keys[-1]: jax.tree.map(to_host, adapter)}}
        return plain(here, keys[-1:], adapters, np)

    def tensor(name: str) -> np.ndarray:
        if name not in rows:
            return np.zeros(1, dtype)
        row, layer = rows[name]
        value = host(row.keys)
        return row.write(value if layer is None else value[layer]).astype(dtype)

    write_tensors(work, sizes, tensor, max_shard)


def _replace(path: Path, work: Path) -> None:
    """Puts `work` at `path`; what was there goes last."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    work.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _directory(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such model directory; give one that holds config.json and model.safetensors")
    return path


def put(tree: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    """Sets the leaf at a path of nested dicts; branches that are missing are made."""
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value
