"""A generator that follows a script, and a gold reward for what it writes: answers are numbers in words."""

import dataclasses
import hashlib
import random
import re

from rmjax.records import Message, Vote
from rmjax.refine.aspects import Aspect
from rmjax.refine.edit_prompts import AnswerPrompt, EditPrompt, SteeringPrompt, WritingPrompts
from rmjax.refine.writers import Item, Written

PROMPTS = WritingPrompts(
    answer=AnswerPrompt(template="answer {question}"),
    edit=EditPrompt(template="edit {question} = {response} to be {direction} on\n{aspects}"),
    steering=SteeringPrompt(template="steer {question}: {direction}", positive="HIGH", negative="LOW"),
)
ASPECTS = (Aspect(name="size", definition="larger is better"), Aspect(name="sign", definition="plus is better"))


def gold(text):
    """The number of an answer."""
    return int(re.search(r"number (\d+)", text)[1])


@dataclasses.dataclass
class ScriptedWriter:
    """Answers 400 to 599; edits move by up to 99 in the direction asked for, and by chance where none is said.

    It reads the prompt's text alone. `slips` is the share of edits that go the wrong way; `wrap` writes an edit.
    """

    name: str = "script"
    slips: float = 0.0
    wrap: object = None
    limit: int = 10_000
    asked: list = dataclasses.field(default_factory=list)

    def fits(self, prompt):
        return len(prompt[-1].content) <= self.limit

    def write(self, asks, *, seed, path=None, label=""):
        self.asked += asks
        return [
            Written(id=a.id, index=i, text=self.text(a, i, seed), read=len(a.prompt[-1].content.split()), wrote=4)
            for a in asks
            for i in range(a.samples)
        ]

    def text(self, ask, index, seed):
        said = ask.prompt[-1].content
        rng = random.Random(hashlib.sha256(f"{seed}|{ask.id}|{index}|{said}".encode()).digest())
        if said.startswith("answer"):
            return f"the number {rng.randint(400, 599)}"
        if said.startswith("steer"):
            return f"the number {rng.randint(600, 699) if 'HIGH' in said else rng.randint(300, 399)}"
        up = {"BETTER": True, "WORSE": False, "DIFFERENT": rng.random() < 0.5}[re.search("to be ([A-Z]+)", said)[1]]
        up ^= rng.random() < self.slips
        text = f"the number {gold(said) + (1 if up else -1) * rng.randint(1, 99)}"
        return self.wrap(text) if self.wrap else f"hm <aspects>sign</aspects><response>{text}</response>"


class GoldJudge:
    """Votes for the larger number."""

    name = "gold"

    def label(self, pairs):
        choice = lambda d: "tie" if d == 0 else "first" if d > 0 else "second"
        return [Vote(item=p.id, choice=choice(gold(p.first) - gold(p.second)), by="gold") for p in pairs]


def items(n):
    return [Item(id=f"q{i}", prompt=(Message("user", f"question {i}"),), meta={"number": i}) for i in range(n)]
