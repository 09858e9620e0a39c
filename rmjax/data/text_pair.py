"""The token contract of encoders: a prompt and an answer as a pair of texts, in the ids that transformers gives them.

    [CLS] prompt [SEP] answer [SEP]        token types: 0 up to the first [SEP], 1 after it

`TextPair.prompt_ids(messages) + completion_ids(answer)` is `tokenizer(prompt_text(messages), answer)["input_ids"]`, so
an exported model gives the same scores there. That holds for the names of special tokens too: like transformers, and
unlike `Chat`, "[SEP]" within a text is read as the token. An empty answer keeps its [SEP], where transformers, given
"", reads the prompt as a single text.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rmjax.data.chat import raw_text
from rmjax.data.contract import TokenContract, load_tokenizer, saved_contract, short_hash
from rmjax.data.limits import Limited
from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.records import Messages

ENDLESS = 10**9  # transformers' model_max_length where a tokenizer names none is far above it
LEAST = 8  # tokens; a shorter pair has no room for a prompt and an answer


class TextPair(TokenContract):
    """A tokenizer of the BERT family, and the most tokens that a pair of texts may have."""

    def __init__(self, tokenizer: Any, *, length: int = 0):
        """`length`: the most tokens of a pair; 0: the tokenizer's own limit.

        Raises UserError for a tokenizer that joins two texts in another way, and for a length that is none.
        """
        super().__init__(tokenizer)
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        if cls is None or sep is None or tokenizer.pad_token_id is None:
            raise UserError("the tokenizer has no [CLS], [SEP] or padding token; an encoder's tokenizer has all three")
        self.bos, self.end, self.eos, self.pad = cls, sep, (sep,), tokenizer.pad_token_id
        if not length and tokenizer.model_max_length > ENDLESS:
            raise UserError("the tokenizer names no model_max_length; give a length (the model's max_positions)")
        self.length: int = length or tokenizer.model_max_length
        if self.length < LEAST:
            raise UserError(f"length={self.length}: a prompt and an answer need at least {LEAST} tokens")
        one, two = self.text_ids("a"), self.text_ids("b")
        pair = tokenizer("a", "b", return_token_type_ids=True)
        ids, types = [cls, *one, sep, *two, sep], [0] * (len(one) + 2) + [1] * (len(two) + 1)
        if pair["input_ids"] != ids or pair["token_type_ids"] != types:
            raise UserError(
                f"the tokenizer joins two texts as {pair['input_ids']} of types {pair['token_type_ids']}, "
                f"not as BERT's [CLS] a [SEP] b [SEP]; use a model of the BERT family"
            )

    @classmethod
    def load(cls, path: str | os.PathLike, *, length: int = 0, vocab: int | None = None) -> TextPair:
        """Loads a directory or hub id and checks it against the contract saved there, if any.

        A saved contract settles the length where it is 0; `vocab` is the model's (`require_vocab`). Raises UserError.
        """
        saved = saved_contract(path)
        if saved is not None and not length:
            length = saved.get("length", 0)
        pair = cls(load_tokenizer(path), length=length)
        pair.check(path)
        if vocab is not None:
            pair.require_vocab(vocab)
        return pair

    def prompt_text(self, messages: Messages) -> str:
        """What stands before the answer: a lone user message as it is, a conversation in the raw template's words."""
        if len(messages) == 1 and messages[0].role == "user":
            return messages[0].content
        return raw_text([{"role": m.role, "content": m.content} for m in messages])

    def prompt_ids(self, messages: Messages) -> list[int]:
        """[CLS] prompt [SEP]. Raises UserError for a role that the raw template does not know."""
        return [self.bos, *self.text_ids(self.prompt_text(messages)), self.end]

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text, nothing added."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def contract(self) -> dict[str, Any]:
        return {
            "template": "pair",
            "template_hash": short_hash("pair-2"),
            "tokenizer_hash": self.tokenizer_hash(),
            "bos": self.bos,
            "end": self.end,
            "eos": list(self.eos),
            "vocab": self.vocab,
            "length": self.length,
        }

    def cut(self, groups: Sequence[Group]) -> Limited:
        """Groups whose every prompt with an answer fits `length`; `dropped` counts the groups that were cut.

        Of an over-long pair the prompt loses its front ([CLS] and the [SEP] stay), as little as it takes, but keeps a
        quarter of `length`: an answer without its question cannot be judged. Where that is not enough, the answer loses
        its end. Each answer is cut by itself, so its score does not depend on what it is compared with. Counted:
        "prompt_cut" and "answer_cut" groups; none is dropped.
        """
        out, counts = [], Counter()
        for group in groups:
            over = [max(0, len(group.prompt) + len(ids) - self.length) for ids in group.completions]
            if any(over):
                spare = max(0, len(group.prompt) - max(2, self.length // 4))
                skip = [min(n, spare) for n in over]
                rest = [n - s for n, s in zip(over, skip, strict=True)]
                kept = [
                    [*ids[: len(ids) - 1 - n], ids[-1]] if n else ids
                    for n, ids in zip(rest, group.completions, strict=True)
                ]
                group = dataclasses.replace(group, completions=kept, skip=skip)
                counts["prompt_cut"] += any(skip)
                counts["answer_cut"] += any(rest)
            out.append(group)
        return Limited(out, list(range(len(out))), {k: n for k, n in counts.items() if n})
