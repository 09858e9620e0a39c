"""What tells the chosen answer without reading it: refusals, markup, openings, endings that one side has more often."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from rmjax.data.doctor.findings import Finding
from rmjax.data.doctor.pairs import Pairs
from rmjax.statistics import mcnemar, wilson

FEWEST = 20  # pairs in which one answer alone has the mark
LEVEL = 0.01  # of all tests together (Bonferroni)
STRONG, COMMON = 0.15, 0.05  # so far from one half, in such a share of the pairs: a warning
OPENING = 3  # words of an opening or an ending
EXAMPLES = 100  # pairs that are listed: the finding is about all of them
TRIED = 30  # openings and endings that are tried, the commonest

CANNOT = r"(?:cannot|can not|can['’]?t|won['’]?t|will not|am unable|am not able)"
REFUSAL = re.compile(
    r"\b(?:i['’]?m|i am) (?:(?:really |very |so )?sorry|unable|not able)\b|\bsorry, (?:but )?i|\bi apologi[sz]e|"
    rf"\bas an ai\b|\bi {CANNOT} |\b(?:can['’]?t|cannot) (?:assist|help|provide|answer|comply)|"
    r"\bnot (?:appropriate|able) to\b"
)
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d+);")
TAG = re.compile(r"</?(?:p|br|div|span|b|i|u|ul|ol|li|a|strong|em|h[1-6])\b[^<>]*>")
EMOJI = re.compile("[\U0001f300-\U0001faff☀-➿]")

MARKS: dict[str, Callable[[str], bool]] = {
    "refusal": lambda t: bool(REFUSAL.search(t[:250].lower())),
    "code block": lambda t: "```" in t,
    "bullets": lambda t: "\n- " in t or "\n* " in t or "\n• " in t or t.startswith(("- ", "* ", "• ")),
    "numbered list": lambda t: "\n2." in t or "\n2)" in t,
    "headings": lambda t: "\n#" in t or t.startswith("# "),
    "bold": lambda t: "**" in t,
    "table": lambda t: "\n|" in t,
    "link": lambda t: "http://" in t or "https://" in t,
    "emoji": lambda t: not t.isascii() and bool(EMOJI.search(t)),
    "HTML tags": lambda t: "<" in t and bool(TAG.search(t)),
    "HTML entities": lambda t: "&" in t and bool(ENTITY.search(t)),
    "LaTeX": lambda t: "$$" in t or "\\(" in t or "\\frac" in t or "\\[" in t,
    "several paragraphs": lambda t: "\n\n" in t,
    "white space at an end": lambda t: t != t.strip(),
    "no capital at the start": lambda t: t.lstrip()[:1].islower(),
    "a question at the end": lambda t: t.rstrip().endswith("?"),
    "a cut ending": lambda t: t.rstrip()[-1:].isalpha() or t.rstrip().endswith((",", ":", ";", "-")),
}


def artefacts(pairs: Pairs) -> list[Finding]:
    """Marks that go with the label, in all pairs or in a subset: a rule that reads nothing would win by them."""
    usable = np.array([not p.tie for p in pairs.records])
    candidates = {
        name: np.array([(has(p.chosen), has(p.rejected)) for p in pairs.records]) for name, has in MARKS.items()
    }
    candidates |= _shared(pairs)
    places = {"": np.arange(len(pairs)), **pairs.subsets}
    level = LEVEL / (len(candidates) * len(places))
    out = []
    for name, has in candidates.items():
        told = {place: _told(has[rows][usable[rows]]) for place, rows in places.items()}
        significant = [p for p, (won, n) in told.items() if n >= FEWEST and mcnemar(won, n - won) < level]
        if significant:
            out.append(
                _finding(pairs, name, has & usable[:, None], told, significant, {p: len(r) for p, r in places.items()})
            )
    return out


def _told(has: Bool[np.ndarray, "n 2"]) -> tuple[int, int]:
    """How often the answer with the mark won, of the pairs in which one alone has it."""
    return int((has[:, 0] & ~has[:, 1]).sum()), int((has[:, 0] != has[:, 1]).sum())


def _shared(pairs: Pairs) -> dict[str, Bool[np.ndarray, "n 2"]]:
    """The commonest openings and endings."""
    out: dict[str, np.ndarray] = {}
    for what, cut in (
        ("opening", lambda t: t[:80].split()[:OPENING]),
        ("ending", lambda t: t[-80:].split()[-OPENING:]),
    ):
        keys = [tuple(" ".join(cut(text)).casefold() for text in (p.chosen, p.rejected)) for p in pairs.records]
        common = Counter(key for both in keys for key in both if key).most_common(TRIED)
        for text, count in common:
            if count >= FEWEST:
                out[f"{what} “{text}”"] = np.array([(a == text, b == text) for a, b in keys])
    return out


def _finding(
    pairs: Pairs,
    name: str,
    has: Bool[np.ndarray, "n 2"],
    told: dict[str, tuple[int, int]],
    significant: list[str],
    sizes: dict[str, int],
) -> Finding:
    strong = any(abs(told[p][0] / told[p][1] - 0.5) >= STRONG and told[p][1] >= COMMON * sizes[p] for p in significant)
    won, n = told[""]
    shown = ["", *(p for p in significant if p)]
    parts = []
    for place in shown:
        k, m = told[place]
        low, high = wilson(k, m)
        share = f"wins {100 * k / m:.1f} % ({100 * low:.1f} to {100 * high:.1f}) of {m:,}" if m else "in none alone"
        parts.append(f"{place}: {share}" if place else share)
    low, high = wilson(won, n)
    side = "depends on the subset"
    if low > 0.5 or high < 0.5:
        side = f"more often in the {'chosen' if low > 0.5 else 'rejected'} answer"
    alone = np.flatnonzero(has[:, 0] != has[:, 1])
    # With the rule's exceptions last: what it says of most pairs is shown first.
    order = alone[np.argsort(has[alone, 0] != (won * 2 >= n), kind="stable")]
    return Finding(
        kind="artefact",
        severity="warning" if strong else "note",
        title=f"{name}: {side}",
        count=n,
        of=len(pairs),
        unit="pairs in which one answer alone has it",
        advice="a reward model can learn the mark instead of the answer: balance it, strip it, or test without it",
        detail="; ".join(parts),
        cases=[pairs.case([int(i)], "chosen has it" if has[i, 0] else "rejected has it") for i in order[:EXAMPLES]],
    )
