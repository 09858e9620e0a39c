"""Pairs whose label is known before the second answer exists (RMBoost, arXiv:2407.16008): labels, reading, guards.

    directions    which answers are edited for the better and which for the worse: as many of either
    drawn_aspects the aspects of an item, where they are drawn and not chosen by the generator
    extract       what stands between the tags of a completion
    Guards        what is dropped, and why
    thinned       as many pairs of either direction after the drops

Draws are keyed by (seed, item id): the order of the items does not matter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import rich.table

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.records import Preference
from rmjax.refine.aspects import Aspect, fold
from rmjax.refine.edit_prompts import Direction
from rmjax.refine.writers import Item

REASONS = (
    "prompt too long",
    "response 1 empty",
    "response 1 refusal",
    "tag missing",
    "aspect tag missing",
    "empty",
    "equal",
    "refusal",
    "length ratio",
    "judge undecided",
    "too long to score",
    "score gap",
    "balance",
)
Reason = Literal[REASONS]
# At the beginning of an answer: a refusal that is quoted, or comes after an answer, is none; nor is sympathy.
REFUSALS = (
    r"^\W*(i'?m|i am) (very |so |really )?(sorry|afraid|unable|not able)\b(?! (to hear|for your|about|you))",
    r"^\W*(sorry|unfortunately|apologies)\b.{0,60}\b(can'?t|cannot|unable|won'?t|not able)\b",
    r"^\W*i (can'?t|cannot|can not|won'?t|will not|must decline|am not comfortable)\b",
    r"^\W*as an ai\b",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guards:
    """Which pairs are dropped, beside equal and empty answers and missing tags."""

    shortest: float = 0.3  # characters of the second answer for one of the first
    longest: float = 3.0
    # regular expressions of a refusal, whatever the case; empty: none is looked for
    refusals: tuple[str, ...] = REFUSALS
    # keep: an answer may refuse (safety); a missing tag still counts
    refusing_answers: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        require("guards.", self, "shortest", least=0, most=1)
        require("guards.", self, "longest", least=1)
        for refusal in self.refusals:
            try:
                re.compile(refusal)
            except re.error as e:
                raise UserError(f"guards.refusals: {refusal!r} is not a regular expression ({e}): mend it") from e

    def refuses(self, text: str) -> bool:
        """Whether a text is a refusal."""
        plain = text.strip().replace("\u2019", "'")
        return any(re.search(refusal, plain, re.IGNORECASE) for refusal in self.refusals)

    def fault_of_first(self, first: str) -> Reason | None:
        """Why a first answer is not worth a second one."""
        if not first.strip():
            return "response 1 empty"
        return "response 1 refusal" if self.refusing_answers == "drop" and self.refuses(first) else None

    def fault(self, first: str, second: str) -> Reason | None:
        """Why two answers make no pair: the first of the reasons, in the order of `REASONS`."""
        if not second.strip():
            return "empty"
        if first.strip() == second.strip():
            return "equal"
        if self.refusing_answers == "drop" and self.refuses(second):
            return "refusal"
        ratio = len(second.strip()) / max(1, len(first.strip()))
        return None if self.shortest <= ratio <= self.longest else "length ratio"

    def read(self, text: str, response: str, aspects: str = "") -> tuple[str, str] | Reason:
        """(answer, text of the aspects) of a completion, or why there is none.

        Args:
            text: as the generator wrote it.
            response, aspects: regular expressions (`edit_prompts.EditPrompt`); empty: all of the text, nothing.
        """
        answer = extract(text, response)
        if answer is None:
            return "refusal" if self.refuses(text) else "tag missing"
        picked = extract(text, aspects) if aspects else ""
        return "aspect tag missing" if picked is None else (answer, picked)


def extract(text: str, regex: str) -> str | None:
    """The last match's group without outer space; None where nothing matches, all of the text where `regex` is empty.

    The last one, because a generator that thinks aloud quotes the tags before it uses them.
    """
    if not regex:
        return text.strip()
    found = list(re.finditer(regex, text))
    return (found[-1][1] or "").strip() if found else None


def listed(text: str, aspects: Sequence[Aspect]) -> tuple[list[str], list[str]]:
    """The names that a generator picked: (those of the list, in its order; other ones).

    Names are separated by commas, semicolons or lines; numbering, bullets and what follows a colon are left out.
    """
    known = {fold(a.name): a.name for a in aspects}
    said = [fold(re.sub(r"^\W*\d+\s*[.)]|:.*$", "", part.strip())) for part in re.split(r"[,;\n]", text)]
    names = {known[name] for name in said if name in known}
    return [a.name for a in aspects if a.name in names], list(dict.fromkeys(n for n in said if n and n not in known))


def key_of(seed: int, use: str, id: str) -> bytes:
    """A number to sort by: as good as drawn, and a function of its arguments alone."""
    return hashlib.blake2b(f"{seed}|{use}|{id}".encode(), digest_size=16).digest()


def directions(ids: Iterable[str], *, seed: int) -> dict[str, Direction]:
    """Draws who is edited for the better: half of the ids, to one; the odd one by a draw of its own.

    A random permutation of the set (sorted by keyed hashes) is cut in the middle, so the order of `ids` plays no part.
    """
    ranked = sorted(set(ids), key=lambda id: key_of(seed, "direction", id))
    extra = len(ranked) % 2 and key_of(seed, "odd", "|".join(ranked))[0] & 1
    half = len(ranked) // 2 + extra
    return {id: "better" if i < half else "worse" for i, id in enumerate(ranked)}


def drawn_aspects(aspects: Sequence[Aspect], id: str, *, count: int, seed: int) -> tuple[Aspect, ...]:
    """`count` of the aspects, drawn for this item, in the list's order. Raises UserError where there are fewer."""
    if not 1 <= count <= len(aspects):
        raise UserError(f"method.sampled={count}: there are {len(aspects)} aspects; give a number from 1 to that")
    places = random.Random(key_of(seed, "aspects", id)).sample(range(len(aspects)), count)
    return tuple(aspects[i] for i in sorted(places))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drop:
    """A pair that was not made, and what was there of it."""

    item: str
    reason: Reason
    direction: Direction | Literal[""] = ""  # of the label, where there was one
    text: str = ""  # what the generator wrote last


def pair(item: Item, chosen: str, rejected: str, *, method: str, key: str = "", **origin: Any) -> Preference:
    """A synthetic pair: its id is the item's with the method's name, `meta["origin"]` says how it came about.

    Args:
        key: what else tells it from other pairs of this item and method.
        origin: what is known beside these: direction, aspects, edited (which answer is response 2), generator.
    """
    return Preference(
        prompt=item.prompt,
        chosen=chosen,
        rejected=rejected,
        id=f"{item.id}|{method}" + (f"|{key}" if key else ""),
        source=method,
        meta={**item.meta, "origin": {"method": method, "item": item.id, **origin}},
    )


def direction_of(p: Preference) -> Direction | Literal[""]:
    """The direction in which a pair's second answer was written; empty where it has none."""
    return p.meta.get("origin", {}).get("direction", "")


def thinned(pairs: Sequence[Preference], *, seed: int) -> tuple[list[Preference], list[Drop]]:
    """As many pairs of either direction, to one: of the commoner one those drawn are dropped.

    Drops fall on one direction more than on the other (a generator refuses to write worse answers). Left alone, an
    edited answer would more often be the preferred one, and its style would tell the label.
    """
    of = {d: [p for p in pairs if direction_of(p) == d] for d in ("better", "worse")}
    most = min(map(len, of.values())) + 1
    over = {
        p.id: d for d, found in of.items() for p in sorted(found, key=lambda p: key_of(seed, "balance", p.id))[most:]
    }
    drops = [Drop(item=p.meta["origin"]["item"], reason="balance", direction=over[p.id]) for p in pairs if p.id in over]
    return [p for p in pairs if p.id not in over], drops


def counts(drops: Sequence[Drop]) -> dict[str, dict[str, int]]:
    """Reason -> direction ("better", "worse", or "" where there is none) -> drops, in the order of `REASONS`."""
    found = Counter((d.reason, d.direction) for d in drops)
    return {
        reason: {d: found[reason, d] for d in ("better", "worse", "") if found[reason, d]}
        for reason in REASONS
        if any(found[reason, d] for d in ("better", "worse", ""))
    }


def drop_table(pairs: Sequence[Preference], drops: Sequence[Drop]) -> rich.table.Table:
    """What became of every pair that was begun, by direction."""
    kept = Counter(map(direction_of, pairs))
    rows = {**counts(drops), "pairs kept": dict(kept)}
    every = Counter(d.direction for d in drops) + kept
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0), title="what became of the pairs", title_justify="left")
    table.add_column("")
    columns = [("better", "for the better"), ("worse", "for the worse"), ("", "no direction")]
    shown = [(d, title) for d, title in columns if every[d]]
    for name in (*(title for _, title in shown), "all", "share"):
        table.add_column(name, justify="right")
    total = len(pairs) + len(drops)
    for name, row in (*rows.items(), ("begun", dict(every))):
        number = sum(row.values())
        if name == "pairs kept":
            table.add_section()
        share = f"{number / total:.1%}" if total else ""
        table.add_row(name, *(f"{row.get(d, 0):,}" for d, _ in shown), f"{number:,}", share)
    return table
