"""Clean pairs, into which tests plant trouble."""

import random
from collections.abc import Sequence
from typing import Any

from rmjax.data.doctor.examine import examine
from rmjax.data.doctor.findings import Finding
from rmjax.data.doctor.intake import Intake
from rmjax.records import Message, Preference

STARTS, ENDS = "kalomisuteravonepidu", "bacodafugahojakulamo"
WORDS = [STARTS[i : i + 2] + ENDS[j : j + 2] for i in range(0, 20, 2) for j in range(0, 20, 2)]


def prose(rng: random.Random, words: int) -> str:
    """A sentence of random words."""
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> Preference:
    return Preference(prompt=(Message("user", prompt),), chosen=chosen, rejected=rejected, **more)


def clean(n: int, *, seed: int = 0) -> list[Preference]:
    """Pairs in which nothing is to be found: no text twice, lengths that say nothing."""
    rng = random.Random(seed)
    lengths = [(40, 20), (20, 40)]
    return [
        pair(prose(rng, 25), *(prose(rng, words + i % 5) for words in lengths[i % 2]), id=f"clean-{seed}-{i}")
        for i in range(n)
    ]


def intake(records: Sequence[Preference], **more: Any) -> Intake:
    where = [f"pairs.jsonl:{i}" for i in range(1, len(records) + 1)]
    return Intake(path="pairs.jsonl", schema="explicit", hash="0", records=records, where=where, **more)


def found(records: Sequence[Preference], *evaluation: Sequence[Preference], words: int = 13) -> dict[str, Finding]:
    """Findings by kind; of artefacts by their title's mark."""
    held = {f"test-{i}": intake(items) for i, items in enumerate(evaluation)}
    findings = examine(intake(records), held, words=words)
    return {f.title.split(":")[0] if f.kind == "artefact" else f.kind: f for f in findings}
