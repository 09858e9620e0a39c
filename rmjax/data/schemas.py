"""The table of schemas: the columns that tell a data set's form, those it may have, the function that reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rmjax.data import readers
from rmjax.data.fields import Fields
from rmjax.records import Demonstration, Preference

TEXT, DIALOGUE, MESSAGES, TEXTS, TURN, TURNS, NUMBER, LIST, OBJECT = (
    "a string",
    'a text of "Human:" and "Assistant:" turns',
    "a list of messages",
    "a list of strings",
    "a from/value turn",
    "a list of from/value turns",
    "a number",
    "a list",
    "an object",
)
COMMON = ("margin", "weight", "prob_chosen", "tie", "votes", "id", "subset", "source", "meta", "level", "annotator")
ID = ("id", "source", "meta", "subset")
CHAT = (TEXT, MESSAGES)


@dataclasses.dataclass(frozen=True)
class Schema:
    """`required`: column -> kinds its values may have; `marks`: columns that some row has; `optional`: others known."""

    name: str
    read: Callable[[Fields], Iterator[Preference] | Iterator[Demonstration]]
    required: Mapping[str, Sequence[str]]
    marks: Sequence[str] = ()
    optional: Sequence[str] = COMMON

    def takes(self, column: str, found: str) -> bool:
        """Whether a required column may hold values of that kind."""
        kinds = self.required[column]
        return found in kinds or (found == DIALOGUE and TEXT in kinds)

    def known(self) -> set[str]:
        """Every column that the schema has a meaning for."""
        return {*self.required, *self.marks, *self.optional}


def _pair(kinds: Sequence[str], *more: str) -> dict[str, Sequence[str]]:
    return {**dict.fromkeys(more, CHAT), "chosen": kinds, "rejected": kinds}


ULTRAFEEDBACK = ("prompt", "prompt_id", "messages", *COMMON)
ARGILLA = ("prompt", "dataset", "chosen-model", "rejected-model", "chosen_model", "rejected_model", *COMMON)
REWARDBENCH_2 = ("num_correct", "num_incorrect", "num_rejected", "total_completions", "models", "additional_metadata")
HELPSTEER_2 = (
    "split",
    "preference_statement",
    "preference_elaboration",
    "three_most_similar_preferences",
    "all_preferences_unprocessed",
)
STRENGTH = ("std preference difference", "chosen score list", "rejected score list", "GPT4 label")
WEBGPT = ("dataset", "quotes_0", "quotes_1", "tokens_0", "tokens_1")

PREFERENCES: tuple[Schema, ...] = (
    Schema("explicit", readers.explicit, _pair(CHAT, "prompt")),
    Schema("implicit", readers.implicit, _pair((MESSAGES,))),
    Schema("ultrafeedback", readers.scored, _pair(CHAT), ("score_chosen", "score_rejected"), ULTRAFEEDBACK),
    Schema("rlhflow-scores", readers.scored, _pair(CHAT), ("chosen_score", "rejected_score"), ("prompt", *COMMON)),
    Schema("argilla", readers.scored, _pair(CHAT), ("chosen-rating", "rejected-rating"), ARGILLA),
    Schema("argilla-underscore", readers.scored, _pair(CHAT), ("chosen_rating", "rejected_rating"), ARGILLA),
    Schema("openrlhf", readers.openrlhf, _pair(CHAT, "input")),
    Schema("axolotl", readers.openrlhf, _pair(CHAT, "input"), ("system",)),
    Schema(
        "alpaca-ranking",
        readers.alpaca_ranking,
        {"instruction": (TEXT,), "chosen": (TEXT,), "rejected": (TEXT,)},
        optional=("input", "system", "history", *COMMON),
    ),
    Schema(
        "sharegpt-ranking",
        readers.sharegpt_ranking,
        {"conversations": (TURNS,), "chosen": (TURN,), "rejected": (TURN,)},
        optional=("system", "tools", *COMMON),
    ),
    Schema("nemo", readers.nemo, {"context": CHAT, "completions": (LIST,)}, optional=("task_name", *ID)),
    Schema("rewardbench", readers.explicit, _pair(CHAT, "prompt"), ("chosen_model", "rejected_model")),
    Schema(
        "rewardbench-2",
        readers.rewardbench_2,
        {"prompt": CHAT, "chosen": (TEXTS,), "rejected": (TEXTS,)},
        optional=(*REWARDBENCH_2, *ID),
    ),
    Schema(
        "helpsteer2-preference",
        readers.helpsteer2,
        {"prompt": (TEXT,), "response_1": (TEXT,), "response_2": (TEXT,), "preference_strength": (NUMBER,)},
        optional=(*HELPSTEER_2, *ID),
    ),
    Schema(
        "helpsteer3",
        readers.helpsteer3,
        {"context": CHAT, "response1": (TEXT,), "response2": (TEXT,), "overall_preference": (NUMBER,)},
        optional=("domain", "language", "individual_preference", *ID),
    ),
    Schema("hh-rlhf", readers.hh_rlhf, _pair((DIALOGUE,))),
    Schema(
        "hh-strength",
        readers.hh_strength,
        _pair((TEXTS,)),
        ("mean preference difference",),
        (*STRENGTH, *ID),
    ),
    Schema(
        "webgpt",
        readers.webgpt,
        {
            "question": (TEXT, OBJECT),
            "answer_0": (TEXT,),
            "answer_1": (TEXT,),
            "score_0": (NUMBER,),
            "score_1": (NUMBER,),
        },
        optional=(*WEBGPT, *ID),
    ),
)

DEMONSTRATIONS: tuple[Schema, ...] = (
    Schema("prompt-completion", readers.prompt_completion, {"prompt": CHAT, "completion": CHAT}, optional=ID),
    Schema("messages", readers.conversation, {"messages": (MESSAGES,)}, optional=ID),
    Schema("sharegpt", readers.sharegpt_conversation, {"conversations": (TURNS,)}, optional=("system", "tools", *ID)),
    Schema(
        "alpaca",
        readers.alpaca,
        {"instruction": (TEXT,), "output": (TEXT,)},
        optional=("input", "system", "history", *ID),
    ),
    Schema("question-answer", readers.question_answer, {"question": (TEXT,), "answer": (TEXT,)}, optional=ID),
)


def kind(value: Any) -> str:
    """What a value looks like, in the words of the table above; "" for anything else."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        return NUMBER
    if isinstance(value, str):
        return DIALOGUE if value.lstrip("\n").startswith(("Human:", "Assistant:")) else TEXT
    if isinstance(value, dict):
        return TURN if {"from", "value"} <= value.keys() else OBJECT
    if isinstance(value, list) and value:
        if all(isinstance(v, str) for v in value):
            return TEXTS
        if all(isinstance(v, dict) and "role" in v for v in value):
            return MESSAGES
        if all(isinstance(v, dict) and "from" in v for v in value):
            return TURNS
    return LIST if isinstance(value, list) else ""
