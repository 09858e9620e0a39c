"""The preference-data doctor: what is wrong with labelled pairs before a model learns them. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rmjax.data.doctor.artefacts import artefacts
from rmjax.data.doctor.duplicates import duplicates
from rmjax.data.doctor.encoding import encoding
from rmjax.data.doctor.findings import SEVERITIES, Finding
from rmjax.data.doctor.intake import Intake
from rmjax.data.doctor.labels import labels
from rmjax.data.doctor.lengths import lengths
from rmjax.data.doctor.overlap import overlap
from rmjax.data.doctor.pairs import Pairs

WORDS = 13  # of a run in common with an evaluation item


def examine(
    intake: Intake,
    evaluation: Mapping[str, Intake] | None = None,
    *,
    words: int = WORDS,
    after: Callable[[str], None] = lambda name: None,
) -> list[Finding]:
    """Every finding, the worst first.

    Args:
        evaluation: name -> evaluation items, for the overlap.
        words: of a run that counts as overlap.
        after: is told the name of each check that is done.
    """
    pairs = Pairs(intake)
    checks: dict[str, Callable[[], list[Finding]]] = {
        "broken text": lambda: encoding(pairs),
        "labels": lambda: labels(pairs),
        "duplicates": lambda: duplicates(pairs),
        "overlap": lambda: overlap(pairs, evaluation or {}, n=words),
        "lengths": lambda: lengths(pairs),
        "artefacts": lambda: artefacts(pairs),
    }
    found: list[Finding] = []
    for name, check in checks.items():
        found += check()
        after(name)
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))
