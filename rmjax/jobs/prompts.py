"""Prompts to write answers for: a file of prompts, or a file of labelled pairs whose labels and answers stay unread."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from rich.console import Console

from rmjax.bounds import require
from rmjax.data import conversations, files
from rmjax.data.detection import columns_of, listing, matches
from rmjax.data.fields import Fields
from rmjax.data.schemas import PREFERENCES
from rmjax.data.sources import read_preferences, renamed
from rmjax.errors import UserError
from rmjax.jobs.sources import dropped
from rmjax.records import content_id
from rmjax.refine.writers import Item

console = Console()
ASKED = ("prompt", "messages", "question", "instruction")
BESIDE = {"id", "source", "subset", "meta"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptFile:
    """Where prompts come from."""

    # prompts: a column prompt, messages, question or instruction; or pairs of any schema of docs/data.md
    path: str = ""
    schema: str = "auto"  # of pairs
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # schema's column -> the file's
    ignore: tuple[str, ...] = ()  # columns to leave out
    invalid: Literal["error", "drop"] = "error"  # lines that are no prompt, or no pair
    limit: int = 0  # use only the first so many different prompts; 0: all

    def __post_init__(self) -> None:
        require("data.", self, "limit", least=0)

    def read(self) -> tuple[list[Item], str]:
        """(every different prompt once, in the file's order, with its content's hash as id; the hash of the file).

        Of labelled pairs the prompt alone is taken: the answers, and which of them is preferred, go no further.

        Raises:
            UserError: names file, line and field; no path; nothing is left.
        """
        if not self.path:
            raise UserError("--data.path is empty: give a file of prompts, or of pairs, whose labels are not read")
        prompts, hash, said = self._prompts()
        items = {id: Item(id=id, prompt=p) for p in prompts for id in [content_id(p)]}
        if not items:
            raise UserError(f"{self.path}: holds no prompt; check the file")
        again = len(prompts) - len(items)
        repeated = f", {again:,} asked before" if again else ""
        console.print(f"{self.path}: {len(items):,} prompts{repeated}{said}")
        found = list(items.values())
        return (found[: self.limit] if self.limit else found), hash

    def _prompts(self) -> tuple[list, str, str]:
        """(prompts, hash of the file, what else there is to say)."""
        table = files.load(self.path)
        rows = renamed([row for row in table.rows if row.error is None], self.columns, self.ignore, self.path)
        names = {name for row in rows for name in row.value}
        asked = [name for name in ASKED if name in names]
        others = names - {*asked, *BESIDE}
        if len(asked) != 1 or others:
            columns = columns_of(rows)
            if len(asked) == 1 and self.schema == "auto" and not any(matches(s, columns) for s in PREFERENCES):
                raise UserError(
                    f"{self.path}: columns ({listing(columns)}) are neither a prompt's nor a pair's: list those beside "
                    f"{asked[0]!r} in the option `ignore` ({listing(sorted(others))})"
                )
            pairs = read_preferences(
                self.path,
                schema=self.schema,
                columns=self.columns,
                ignore=self.ignore,
                invalid=self.invalid,
                empty="drop",
                identical="drop",
                duplicate="drop",
            )
            said = f", of {len(pairs.records):,} pairs (labels not read){dropped(pairs)}"
            return [p.prompt for p in pairs.records], pairs.hash, said
        if self.schema != "auto":
            raise UserError(f"--data.schema {self.schema}: {self.path} holds prompts and no pairs; leave it out")
        found, bad, readable = [], 0, iter(rows)
        for row in table.rows:
            try:
                if row.error is not None:
                    raise row.error
                found.append(prompt_of(Fields(row.where, next(readable).value), asked[0]))
            except UserError:
                if self.invalid == "error":
                    raise
                bad += 1
        return found, table.hash, f", {bad:,} lines dropped (invalid)" if bad else ""


def prompt_of(fields: Fields, name: str) -> tuple:
    """One row's prompt. A conversation that ends with an assistant's turn is asked without that turn."""
    if name != "messages":
        return conversations.prompt(fields, name)
    turns = conversations.messages(fields, name)
    return conversations.checked_prompt(fields, name, turns[:-1] if turns[-1].role == "assistant" else turns)
