"""The pairs that the doctor examines, with what several checks need of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from rmjax.data.doctor.findings import Case
from rmjax.data.doctor.intake import Intake
from rmjax.data.doctor.text import Ragged, Vocabulary, normalise
from rmjax.records import Preference


class Pairs:
    """Records and what is derived from their texts, computed once when first asked for."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.records: Sequence[Preference] = intake.records
        self.vocabulary = Vocabulary()

    def __len__(self) -> int:
        return len(self.records)

    def case(self, members: Iterable[int], detail: str = "") -> Case:
        """Some of the records as an example."""
        members = tuple(members)
        return Case(
            ids=tuple(self.records[i].id for i in members),
            where=tuple(self.intake.where[i] for i in members),
            detail=detail,
            members=members,
        )

    @functools.cached_property
    def prompt_texts(self) -> list[str]:
        """The turns of each prompt, joined."""
        return ["\n".join(m.content for m in p.prompt) for p in self.records]

    @functools.cached_property
    def prompts(self) -> Int[np.ndarray, " n"]:
        """A number for each prompt; the same for prompts that are the same when normalised."""
        return _numbered(hash(tuple((m.role, normalise(m.content)) for m in p.prompt)) for p in self.records)

    @functools.cached_property
    def nodes(self) -> Int[np.ndarray, "n 2"]:
        """A number for the chosen and for the rejected answer of each prompt; answers of two prompts never share it."""
        keys = (
            (prompt, hash(normalise(text)))
            for prompt, p in zip(self.prompts.tolist(), self.records, strict=True)
            for text in (p.chosen, p.rejected)
        )
        return _numbered(keys).reshape(-1, 2)

    @functools.cached_property
    def answer_words(self) -> Ragged:
        """Words of the chosen and the rejected answer of each pair, alternating."""
        return self.vocabulary.encode(text for p in self.records for text in (p.chosen, p.rejected))

    @functools.cached_property
    def prompt_words(self) -> Ragged:
        """Words of each prompt."""
        return self.vocabulary.encode(self.prompt_texts)

    @functools.cached_property
    def subsets(self) -> dict[str, np.ndarray]:
        """Subset -> its records, in order of first appearance; only where there are several."""
        groups: dict[str, list[int]] = {}
        for i, p in enumerate(self.records):
            groups.setdefault(p.subset or "no subset", []).append(i)
        return {name: np.array(g) for name, g in groups.items()} if len(groups) > 1 else {}


def _numbered(keys: Iterable[object]) -> Int[np.ndarray, " n"]:
    numbers: dict[object, int] = {}
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64)
