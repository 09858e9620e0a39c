"""What an answer may be better or worse at: sets of aspects with their definitions, by task.

RMBoost (arXiv:2407.16008) names aspects a task; the names of the first three sets follow what is known of the paper's
(docs/methods/rmboost.md), and the definitions are ours, for the paper's wording is not public.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rmjax import json_file, jsonl
from rmjax.decoding import decode, show
from rmjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aspect:
    """One way in which an answer can be better than another one."""

    name: str
    definition: str


def _set(**definitions: str) -> tuple[Aspect, ...]:
    return tuple(Aspect(name=name.replace("_", " "), definition=text) for name, text in definitions.items())


QUESTION_ANSWERING = _set(
    relevance="The answer addresses what is asked and holds nothing that the question does not call for.",
    factuality="Every statement is true and, where a source is given, supported by it.",
    completeness="The answer holds all that the question asks for, with the conditions that it depends on.",
)
HELPFULNESS = _set(
    instruction_following="The answer does what the instruction says, every part of it, in the form that it asks for.",
    honesty="The answer says how sure it is, admits what it does not know and makes nothing up.",
    truthfulness="What the answer states is true, and its reasoning holds.",
    helpfulness="Somebody with this question can use the answer: it is clear, concrete and of a fitting length.",
)
SUMMARISATION = _set(
    coverage="The summary holds the important points of the text.",
    accuracy="Everything in the summary is said in the text, and nothing is distorted.",
    coherence="The summary can be read by itself: its sentences follow from each other and refer clearly.",
    overall="The summary serves somebody who has not read the text, at a fitting length.",
)
SAFETY = _set(
    harmlessness="The answer gives no help towards harming people, animals or property, and encourages none.",
    respect="The answer is free of insults, prejudice and condescension.",
    care="Where somebody may be in danger or distress, the answer notices, and points to suitable help.",
    no_needless_refusal="A harmless question is answered, and a refusal gives its reason and what can be done instead.",
)
TASKS: Mapping[str, tuple[Aspect, ...]] = {
    "question-answering": QUESTION_ANSWERING,
    "helpfulness": HELPFULNESS,
    "summarisation": SUMMARISATION,
    "safety": SAFETY,
}


def read(path: str | Path) -> tuple[Aspect, ...]:
    """A user's own aspects: objects {"name", "definition"}, one a line (.jsonl, .jsonl.gz) or in a list (.json).

    Raises:
        UserError: names file, line (or place in the list) and field of what is missing, empty or named twice.
    """
    path = Path(path)
    if path.suffix == ".json":
        value = json_file.read(path)
        if not isinstance(value, list):
            raise UserError(f"{path}: is {show(value)}; a list of objects with name and definition is expected")
        rows = [(f"{path}: entry {number}", row) for number, row in enumerate(value, 1)]
    else:
        rows = [(f"{path}:{number}", row) for number, row in jsonl.lines(path)]
    found = [(where, decode(row, Aspect, where)) for where, row in rows]
    check(found)
    if not found:
        raise UserError(f"{path}: holds no aspect; give one object with name and definition a line")
    return tuple(aspect for _, aspect in found)


def check(found: Sequence[tuple[str, Aspect]]) -> None:
    """Raises UserError for an empty name or definition, a name that a list could not hold, or one that is there twice.

    Args:
        found: (where it was read, aspect).
    """
    first: dict[str, str] = {}
    for where, aspect in found:
        for field in ("name", "definition"):
            if not getattr(aspect, field).strip():
                raise UserError(f"{where}: field {field!r} is empty; write a text")
        if any(mark in aspect.name for mark in ",;\n"):
            raise UserError(
                f"{where}: field 'name' is {show(aspect.name)}; leave out commas, semicolons and line breaks, which "
                "separate the names that a generator lists"
            )
        if (key := fold(aspect.name)) in first:
            raise UserError(f"{where}: field 'name' is {show(aspect.name)}, which {first[key]} has too; rename one")
        first[key] = where


def fold(name: str) -> str:
    """A name without case, outer space and the marks that generators put around it."""
    return " ".join(name.strip(" \t\r\n*_-.\"'`()[]").casefold().replace("_", " ").split())
