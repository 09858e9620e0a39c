"""Evaluation items that the pairs hold already: runs of words in common (as GPT-3's report, appendix C, with 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from rmjax.data.doctor.findings import Case, Finding
from rmjax.data.doctor.intake import Intake
from rmjax.data.doctor.pairs import Pairs
from rmjax.data.doctor.text import Ragged, grams, normalise

HELD = 0.5  # an item of whose runs this share is found counts as held
LITTLE = 0.1  # less of an item is a phrase that many texts have
BOILERPLATE = 10  # a run that items of more prompts than this have (and 1 % of the prompts) is nobody's own


def overlap(pairs: Pairs, evaluation: Mapping[str, Intake], *, n: int) -> list[Finding]:
    """What of each evaluation file is in the pairs: prompts, and answers, in whatever field.

    A prompt of fewer than n words counts as found where a prompt of the pairs is the same when normalised.

    Args:
        evaluation: name -> its pairs.
        n: words of a run.
    """
    if not evaluation:
        return []
    known = {normalise(text): i for i, text in reversed([*enumerate(pairs.prompt_texts)])}
    ours = [grams(pairs.prompt_words, n, short=False), grams(pairs.answer_words, n, short=False).joined(2)]
    out = []
    for name, items in evaluation.items():
        held = Pairs(items)
        answers = [text for p in items.records for text in (p.chosen, p.rejected)]
        for what, texts, each in (("prompt", held.prompt_texts, 1), ("answers", answers, 2)):
            theirs = grams(pairs.vocabulary.encode(texts), n, short=False).joined(each)
            share, source = found_share(theirs, ours, held.prompts)
            if what == "prompt":
                same = np.array([known.get(normalise(text), -1) for text in texts])
                short = theirs.lengths == 0
                share, source = np.where(short, same >= 0, share), np.where(short, same, source)
            out += _findings(pairs, items, name, what, share, source, n)
        if items.faults:
            out.append(
                Finding(
                    kind="overlap-unreadable",
                    severity="warning",
                    title=f"{name}: lines that give no pair",
                    count=len(items.faults),
                    of=len(items.faults) + len({*items.where}),
                    unit="lines",
                    advice="mend them: what they hold was not looked for",
                    cases=[Case(ids=(), where=(f.where,), detail=f.why) for f in items.faults],
                )
            )
    return out


def found_share(
    theirs: Ragged, ours: Sequence[Ragged], prompts: Int[np.ndarray, " items"]
) -> tuple[Float[np.ndarray, " items"], Int[np.ndarray, " items"]]:
    """The share of each item's different runs that some row of ours has, and one such row (-1: none).

    Args:
        prompts: a number for each item's prompt: the pairs of one prompt share its text, and often answers.
    """
    items = len(theirs.starts) - 1
    if not len(theirs.values):
        return np.zeros(items), np.full(items, -1)
    wanted, where = np.unique(theirs.values, return_inverse=True)
    once = lambda owner: np.divmod(np.unique(owner * len(wanted) + where), len(wanted))  # (owner, run), each once
    hit, source = np.zeros(len(wanted), bool), np.full(len(wanted), -1)
    for rows in ours:
        owner = rows.owner
        for begin in range(0, len(rows.values), 1 << 20):  # bounds the memory
            part = rows.values[begin : begin + (1 << 20)]
            at = np.minimum(np.searchsorted(wanted, part), len(wanted) - 1)
            same = wanted[at] == part
            hit[at[same]] = True
            source[at[same]] = owner[begin : begin + (1 << 20)][same]
    spread = np.bincount(once(prompts[theirs.owner])[1], minlength=len(wanted))
    own: Bool[np.ndarray, " runs"] = spread <= max(BOILERPLATE, len(np.unique(prompts)) // 100)
    item, run = once(theirs.owner)
    item, run = item[own[run]], run[own[run]]
    total = np.bincount(item, minlength=items)
    count = np.bincount(item, hit[run], minlength=items)
    first = np.full(items, -1)
    first[item[hit[run]]] = source[run[hit[run]]]
    return count / np.maximum(total, 1), first


def _findings(
    pairs: Pairs, items: Intake, name: str, what: str, share: np.ndarray, source: np.ndarray, n: int
) -> list[Finding]:
    touched = np.flatnonzero(share >= LITTLE)
    if not len(touched):
        return []
    held = int((share >= HELD).sum())
    cases = []
    for i in touched[np.argsort(-share[touched], kind="stable")].tolist():
        here = pairs.case([int(source[i])]) if source[i] >= 0 else Case(ids=(), where=())
        detail = f"{100 * share[i]:.0f} % of the {what} of {items.records[i].id!r}"
        cases.append(
            Case(
                ids=(items.records[i].id, *here.ids),
                where=(items.where[i], *here.where),
                detail=detail,
                members=here.members,
            )
        )
    return [
        Finding(
            kind=f"overlap-{what}",
            severity="note" if not held else "error" if what == "prompt" else "warning",
            title=f"{what} of {name} found among the pairs",
            count=len(touched),
            of=len(items.records),
            unit="evaluation items",
            advice="leave these items, or the pairs that hold them, out: an accuracy on them is no test",
            detail=f"at least {100 * LITTLE:.0f} % of its runs of {n} words; {held:,} with half or more",
            cases=cases,
        )
    ]
