"""What the doctor writes down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """The pairs that show a finding once: one pair, two that contradict each other, a cycle, ..."""

    ids: tuple[str, ...]
    where: tuple[str, ...]  # file and line of each
    detail: str = ""
    members: tuple[int, ...] = ()  # their places among the records; empty where a line gave none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of trouble."""

    kind: str  # one word, as in findings.jsonl
    severity: Severity
    title: str
    count: int
    of: int
    unit: str = "pairs"
    advice: str  # what to do about it
    detail: str = ""  # figures, in words
    cases: Sequence[Case] = ()
