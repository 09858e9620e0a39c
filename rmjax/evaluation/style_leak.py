"""Does an edited answer give itself away? What a reward model could learn from style instead of worth.

    edited    a bag of words that sees one pair of answers, without the prompt, says which of them is the edit
    label     the same says which is preferred; where both directions are balanced, knowing the edit does not help it
    length    correlation of (edited answer's length - original's) with the label (1: the edit is preferred)

Both accuracies are cross-validated over prompts: no pair is scored by a model that has seen its prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.table
from sklearn.feature_extraction.text import CountVectorizer

from rmjax.evaluation.baselines import cross_validated, lengths
from rmjax.evaluation.length import correlation, pearson
from rmjax.evaluation.pairwise import accuracy
from rmjax.records import Preference
from rmjax.refine.conditional import key_of
from rmjax.statistics import Interval, wilson

FOLDS = 5
FEWEST = 20  # pairs: below, five folds say nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleLeak:
    """What style tells. None: fewer than 20 pairs, or nothing to tell (no edits, one direction, equal lengths)."""

    edited: Interval | None
    label: Interval | None
    length: Interval | None  # point-biserial correlation, bootstrap over pairs
    longer: Interval | None  # share of the pairs whose preferred answer is longer; equal lengths count one half

    def facts(self) -> dict[str, Any]:
        """The figures for summary.json."""
        return dataclasses.asdict(self)

    def rows(self) -> list[tuple[str, str, Interval | None]]:
        """(what, what it would be without a leak, figure)."""
        return [
            ("a bag of words tells the edit from the original", "0.500", self.edited),
            ("a bag of words tells the label", "0.500", self.label),
            ("correlation of length difference (edit - original) and label", "0.000", self.length),
            ("the preferred answer is longer", "0.500", self.longer),
        ]

    def rich(self) -> rich.table.Table:
        """The figures for a terminal."""
        table = rich.table.Table(box=None, padding=(0, 2, 0, 0), title="style leak", title_justify="left")
        table.add_column("")
        for name in ("value", "95 % interval", "without a leak", "pairs"):
            table.add_column(name, justify="right")
        for name, nothing, i in self.rows():
            value = ("not known", "", nothing, "")
            if i is not None:
                value = (f"{i.value:.3f}", f"{i.low:.3f} to {i.high:.3f}", nothing, f"{i.n:,}")
            table.add_row(name, *value)
        return table


def style_leak(pairs: Sequence[Preference], *, seed: int = 0) -> StyleLeak:
    """The figures of synthetic pairs; those of `meta["origin"]["edited"]` only where that is known.

    Args:
        pairs: with `meta["origin"]`.
        seed: of the folds and of the bootstrap.
    """
    edits = [p for p in pairs if edited(p)]
    turned = [_edited_first(p) for p in edits]
    sizes = lengths(pairs)
    longer = float(np.sum(sizes[:, 0] > sizes[:, 1]) + 0.5 * np.sum(sizes[:, 0] == sizes[:, 1]))
    length = None
    if edits:
        difference = np.diff(lengths(turned)[:, ::-1])
        label = np.array([[float(edited(p) == "chosen")] for p in edits])
        length = correlation(label, difference, pearson, seed=seed)
    return StyleLeak(
        edited=told(turned, seed=seed),
        label=told(pairs, seed=seed),
        length=length,
        longer=Interval(longer / len(pairs), *wilson(longer, len(pairs)), len(pairs)) if pairs else None,
    )


def told(pairs: Sequence[Preference], *, seed: int) -> Interval | None:
    """How often a bag of words that has not seen the prompt tells `chosen`; ties count one half. Wilson, 95 %.

    None for fewer than 20 pairs, or fewer prompts than folds.
    """
    prompts = sorted({repr(p.prompt) for p in pairs}, key=lambda text: key_of(seed, "fold", text))
    if len(pairs) < FEWEST or len(prompts) < FOLDS:
        return None
    words = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"\S+")
    fold = {text: i % FOLDS for i, text in enumerate(prompts)}
    found = accuracy(cross_validated(pairs, [fold[repr(p.prompt)] for p in pairs], range(FOLDS), features=words))
    return Interval(found.accuracy, *found.ci95, found.n)


def edited(p: Preference) -> str:
    """Which answer is the edit: "chosen", "rejected", or "" where there is none."""
    return p.meta.get("origin", {}).get("edited", "")


def _edited_first(p: Preference) -> Preference:
    """The pair as if its edited answer were preferred."""
    texts = (p.chosen, p.rejected) if edited(p) == "chosen" else (p.rejected, p.chosen)
    return Preference(prompt=p.prompt, chosen=texts[0], rejected=texts[1], id=p.id)
