"""The writer world: one small model that answers questions, edits answers in a direction and judges pairs.

Questions, answers, gold reward and the demonstrators of judging are the judge world's; those who answer, edit and
write in a direction are `editor`'s. What a model trained on all of them writes is as imperfect as they are, or more:
its skill in following a direction and in judging is what making preference data depends on.

    answer   {question}                                             {answer}
    edit     {question} A : {answer} edit {direction} {aspects} :   <response> {answer} </response>
    steered  {question} {direction} :                               <response> {answer} </response>
    judge    the judge world's prompt                               its transcripts

A writer who is asked for a better or worse answer as such (steered) picks the aspects; who edits is given them. The
direction `any` says nothing: such an edit is for better or worse by a coin.

Draws depend on (seed of the world, split, seed of the draw) alone, and a shorter draw is the beginning of a longer one.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.judging.prompts import JudgePrompt
from rmjax.records import Demonstration, Message, Messages, Preference
from rmjax.refine.aspects import Aspect
from rmjax.refine.edit_prompts import EditPrompt, SteeringPrompt, WritingPrompts
from rmjax.worlds import base_model, editor, language
from rmjax.worlds.editor import DIRECTIONS, Following
from rmjax.worlds.judge_world import JudgeWorld
from rmjax.worlds.language import Answer, Question, chance, pick

WORDS = (*language.WORDS, "edit", *DIRECTIONS, "any", "<response>", "</response>")
UNREADABLE = -1.0  # gold of a text that is no answer: worse than the worst answer
RESPONSE = r"<response>(.*?)</response>"
ASPECTS = tuple(Aspect(name=name, definition=f"the check of {name}") for name in language.ASPECTS)
PROMPTS = WritingPrompts(
    edit=EditPrompt(
        template="{question} A : {response} edit {direction} {aspects} :",
        better="better",
        worse="worse",
        unsaid="any",
        aspect="{name}",
        between=" ",
        response=RESPONSE,
        aspects="",
    ),
    steering=SteeringPrompt(
        template="{question} {direction} :", positive="better", negative="worse", response=RESPONSE
    ),
)
UNSAID = 0.25  # share of the edits whose prompt says `any`
TURN = ("judge", "edit", "edit", "answer", "judge", "edit", "edit", "steered")  # of eight demonstrations


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriterWorld:
    """Questions, writers and judges of a given skill, and the truth about any answer."""

    judging: JudgeWorld = JudgeWorld()  # questions, gold, and how the demonstrators of judging go wrong
    skill: float = 0.8  # of writers: probability that a named aspect goes in the direction
    drift: float = 0.05  # of editors: probability that an aspect that is not named is written anew
    named: tuple[int, ...] = (1, 2, 3)  # how many aspects the prompt of a demonstrated edit names, one of these
    steered: tuple[int, ...] = (1, 2, 3)  # how many a writer picks who is asked for a better or worse answer

    def __post_init__(self) -> None:
        require("world.", self, "skill", "drift", least=0, most=1)
        for name in ("named", "steered"):
            counts, most = getattr(self, name), len(language.ASPECTS)
            if not counts or not all(1 <= n <= most for n in counts):
                raise UserError(f"world.{name}={counts}: give one or more counts from 1 to {most}")

    @property
    def following(self) -> Following:
        """How the writers follow a direction."""
        return Following(skill=self.skill, drift=self.drift, right=self.judging.right)

    def prompt(self) -> JudgePrompt:
        """The judge prompt: the judge world's."""
        return self.judging.prompt()

    def gold(self, question: str, answer: str) -> float:
        """The true reward, 0 to 31, of an answer; -1 for a text that is none. UserError where there is no question."""
        asked = Question.parse(question)
        try:
            return self.judging.gold(asked.text, Answer.parse(answer).text)
        except UserError:
            return UNREADABLE

    def prompts(self, n: int, *, seed: int = 0) -> list[Messages]:
        """`n` questions to write answers to; one may come again."""
        rng = self._stream("prompts", seed)
        return [(Message("user", Question.draw(rng).text),) for _ in range(n)]

    def preferences(self, n: int, *, seed: int = 0, split: str = "train") -> list[Preference]:
        """`n` labelled pairs of the judge world: two answers of ordinary demonstrators."""
        return self.judging.preferences(n, seed=seed, split=split)

    def demonstrations(self, n: int, *, seed: int = 0) -> list[Demonstration]:
        """`n` demonstrations of the four tasks, in turns of eight; `meta` has the task and what was asked for."""
        judged = iter(self.judging.demonstrations(-(-n * TURN.count("judge") // len(TURN)) + len(TURN), seed=seed))
        rng = self._stream("writers", seed)
        out = []
        for i in range(n):
            task = TURN[i % len(TURN)]
            if task == "judge":
                found = next(judged)
                out.append(dataclasses.replace(found, id=f"{i}-judge", meta={"task": task, **found.meta}))
            else:
                out.append(self._written(task, f"{i}-{task}", rng))
        return out

    def write_base(self, path: Path | str, *, seed: int = 0) -> Path:
        """Writes the untrained decoder and the tokenizer of this world as a Hugging Face directory."""
        return base_model.write(path, config=base_model.decoder(WORDS), seed=seed, words=WORDS)

    def _stream(self, *name: object) -> random.Random:
        return random.Random("/".join(map(str, (self.judging.seed, "writer", *name))))

    def _written(self, task: str, id: str, rng: random.Random) -> Demonstration:
        question = Question.draw(rng)
        asked = (Message("user", question.text),)
        given = Answer.draw(rng, question, self.judging.right)
        if task == "answer":
            return _demonstration(id, PROMPTS.answer.render(asked), given.text, task=task)
        direction = pick(rng, DIRECTIONS)
        if task == "steered":
            named = draw_named(rng, pick(rng, self.steered))
            answer = editor.steer(question, direction, named, self.following, rng)
            prompt = PROMPTS.steering.render(asked, direction)
        else:
            named = draw_named(rng, pick(rng, self.named))
            said = None if chance(rng, UNSAID) else direction
            answer = editor.edit(question, given, direction, named, self.following, rng)
            prompt = PROMPTS.edit.render(asked, given.text, said, [a for a in ASPECTS if a.name in named])
        completion = f"<response> {answer.text} </response>"
        return _demonstration(id, prompt, completion, task=task, direction=direction, named=named, given=given.text)


def _demonstration(id: str, prompt: Messages, completion: str, **meta: object) -> Demonstration:
    return Demonstration(prompt=prompt, completion=completion, id=id, source="writer_world", meta=meta)


def draw_named(rng: random.Random, count: int) -> tuple[str, ...]:
    """`count` different aspects, uniformly, in the order of the language."""
    keys = sorted(language.ASPECTS, key=lambda _: rng.random())[:count]
    return tuple(a for a in language.ASPECTS if a in keys)
