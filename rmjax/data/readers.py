"""One function per schema: the fields of a row -> Preferences, or a Demonstration.

A column that a schema knows but a record has no place for goes to `meta`, so that nothing is lost unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rmjax.data import conversations as talk
from rmjax.data.fields import Fields
from rmjax.decoding import show
from rmjax.records import Demonstration, Message, Messages, Preference

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)


def preference(fields: Fields, prompt: Messages, chosen: str, rejected: str, **derived: Any) -> Preference:
    """A record with the optional columns of our own schema, and what nothing took in `meta`."""
    columns: dict[str, Any] = {
        "margin": fields.number("margin"),
        "weight": fields.number("weight", low=0.0),
        "prob_chosen": fields.number("prob_chosen", low=0.0, high=1.0),
        "tie": fields.flag("tie"),
        "votes": _votes(fields),
        "id": fields.name("id"),
        "subset": fields.name("subset"),
        "source": fields.name("source"),
    }
    for name, value in derived.items():
        if name != "meta" and value is not None:
            if fields.has(name):
                fields.fail(name, f"is {show(columns[name])}, but the schema's columns give {show(value)}; drop one")
            columns[name] = value
    meta = {**fields.mapping("meta"), **derived.get("meta", {}), **fields.rest()}
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, meta=meta, **columns)


def _votes(fields: Fields) -> dict[str, int] | None:
    if not fields.has("votes"):
        return None
    votes = {who: n for who, n in fields.mapping("votes").items() if n is not None}
    for who, n in votes.items():
        if who not in ("chosen", "rejected", "tie") or type(n) is not int or n < 0:
            fields.fail("votes", f"is {show(votes)}; counts of 'chosen', 'rejected' and 'tie' are expected")
    return votes


def explicit(fields: Fields) -> Iterator[Preference]:
    """`prompt`, `chosen`, `rejected`: strings or messages (our own, TRL's explicit form, RewardBench 1)."""
    turns = talk.prompt(fields, "prompt")
    yield preference(fields, turns, talk.answer(fields, "chosen", turns), talk.answer(fields, "rejected", turns))


def implicit(fields: Fields) -> Iterator[Preference]:
    """Whole conversations in `chosen` and `rejected` (TRL's implicit form, RLHFlow)."""
    yield preference(fields, *_conversations(fields))


def _conversations(fields: Fields) -> tuple[Messages, str, str]:
    return talk.split(fields, talk.messages(fields, "chosen"), talk.messages(fields, "rejected"))


def scored(fields: Fields) -> Iterator[Preference]:
    """Answers with a score each, prompt explicit or implicit (UltraFeedback-binarized, RLHFlow, argilla).

    margin = the chosen answer's score minus the rejected one's, in the scale of the data; none where both are absent.
    Equal scores tie: which answer is called chosen means nothing then.
    """
    margin = None
    for names in SCORES:
        high, low = (fields.number(name) for name in names)
        if (high is None) != (low is None):
            fields.fail(names[high is not None], "is missing, but its partner is there")
        margin = margin if high is None else high - low
    if isinstance(fields.require("chosen"), str):
        turns = talk.prompt(fields, "prompt")
        parts = (turns, fields.text("chosen"), fields.text("rejected"))
    else:
        parts = _conversations(fields)
        if fields.has("prompt") and not _same_prompt(talk.prompt(fields, "prompt"), parts[0]):
            fields.fail("prompt", "is not the prompt of the conversations in 'chosen' and 'rejected'")
    fields.take("messages")  # UltraFeedback-binarized repeats the chosen conversation there
    yield preference(fields, *parts, margin=margin, tie=True if margin == 0 else None)


def _same_prompt(given: Messages, turns: Messages) -> bool:
    return given == turns or (len(given) == 1 and given[0] in turns)


def openrlhf(fields: Fields) -> Iterator[Preference]:
    """`input`, `chosen`, `rejected`, and an optional `system` (OpenRLHF's default keys, axolotl)."""
    before = talk.system(fields)
    turns = (*before, *talk.prompt(fields, "input"))
    yield preference(fields, turns, talk.answer(fields, "chosen", turns), talk.answer(fields, "rejected", turns))


def _alpaca(fields: Fields) -> Messages:
    """`instruction`, and optional `input`, `system` and `history` (LLaMA-Factory)."""
    turns = list(talk.system(fields))
    history = fields.take("history", [])
    if not isinstance(history, list):
        fields.fail("history", f"is {show(history)}; a list of [question, answer] is expected")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            fields.fail("history", f"holds {show(pair)}; [question, answer] is expected")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    parts = [text for text in (fields.text("instruction"), fields.text("input", "")) if text]
    turns.append(Message("user", "\n".join(parts)))
    return talk.checked_prompt(fields, "instruction", tuple(turns))


def alpaca_ranking(fields: Fields) -> Iterator[Preference]:
    """LLaMA-Factory's alpaca form."""
    yield preference(fields, _alpaca(fields), fields.text("chosen"), fields.text("rejected"))


def _sharegpt(fields: Fields) -> Messages:
    if fields.take("tools"):
        fields.fail("tools", "describes tools, which no template here renders; list it in the option `ignore`")
    return (*talk.system(fields), *talk.sharegpt(fields, "conversations"))


def sharegpt_ranking(fields: Fields) -> Iterator[Preference]:
    """LLaMA-Factory's sharegpt form."""
    turns = talk.checked_prompt(fields, "conversations", _sharegpt(fields))
    answers = []
    for name in ("chosen", "rejected"):
        turn = talk.sharegpt_turn(fields, name, fields.require(name))
        if turn.role != "assistant":
            fields.fail(name, f"is a turn of {turn.role!r}; the assistant's is expected")
        answers.append(turn.content)
    yield preference(fields, turns, *answers)


def nemo(fields: Fields) -> Iterator[Preference]:
    """NeMo-RL's `context` and ranked `completions` (rank 0 is best): every two of unequal rank are a pair."""
    turns = talk.prompt(fields, "context")
    ranked = fields.require("completions")
    if not isinstance(ranked, list) or len(ranked) < 2:
        fields.fail("completions", f"is {show(ranked)}; a list of two or more is expected")
    answers = []
    for i, entry in enumerate(ranked):
        inner = Fields(f"{fields.where}: completions[{i}]", entry if isinstance(entry, dict) else {})
        rank = inner.number("rank")
        if rank is None or inner.rest().keys() - {"completion"}:
            fields.fail("completions", f"holds {show(entry)}; an object with rank and completion is expected")
        answers.append((rank, talk.answer(inner, "completion", turns)))
    name, rows = fields.name("id"), fields.rest()
    for i, (high, better) in enumerate(answers):
        for j, (low, worse) in enumerate(answers):
            if high < low:
                one = Fields(fields.where, {**rows, **({"id": f"{name}/{i}-{j}"} if name else {})})
                yield preference(one, turns, better, worse, meta={"ranks": [high, low]})


def rewardbench_2(fields: Fields) -> Iterator[Preference]:
    """RewardBench 2: lists of right and wrong answers; every right one with every wrong one, in the same subset.

    The pair's id is `id/i-j`; meta.item, meta.chosen and meta.rejected say which item and answers it came from.
    """
    turns = talk.prompt(fields, "prompt")
    right, wrong = fields.texts("chosen"), fields.texts("rejected")
    if not right or not wrong:
        fields.fail("rejected" if right else "chosen", "is an empty list")
    name, rows = fields.name("id"), fields.rest()
    for i, better in enumerate(right):
        for j, worse in enumerate(wrong):
            one = Fields(fields.where, {**rows, **({"id": f"{name}/{i}-{j}"} if name else {})})
            yield preference(one, turns, better, worse, meta={"item": name, "chosen": i, "rejected": j})


def helpsteer2(fields: Fields) -> Iterator[Preference]:
    """HelpSteer2-Preference: strength -3 (response_1 much better) .. 3 (response_2 much better)."""
    turns = talk.checked_prompt(fields, "prompt", talk.nemo(fields.text("prompt")))
    yield _strength(fields, turns, ("response_1", "response_2"), "preference_strength")


def helpsteer3(fields: Fields) -> Iterator[Preference]:
    """HelpSteer3: the same strength, in `overall_preference`, over a `context` of messages."""
    yield _strength(fields, talk.prompt(fields, "context"), ("response1", "response2"), "overall_preference")


def _strength(fields: Fields, turns: Messages, names: tuple[str, str], column: str) -> Preference:
    """margin = |strength|; strength 0 is a tie."""
    first, second = (fields.text(name) for name in names)
    fields.require(column)
    strength = fields.number(column, low=-3, high=3)
    chosen, rejected = (second, first) if strength > 0 else (first, second)
    return preference(fields, turns, chosen, rejected, margin=abs(strength), tie=True if strength == 0 else None)


def hh_rlhf(fields: Fields) -> Iterator[Preference]:
    """hh-rlhf: two texts of "Human:" and "Assistant:" turns."""
    yield preference(fields, *talk.split(fields, talk.hh(fields, "chosen"), talk.hh(fields, "rejected")))


def hh_strength(fields: Fields) -> Iterator[Preference]:
    """fnlp/hh-rlhf-strength-cleaned: lists of turns; margin = the mean preference difference (negative: flipped?)."""
    turns = talk.split(fields, talk.alternating(fields, "chosen"), talk.alternating(fields, "rejected"))
    fields.require("mean preference difference")
    yield preference(fields, *turns, margin=fields.number("mean preference difference"))


def webgpt(fields: Fields) -> Iterator[Preference]:
    """WebGPT comparisons: the answer with the higher score is chosen; margin = the difference; equal scores tie."""
    question = fields.require("question")
    text = question.get("full_text") if isinstance(question, dict) else question
    if not isinstance(text, str):
        fields.fail("question", f"is {show(question)}; a string, or an object with full_text, is expected")
    turns = talk.checked_prompt(fields, "question", (Message("user", text),))
    answers = [fields.text(f"answer_{i}") for i in (0, 1)]
    for i in (0, 1):
        fields.require(f"score_{i}")
        fields.take(f"tokens_{i}")  # ids of another tokenizer
    first, second = (fields.number(f"score_{i}") for i in (0, 1))
    chosen, rejected = answers if first >= second else answers[::-1]
    tie = True if first == second else None
    yield preference(fields, turns, chosen, rejected, margin=abs(first - second), tie=tie)


def demonstration(fields: Fields, prompt: Messages, completion: str) -> Demonstration:
    """A record with the optional columns `id`, `source` and `meta`."""
    id_, source, meta = fields.name("id"), fields.name("source"), fields.mapping("meta")
    return Demonstration(prompt=prompt, completion=completion, id=id_, source=source, meta={**meta, **fields.rest()})


def prompt_completion(fields: Fields) -> Iterator[Demonstration]:
    """`prompt` and `completion`: strings or messages (our own, TRL)."""
    turns = talk.prompt(fields, "prompt")
    yield demonstration(fields, turns, talk.answer(fields, "completion", turns))


def conversation(fields: Fields) -> Iterator[Demonstration]:
    """`messages` whose last turn, the assistant's, is the completion."""
    yield _last_turn(fields, "messages", talk.messages(fields, "messages"))


def sharegpt_conversation(fields: Fields) -> Iterator[Demonstration]:
    """LLaMA-Factory's `conversations`; the last turn is the completion."""
    yield _last_turn(fields, "conversations", _sharegpt(fields))


def _last_turn(fields: Fields, name: str, turns: Messages) -> Demonstration:
    if turns[-1].role != "assistant":
        fields.fail(name, f"ends with a turn of {turns[-1].role!r}; the last turn must be the assistant's")
    return demonstration(fields, talk.checked_prompt(fields, name, turns[:-1]), turns[-1].content)


def alpaca(fields: Fields) -> Iterator[Demonstration]:
    """`instruction`, optional `input`, and `output`."""
    yield demonstration(fields, _alpaca(fields), fields.text("output"))


def question_answer(fields: Fields) -> Iterator[Demonstration]:
    """`question` and `answer` (GSM8K)."""
    yield demonstration(fields, talk.prompt(fields, "question"), fields.text("answer"))
