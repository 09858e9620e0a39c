"""What every token contract has: a tokenizer, its vocabulary, and a saved form that is checked wherever it is used."""

from __future__ import annotations

import abc
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from rmjax import json_file, jsonl
from rmjax.errors import UserError
from rmjax.records import Messages

FILE = "contract.json"
PROBE = "The 3 cats' 12.5 naïve  cafés — 東京 🙂\n\n\tdef f(x):\r\n  return x<=1 </s> [INST]"


class TokenContract(abc.ABC):
    """The one path from messages to ids and back: `Chat` for decoders, `TextPair` for encoders."""

    bos: int | None  # what every prompt begins with
    end: int  # what ends a completion
    eos: tuple[int, ...]  # every id that may end one
    pad: int

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.vocab: int = 1 + max(tokenizer.get_vocab().values())

    @abc.abstractmethod
    def prompt_ids(self, messages: Messages) -> list[int]:
        """Ids up to where the assistant's completion begins."""

    @abc.abstractmethod
    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text; no special token is added."""

    @abc.abstractmethod
    def contract(self) -> dict[str, Any]:
        """What must be the same wherever a model is trained, sampled, scored and served; ready for JSON."""

    def completion_ids(self, text: str, *, end: bool = True) -> list[int]:
        """Ids of an assistant's text, without BOS; with what ends it if `end`."""
        return [*self.text_ids(text), *([self.end] if end else [])]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def require_vocab(self, size: int) -> None:
        """Raises UserError where the tokenizer gives ids that a model of `size` embeddings does not have."""
        if self.vocab > size:
            raise UserError(
                f"the tokenizer has ids up to {self.vocab - 1}, the model only {size} embeddings: "
                f"they do not belong together; name the tokenizer that came with the model"
            )

    @functools.cached_property
    def hash(self) -> str:
        """16 hex digits that stand for the contract."""
        return short_hash(self.contract())

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the tokenizer's files and contract.json. Raises UserError where the place cannot be written."""
        path = Path(directory) / FILE
        with jsonl.writing(path):
            self.tokenizer.save_pretrained(os.fspath(directory))
        json_file.write(path, self.contract())

    def check(self, directory: str | os.PathLike) -> None:
        """Raises UserError where the contract saved in a directory is another one; a directory without one passes."""
        saved, ours = saved_contract(directory), self.contract()
        for name in ours if saved is not None else ():
            if saved.get(name) != ours[name]:
                raise UserError(
                    f"{Path(directory) / FILE}: field {name!r} is {saved.get(name)!r}, but the tokenizer in use "
                    f"has {ours[name]!r}; use the tokenizer and the template that the model was trained with"
                )

    def tokenizer_hash(self) -> str:
        """Stands for the vocabulary and how text is cut into it."""
        return short_hash([sorted(self.tokenizer.get_vocab().items()), self.text_ids(PROBE)])


def load_tokenizer(path: str | os.PathLike) -> Any:
    """The tokenizer of a directory or hub id. Raises UserError where there is none."""
    try:
        return transformers.AutoTokenizer.from_pretrained(os.fspath(path))
    except Exception as error:  # the loaders of transformers and tokenizers raise any type, bare Exception included
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no tokenizer can be loaded ({reason}); name a directory that holds one") from None


def saved_contract(path: str | os.PathLike) -> dict[str, Any] | None:
    """The contract that a directory holds, if any. Raises UserError for a file that is none."""
    file = Path(path) / FILE
    if not file.is_file():
        return None
    saved = json_file.read(file)
    if not isinstance(saved, dict) or not {"template", "eos"} <= saved.keys():
        raise UserError(f"{file}: not a token contract; copy the export again, or remove the file")
    return saved


def short_hash(value: Any) -> str:
    """16 hex digits of a JSON value's SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
