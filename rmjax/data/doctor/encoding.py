"""Broken text: empty and equal answers, wrong encodings, control characters, tokens of a chat template."""

from __future__ import annotations

import re
from collections.abc import Callable

from rmjax.data.doctor.findings import Case, Finding
from rmjax.data.doctor.pairs import Pairs

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
INVISIBLE = re.compile("[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ue000-\uf8ff]")  # not those that scripts need
MOJIBAKE = re.compile("â€[™œ\x9d“”˜¦\x99\x9c]|Ã[©¨¤¶¼±\xa0-\xbf]|Â[·£°\xa0]|ï»¿")
SPECIAL = re.compile(r"<\|[a-zA-Z_]+\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
ROLE = re.compile(r"(?:^|\n\s*)(?:Human|Assistant|User) ?:|##+ ?(?:Instruction|Response|Human|Assistant|User)\b")


def encoding(pairs: Pairs) -> list[Finding]:
    """All findings about single texts, and the lines that gave no pair."""
    return [*unreadable(pairs), *same_or_empty(pairs), *marked(pairs)]


def unreadable(pairs: Pairs) -> list[Finding]:
    """Lines that the reader could make nothing of, and columns that it left out."""
    intake, out = pairs.intake, []
    if intake.faults:
        out.append(
            Finding(
                kind="unreadable",
                severity="error",
                title="lines that give no pair",
                count=len(intake.faults),
                of=len(intake.faults) + len({*intake.where}),
                unit="lines",
                advice="mend them, or let jobs leave them out with --data.invalid drop",
                cases=[Case(ids=(), where=(f.where,), detail=f.why) for f in intake.faults],
            )
        )
    if intake.left_out:
        out.append(
            Finding(
                kind="unknown-column",
                severity="note",
                title="columns that the schema does not know",
                count=len(intake.left_out),
                of=len(intake.left_out),
                unit="columns",
                advice="jobs refuse them: name them with --data.ignore, or map them with --data.columns",
                detail=", ".join(intake.left_out),
            )
        )
    return out


def same_or_empty(pairs: Pairs) -> list[Finding]:
    """Answers without a visible character, and pairs of equal answers."""
    empty = [
        pairs.case([i], "chosen" if not p.chosen.strip() else "rejected")
        for i, p in enumerate(pairs.records)
        if not p.chosen.strip() or not p.rejected.strip()
    ]
    gone = {c.members[0] for c in empty}
    equal = [pairs.case([i]) for i, (a, b) in enumerate(pairs.nodes.tolist()) if a == b and i not in gone]
    bare = [pairs.case([i]) for i, text in enumerate(pairs.prompt_texts) if not text.strip()]
    found = (
        ("empty", "an answer is empty", empty, "drop them (--data.empty drop)"),
        ("identical", "both answers are the same", equal, "drop them (--data.identical drop, where they are the same "
         "to the letter), or make them ties"),
        ("empty-prompt", "the prompt is empty", bare, "mend the column, or drop them"),
    )  # fmt: skip
    return [_finding(pairs, kind, "error", title, cases, advice) for kind, title, cases, advice in found if cases]


def marked(pairs: Pairs) -> list[Finding]:
    """Characters and tokens that do not belong in a text."""
    seen: dict[str, list[Case]] = {name: [] for name in KINDS}
    for i, p in enumerate(pairs.records):
        prompt = pairs.prompt_texts[i]
        for name, (_, find, in_prompts, _) in KINDS.items():
            fields = {"prompt": prompt} if in_prompts else {}
            for field, text in (fields | {"chosen": p.chosen, "rejected": p.rejected}).items():
                if (found := find(text)) is not None:
                    seen[name].append(pairs.case([i], f"{field}: {found!r} at {text.index(found):,}"))
                    break
    return [
        _finding(pairs, name, "warning", KINDS[name][0], cases, KINDS[name][3]) for name, cases in seen.items() if cases
    ]


def _first(pattern: re.Pattern, *, ascii_too: bool = False) -> Callable[[str], str | None]:
    def find(text: str) -> str | None:
        if not ascii_too and text.isascii():
            return None
        match = pattern.search(text)
        return None if match is None else match[0]

    return find


ENCODE = "read the source again as UTF-8, or mend the text (python's ftfy does)"
KINDS: dict[str, tuple[str, Callable[[str], str | None], bool, str]] = {  # title, search, in prompts too, advice
    "replacement": (
        "replacement characters (U+FFFD): bytes were lost",
        lambda t: "�" if "�" in t else None,
        True,
        ENCODE,
    ),
    "mojibake": ("text decoded with the wrong encoding", _first(MOJIBAKE), True, ENCODE),
    "control": ("control characters", _first(CONTROL, ascii_too=True), True, "take them out"),
    "invisible": ("invisible or private characters", _first(INVISIBLE), True, "take them out"),
    "special-token": (
        "tokens of a chat template",
        _first(SPECIAL, ascii_too=True),
        True,
        "take them out: templates put their own, and a second one ends a turn early",
    ),
    "role": (
        "an answer that goes on as another turn",
        _first(ROLE, ascii_too=True),
        False,
        "cut the answer there: it was generated past its end",
    ),
}


def _finding(pairs: Pairs, kind: str, severity: str, title: str, cases: list[Case], advice: str) -> Finding:
    return Finding(
        kind=kind, severity=severity, title=title, count=len(cases), of=len(pairs), advice=advice, cases=cases
    )
