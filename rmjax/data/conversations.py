"""Conversations in the forms in which data sets write them -> Messages."""

from __future__ import annotations

import re
from typing import Any

from rmjax.data.fields import Fields
from rmjax.decoding import show
from rmjax.records import Message, Messages

SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
HH_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):(?: |(?=\n)|\Z)")
NEMO_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def messages(fields: Fields, name: str) -> Messages:
    """A list of {"role", "content"}; content is a string, or a list of text parts."""
    value = fields.require(name)
    if not isinstance(value, list) or not value:
        fields.fail(name, f"is {show(value)}; a list of messages is expected")
    return tuple(_message(fields, f"{name}[{i}]", turn) for i, turn in enumerate(value))


def _message(fields: Fields, name: str, turn: Any) -> Message:
    if not isinstance(turn, dict):
        fields.fail(name, f"is {show(turn)}; an object with role and content is expected")
    for key, value in turn.items():
        if key not in ("role", "content") and value not in (None, [], {}, ""):
            fields.fail(name, f"has the key {key!r}, which no template here uses; take it out")
    role, content = turn.get("role"), turn.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(role, str) or not role or not isinstance(content, str):
        fields.fail(name, f"is {show(turn)}; a role and a text content are expected")
    return Message(role, content)


def prompt(fields: Fields, name: str) -> Messages:
    """A prompt: a string (one user turn) or messages that end with a turn that is not the assistant's."""
    value = fields.require(name)
    turns = (Message("user", fields.text(name)),) if isinstance(value, str) else messages(fields, name)
    return checked_prompt(fields, name, turns)


def checked_prompt(fields: Fields, name: str, turns: Messages) -> Messages:
    if not turns or not any(m.content.strip() for m in turns):
        fields.fail(name, "holds no prompt: every turn before the answer is empty")
    if turns[-1].role == "assistant":
        fields.fail(name, "gives a prompt that ends with an assistant's turn; an answer must follow a user's turn")
    return turns


def system(fields: Fields, name: str = "system") -> Messages:
    """An optional system text as a turn; none where it is absent or empty."""
    text = fields.text(name, "")
    return (Message("system", text),) if text else ()


def answer(fields: Fields, name: str, before: Messages) -> str:
    """A completion: a string, one assistant message, or a whole conversation that begins with the prompt `before`."""
    if isinstance(fields.require(name), str):
        return fields.text(name)
    turns = messages(fields, name)
    if turns[: len(before)] == before:
        turns = turns[len(before) :]
    if len(turns) != 1 or turns[0].role != "assistant":
        fields.fail(name, "is not the prompt's turns and one assistant's turn; check it against the prompt")
    return turns[0].content


def split(fields: Fields, chosen: Messages, rejected: Messages) -> tuple[Messages, str, str]:
    """Two whole conversations -> their prompt and answers.

    The prompt is every turn but the last, and must be the same in both: a turn is never split, so that answers that
    begin alike keep their beginning.
    """
    if chosen[:-1] != rejected[:-1]:
        turn = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False), 1) if a != b), "the end")
        fields.fail("rejected", f"differs from 'chosen' before the last turn (at turn {turn}); the prompts must agree")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            fields.fail(name, f"ends with a turn of {turns[-1].role!r}; the last turn must be the assistant's")
    return checked_prompt(fields, "chosen", chosen[:-1]), chosen[-1].content, rejected[-1].content


def sharegpt(fields: Fields, name: str) -> Messages:
    """A list of {"from", "value"}."""
    value = fields.require(name)
    if not isinstance(value, list) or not value:
        fields.fail(name, f"is {show(value)}; a list of turns is expected")
    return tuple(sharegpt_turn(fields, f"{name}[{i}]", turn) for i, turn in enumerate(value))


def sharegpt_turn(fields: Fields, name: str, turn: Any) -> Message:
    role = turn.get("from") if isinstance(turn, dict) else None
    if not isinstance(role, str) or role not in SHAREGPT or not isinstance(turn.get("value"), str):
        fields.fail(name, f"is {show(turn)}; 'from' ({', '.join(SHAREGPT)}) and a text 'value' are expected")
    return Message(SHAREGPT[role], turn["value"])


def hh(fields: Fields, name: str) -> Messages:
    """The text of hh-rlhf: turns that begin with "\\n\\nHuman:" and "\\n\\nAssistant:"."""
    head, *pieces = HH_TURN.split(fields.text(name))
    if not pieces or head.strip():
        fields.fail(name, 'holds no "\\n\\nHuman:" and "\\n\\nAssistant:" turns, and the row has no prompt')
    role = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(role[who], text) for who, text in zip(pieces[::2], pieces[1::2], strict=True))


def alternating(fields: Fields, name: str) -> Messages:
    """A list of turns, the last one the assistant's; a leading "Human:" or "Assistant:" is taken off."""
    turns = fields.texts(name)
    out = []
    for back, text in enumerate(reversed(turns)):
        role, label = ("assistant", "Assistant:") if back % 2 == 0 else ("user", "Human:")
        out.append(Message(role, text.strip().removeprefix(label).removeprefix(" ")))
    if not out:
        fields.fail(name, "has no turn")
    return tuple(reversed(out))


def nemo(text: str) -> Messages:
    """HelpSteer2's prompt: a user's turn, then turns that "<extra_id_1>User" and "<extra_id_1>Assistant" begin."""
    first, *pieces = NEMO_TURN.split(text)
    turns = [Message("user", first)] if first else []
    role = {"User": "user", "Assistant": "assistant"}
    return tuple(turns + [Message(role[w], t) for w, t in zip(pieces[::2], pieces[1::2], strict=True)])
