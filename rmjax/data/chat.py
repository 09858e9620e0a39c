"""The token contract of decoders: the one path from messages to ids and back (encoders: `text_pair.py`).

Ids only: a prompt ends where its ids end, and a completion's ids follow. Nothing is rendered to text and tokenised
again, no boundary is looked for in text, and nothing is inferred from padding ids.

Two templates. "chat" is the tokenizer's own chat template, with its generation prompt. "raw" is for base models:

    <system text>\\n\\nUser:\\n<text>\\n\\nAssistant:\\n<text>\\n\\nUser:\\n<text>\\n\\nAssistant:\\n
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2

from rmjax import json_file
from rmjax.data.contract import TokenContract, load_tokenizer, saved_contract, short_hash
from rmjax.errors import UserError
from rmjax.records import Message, Messages

Template = Literal["auto", "chat", "raw"]
DATE = "26 Jul 2024"  # Llama 3's templates write today's date unless one is given; a prompt must not change overnight
OPEN, CLOSE = "\ue000", "\ue001"  # around a number: stands for a special token's name that occurs in a content


class Chat(TokenContract):
    """A tokenizer with its template, its one BOS rule and its end of turn."""

    def __init__(self, tokenizer: Any, *, template: Template = "auto", eos: Sequence[int] = ()):
        """`eos`: further ids that end a completion. Raises UserError for a tokenizer that has no chat template (with
        template="chat") or no end-of-sequence token."""
        if template not in ("auto", "chat", "raw"):
            raise UserError(f"template={template!r}: use 'auto', 'chat' or 'raw'")
        if template == "chat" and not tokenizer.chat_template:
            raise UserError("template='chat', but the tokenizer has no chat template; use template='raw' or 'auto'")
        super().__init__(tokenizer)
        self.template = ("chat" if tokenizer.chat_template else "raw") if template == "auto" else template
        self._special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._names = (OPEN, *self._special)
        self._named = re.compile("|".join(re.escape(n) for n in sorted(self._names, key=len, reverse=True)))
        self.bos: int | None = self._bos()
        self.end: int = self._end()
        self.eos: tuple[int, ...] = tuple(
            dict.fromkeys(i for i in (self.end, tokenizer.eos_token_id, *eos) if i is not None)
        )
        self.pad: int = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @classmethod
    def load(cls, path: str | os.PathLike, *, template: Template = "auto", vocab: int | None = None) -> Chat:
        """Loads a directory (or a hub id "owner/name") and checks it against the contract saved there, if any.

        A saved contract settles the template where `template` is "auto"; `vocab` is the model's (`require_vocab`).
        Raises UserError.
        """
        saved = saved_contract(path)
        tokenizer = load_tokenizer(path)
        if saved is None:
            chat = cls(tokenizer, template=template, eos=_generation_eos(path))
        else:
            chat = cls(tokenizer, template=saved["template"] if template == "auto" else template, eos=saved["eos"])
            chat.check(path)
        if vocab is not None:
            chat.require_vocab(vocab)
        return chat

    def prompt_ids(self, messages: Messages, *, continue_text: str = "") -> list[int]:
        """Ids up to where the assistant's completion begins; `continue_text` is put there as the beginning of it.

        Exactly one BOS if the family has one. Raises UserError for a conversation that the template refuses.
        """
        ids = self._ids(self._render(messages))
        if self.bos is not None and ids[:1] != [self.bos]:
            ids = [self.bos, *ids]
        extra = ids[1:2] == [self.bos] if self.bos in self.eos else ids.count(self.bos) > 1
        if self.bos is not None and extra:
            raise UserError(f"the prompt has more than one BOS (id {self.bos}): mend the tokenizer's chat template")
        return ids + self.text_ids(continue_text)

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text: no special token is added, and the name of one is read as text."""
        if not text:
            return []
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def contract(self) -> dict[str, Any]:
        """What must be the same wherever a model is trained, sampled, scored and served; ready for JSON."""
        return {
            "template": self.template,
            "template_hash": short_hash(self.tokenizer.chat_template if self.template == "chat" else "raw-1"),
            "tokenizer_hash": self.tokenizer_hash(),
            "bos": self.bos,
            "end": self.end,
            "eos": list(self.eos),
            "vocab": self.vocab,
        }

    def _render(self, messages: Messages) -> str:
        """Text with marks in place of special tokens' names that occur in contents."""
        turns = [{"role": m.role, "content": self._mark(m.content)} for m in messages]
        if self.template == "chat":
            return self._apply(turns, add_generation_prompt=True)
        return raw_text(turns)

    def _apply(self, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, date_string=DATE
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(t["role"] for t in turns)
            raise UserError(
                f"the chat template refuses a conversation of ({roles}): {error}; "
                f"change the roles, or use template='raw'"
            ) from None

    def _mark(self, text: str) -> str:
        return self._named.sub(lambda match: f"{OPEN}{self._names.index(match[0])}{CLOSE}", text)

    def _ids(self, text: str) -> list[int]:
        """Ids of rendered text: the template's special tokens are tokens, those named in a content are text."""
        plain = lambda part: self.tokenizer(part, add_special_tokens=False)["input_ids"] if part else []
        head, *pieces = text.split(OPEN)
        ids = plain(head)
        for piece in pieces:
            number, _, rest = piece.partition(CLOSE)
            ids += self.text_ids(self._names[int(number)]) + plain(rest)
        return ids

    def _bos(self) -> int | None:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return None
        added = self.tokenizer("a")["input_ids"][:1] == [bos]
        rendered = self._ids(self._render((Message("user", "a"),)))[:1] == [bos]
        return bos if added or rendered else None

    def _end(self) -> int:
        """The special token that the template puts after an assistant's turn; else the tokenizer's EOS."""
        if self.template == "chat":
            answer = f"a{OPEN}b"
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
            after = self._apply(turns, add_generation_prompt=False).rpartition(answer)[2]
            special = set(self._special.values())
            for i in self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else ():
                if i in special:
                    return i
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token; set eos_token in its tokenizer_config.json")
        return self.tokenizer.eos_token_id


def raw_text(turns: Sequence[Mapping[str, str]]) -> str:
    """The raw template's text of turns {"role", "content"}, up to where the assistant's next one begins."""
    names = {"system": "", "user": "User:\n", "assistant": "Assistant:\n"}
    for turn in turns:
        if turn["role"] not in names:
            raise UserError(f"role {turn['role']!r}: the raw template knows {', '.join(names)}")
    return "".join(f"{names[t['role']]}{t['content']}\n\n" for t in turns) + names["assistant"]


def _generation_eos(path: str | os.PathLike) -> tuple[int, ...]:
    file = Path(path) / "generation_config.json"
    if not file.is_file():
        return ()
    ids = json_file.read(file).get("eos_token_id")
    return tuple(ids) if isinstance(ids, list) else () if ids is None else (ids,)
