"""Where a job's model and pairs come from."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console

from rmjax import distributed
from rmjax.data.chat import Chat
from rmjax.data.sources import Source, read_preferences
from rmjax.errors import UserError
from rmjax.models import hf, peft
from rmjax.models.config import EncoderConfig, Lora, Remat
from rmjax.models.model import Model
from rmjax.records import Preference, content_id
from rmjax.sharding import current_mesh

console = Console()
OFF = Lora()
APART = "adapter"  # beside the merged weights of a stage: the adapters that were added to them
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A Hugging Face model."""

    path: str = ""  # a directory, or a hub id (the only thing that is ever downloaded)
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters stay float32
    # chat: the tokenizer's own template; raw: plain text; auto: chat if it has one
    template: Literal["auto", "chat", "raw"] = "auto"
    remat: Remat = "none"  # what of a layer is kept for the backward pass; full: nothing: less memory, more time
    adapter: str = ""  # a LoRA adapter of PEFT's, a directory or a hub id: added to the model's matrices
    # int8: matrices kept in a byte a weight, tables in two; to be scored with, or trained with --lora.rank
    quantise: Literal["none", "int8"] = "none"

    def __post_init__(self) -> None:
        if self.quantise not in ("none", "int8"):
            raise UserError(f"model.quantise={self.quantise!r}: not one of none, int8")

    def directory(self) -> Path:
        """The local directory; a hub id is downloaded.

        Raises:
          UserError: no path, or neither a directory nor a hub id.
        """
        if not self.path:
            raise UserError("--model.path is empty: give a Hugging Face directory or a hub id")
        return fetched(self.path, "--model.path", "config.json")

    def network(self, lora: Lora = OFF) -> tuple[Model, Any]:
        """The model, with or without a head, and its parameters, laid out over the mesh that is set.

        Args:
          lora: of the adapters that will be trained. Beside them matrices are kept in bfloat16 where activations are,
            which changes nothing that is computed; else parameters are float32, or what `quantise` says.

        Raises:
          UserError: `directory`'s and the loaders' errors.
        """
        directory, mesh = self.directory(), current_mesh()
        weights = "int8" if self.quantise == "int8" else self.dtype if lora.rank else "float32"
        model = hf.load_model(directory).with_config(dtype=self.dtype, remat=self.remat, weights=weights)
        if not self.adapter:
            return model, hf.load_params(directory, model, mesh=mesh)
        return peft.load_merged(fetched(self.adapter, "--model.adapter", peft.CONFIG), directory, model, mesh=mesh)

    def require_own_weights(self, why: str) -> None:
        """Raises UserError where what is loaded is not what the directory holds."""
        for name, value, usual in (("adapter", self.adapter, ""), ("quantise", self.quantise, "none")):
            if value != usual:
                raise UserError(f"--model.{name} {value}: {why}; leave it out")

    @property
    def origin(self) -> dict[str, str]:
        """What of the source an export keeps."""
        adapter = {"adapter": self.adapter} if self.adapter else {}
        return {"base": self.path, **adapter, **({} if self.quantise == "none" else {"quantise": self.quantise})}

    def plain(self, path: Path | str) -> ModelSource:
        """Of a directory that was exported with the model: whole, with its own contract."""
        return ModelSource(path=str(path), dtype=self.dtype, remat=self.remat)

    def load(self, lora: Lora = OFF) -> tuple[Model, Any, Chat]:
        """A language model, its parameters (`network`) and its token contract.

        Raises:
          UserError: `directory`'s and the loaders' errors, or an encoder, which cannot write.
        """
        directory = self.directory()
        if isinstance(hf.load_model(directory).config, EncoderConfig):
            raise UserError(
                f"--model.path {self.path}: an encoder cannot write, and this job needs a language model; encoders are "
                "for jobs of scalar reward models, such as train, head, score, strength and curve"
            )
        model, params = self.network(lora)
        chat = Chat.load(directory, template=self.template)
        chat.require_vocab(model.config.vocab)
        return model, params, chat

    def of_stage(self, path: Path, lora: Lora = OFF) -> tuple[Model, Any, Chat]:
        """What a stage of a job handed on in `path`; where `path` is this source's own directory, what `load` gives.

        Adapters that the stage kept (`keep_adapters`) are put beside the base again, to be used and trained further:
        rounded to int8 with the weights that they were added to, small changes would be lost.
        """
        if path == self.directory():
            return self.load(lora)
        if not distributed.first((path / APART).is_dir):
            return dataclasses.replace(self, path=str(path), adapter="").load(lora)
        model, params, chat = self.load(lora)
        return *peft.load(path / APART, model, params, mesh=current_mesh()), chat

    def keep_adapters(self, path: Path, model: Model, params: Any) -> None:
        """Writes the adapters of a stage's model, where it has any, beside its merged weights, for `of_stage`."""
        if model.config.lora is not None:
            peft.save(path / APART, model, params, base=self.path)


def fetched(path: str, flag: str, holds: str) -> Path:
    """The local directory of a path or hub id; a hub id is downloaded. UserError where it is neither."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise UserError(f"{flag} {path} is a file: give the directory that holds {holds}")
    if not HUB_ID.match(path) or path.startswith((".", "/")):
        raise UserError(f"{flag} {path}: no such directory, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt"]
        return Path(snapshot_download(path, allow_patterns=wanted))
    except Exception as e:  # the hub raises many types; the user needs the one line
        raise UserError(f"{flag} {path}: no such directory, and the hub says: {str(e).splitlines()[0]}") from e


def with_adapters(model: Model, params: Any, lora: Lora, *, seed: int) -> tuple[Model, Any]:
    """The model with new adapters to train, where a rank is given and it has none yet; else as it is."""
    if not lora.rank or model.config.lora is not None:
        return model, params
    return model.with_adapters(params, lora, jax.random.key(seed), mesh=current_mesh())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairFile:
    """A file of labelled pairs."""

    path: str = ""  # .jsonl, .jsonl.gz, .json, .parquet or hub:owner/name[:split]; schemas: docs/data.md
    schema: str = "auto"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # schema's column -> the file's
    ignore: tuple[str, ...] = ()  # columns to leave out
    invalid: Literal["error", "drop"] = "error"  # lines that are no record of the schema
    duplicate: Literal["error", "drop"] = "error"  # pairs that were there before
    empty: Literal["error", "drop"] = "error"  # pairs with an empty answer
    identical: Literal["error", "drop"] = "error"  # pairs with equal answers
    tie: Literal["error", "drop"] = "error"  # pairs labelled a tie: no verdict on them is right or wrong
    limit: int = 0  # use only the first so many pairs; 0: all

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise UserError(f"--data.limit {self.limit}: give a number of pairs, or 0 for all")

    def read(self) -> Source:
        """The pairs by these policies, with the schema found, counts of what was dropped and the file's hash."""
        if not self.path:
            raise UserError("--data.path is empty: give a file of labelled pairs (docs/data.md lists the schemas)")
        source = read_preferences(
            self.path,
            schema=self.schema,
            columns=self.columns,
            ignore=self.ignore,
            invalid=self.invalid,
            empty=self.empty,
            identical=self.identical,
            duplicate=self.duplicate,
        )
        even = [p for p in source.records if p.tie]
        if even and self.tie == "error":
            raise UserError(
                f"{self.path}: {len(even)} of {len(source.records)} pairs are labelled ties (first: {even[0].id!r}), "
                "on which no verdict is right: --data.tie drop leaves them out"
            )
        if even and self.tie == "drop":
            left = [p for p in source.records if not p.tie]
            source = dataclasses.replace(source, records=left, dropped={**source.dropped, "tie": len(even)})
        console.print(f"{self.path}: {len(source.records):,} pairs, schema {source.schema}{dropped(source)}")
        return dataclasses.replace(source, records=source.records[: self.limit]) if self.limit else source


def dropped(source: Source) -> str:
    """What the reader dropped, in words."""
    return "".join(f", {n:,} dropped ({why})" for why, n in source.dropped.items() if n)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(PairFile):
    """Labelled pairs: a training file and what is held out."""

    # pairs labelled a tie; half: kept to train on, as the soft label 1/2, by jobs that can learn from one; held-out
    # ties are left out, since no verdict on them is right or wrong
    tie: Literal["error", "drop", "half"] = "error"
    eval_path: str = ""  # held-out pairs; empty: a tenth of `path`, by a hash of the prompt
    eval_limit: int = 0  # use only the first so many held-out pairs; 0: all

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_limit < 0:
            raise UserError(f"--data.eval-limit {self.eval_limit}: give a number of pairs, or 0 for all")

    def load(self) -> tuple[list[Preference], list[Preference], dict[str, str]]:
        """(training pairs, held-out pairs, data hashes).

        Raises:
          UserError: no path, unreadable data, nothing to train on or to evaluate on, or a held-out pair is trained on.
        """
        source = dataclasses.replace(self, limit=0).read()
        hashes = {self.path: source.hash}
        if self.eval_path:
            tie = "drop" if self.tie == "half" else self.tie
            held = dataclasses.replace(self, path=self.eval_path, limit=0, tie=tie).read()
            hashes[self.eval_path] = held.hash
            train, test = source.records, held.records
        else:
            train, whole = split_by_prompt(source.records)
            test = [p for p in whole if not p.tie]
            if len(test) < len(whole):
                console.print(f"held-out pairs: {len(whole) - len(test):,} ties left out: no verdict on them is right")
        train = train[: self.limit] if self.limit else train
        test = test[: self.eval_limit] if self.eval_limit else test
        if not train or not test:
            raise UserError(
                f"--data.path {self.path}: {len(train)} training and {len(test)} held-out pairs are left of "
                f"{len(source.records)}: give more pairs, or --data.eval_path"
            )
        halves(train, self.path)
        content = lambda pairs: {content_id(p.prompt, *sorted((p.chosen, p.rejected))) for p in pairs}
        both = content(train) & content(test)
        if both:
            raise UserError(
                f"--data.eval_path {self.eval_path}: {len(both)} pairs are in --data.path too: remove them from one"
            )
        return train, test, hashes

    def labels(self, train: Sequence[Preference], held: Sequence[Preference]) -> dict[str, int]:
        """File -> labelled pairs of it that a run reads, for its ledger."""
        out = {self.path: len(train)}
        out[self.eval_path or self.path] = out.get(self.eval_path or self.path, 0) + len(held)
        return out


def halves(train: Sequence[Preference], path: str) -> None:
    """Says how many training pairs are ties, that is, soft labels of 1/2.

    Raises:
      UserError: all are, or one has a margin, which says that it is none.
    """
    even = [p for p in train if p.tie]
    if not even:
        return
    if len(even) == len(train):
        raise UserError(f"{path}: all {len(train)} training pairs are ties, which teach no preference; give others too")
    if (odd := next((p for p in even if p.margin), None)) is not None:
        raise UserError(f"{path}: record {odd.id!r} is a tie with margin {odd.margin:g}: mend one of the two columns")
    console.print(f"{path}: {len(even):,} of {len(train):,} training pairs are ties, kept as soft labels of 1/2")


def split_by_prompt(records: Sequence[Preference]) -> tuple[list[Preference], list[Preference]]:
    """Nine tenths and one tenth; all pairs of a prompt fall on one side, whatever else is in the file."""
    held = [_tenth(p) == 0 for p in records]
    return (
        [p for p, h in zip(records, held, strict=True) if not h],
        [p for p, h in zip(records, held, strict=True) if h],
    )


def _tenth(p: Preference) -> int:
    text = "\x1e".join(f"{m.role}\x1f{m.content}" for m in p.prompt)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10
