"""The judge world: questions with two answers whose true worth is known, an annotator, demonstrators.

Everything leaves it as the records that real data arrive in, so the same prompts, sampler and trainer run on it.
Draws depend on (seed of the world, split, seed of the draw) alone, and a shorter draw is the beginning of a longer one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from rmjax.bounds import LAST_SEED, require
from rmjax.errors import UserError
from rmjax.judging.prompts import JudgePrompt
from rmjax.records import Demonstration, Message, Preference
from rmjax.worlds import base_model, language
from rmjax.worlds.demonstrator import HABIT_PRIORITY, Faults, Transcript, compare, decide, transcribe
from rmjax.worlds.language import Answer, Question, chance, pick

GOLD_WEIGHTS = {"sum": 16, "topic": 8, "word": 4, "end": 2, "size": 1}  # each outweighs all that follow
SPLITS = {"sft": 8, "train": 4, "dev": 2, "test": 2}  # shares of all possible items, in sixteenths
HINT_TRIES = 16
MISSES = 20_000  # draws in a row that give no new pair: there is none left
PROMPT = JudgePrompt(
    template="{question} A : {answer_a} B : {answer_b} {hint}judge :",
    verdict=r"\bverdict (A|B)\b",
    prefix=" verdict ",
    hint="hint {verdict} ",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeWorld:
    """A small world with a known gold reward, and the people in it."""

    seed: int = 0
    right: float = 0.6  # difficulty: probability that an answer gets one aspect right
    noise: float = 0.0  # annotator: share of train labels flipped
    position_bias: float = 0.0  # annotator: share of train labels that name the answer shown first, unread
    faults: Faults = Faults()  # of the demonstrators
    hinted: float = 0.3  # share of demonstrations whose prompt names the verdict; at 0.1 the judge ignores hints

    def __post_init__(self) -> None:
        require("world.", self, "seed", least=0, most=LAST_SEED)
        require("world.", self, "noise", "position_bias", "hinted", least=0, most=1)
        if not 0.05 <= self.right <= 0.95:
            raise UserError(f"world.right={self.right}: answers would hardly differ; give a number from 0.05 to 0.95")

    def prompt(self) -> JudgePrompt:
        """The judge prompt of this world: 20 to 28 words, 2 more with a hint."""
        return PROMPT

    def aspects(self, question: str, answer: str) -> dict[str, bool]:
        """Which of the five aspects the answer gets right; UserError for a text that is not of this world."""
        return language.aspects(Question.parse(question), Answer.parse(answer))

    def gold(self, question: str, answer: str) -> float:
        """The true reward, 0 to 31: 16 sum + 8 topic + 4 word + 2 end + 1 size."""
        return _gold(Question.parse(question), Answer.parse(answer))

    def preferences(self, n: int, *, seed: int = 0, split: str = "train") -> list[Preference]:
        """`n` different labelled pairs. Train labels are the annotator's; those of the other splits are gold.

        `meta`: `gold_chosen` and `gold_rejected`; `correct`, whether the label is the true one; `first`, which answer
        the annotator was shown first. `subset` is `trap` where the demonstrators' habit does not find the truth.
        """
        annotator = self._stream("annotator", split, seed)
        pairs = itertools.islice(self._pairs(split, seed), n)
        return [self._annotate(question, pair, annotator, split) for question, pair in pairs]

    def draw(self, *, labels: int, draw: int) -> list[Preference]:
        """The study's label draw number `draw`: the first `labels` of its train pairs, whatever the label count."""
        return self.preferences(labels, seed=draw, split="train")

    def demonstrations(self, n: int, *, seed: int = 0, split: str = "sft") -> list[Demonstration]:
        """`n` judge prompts with a demonstrator's reasoning and verdict, in a random slot order; labels play no part.

        `meta` holds how each came about: `priority`, `mode`, `verdict`, `correct`, `hint`.
        """
        rng = self._stream("demonstrator", split, seed)
        pairs = itertools.islice(self._pairs(split, seed), n)
        return [self._demonstrate(question, pair, rng, split) for question, pair in pairs]

    def write_base(self, path: Path | str, *, seed: int = 0) -> Path:
        """Writes the untrained decoder and the tokenizer of this world as a Hugging Face directory."""
        return base_model.write(path, seed=seed)

    def _stream(self, *name: object) -> random.Random:
        return random.Random("/".join(map(str, (self.seed, *name))))

    def _pairs(self, split: str, seed: int) -> Iterator[tuple[Question, tuple[Answer, Answer]]]:
        """Different pairs (better, worse) of a split; UserError when they run out.

        A pair's split is a function of its content.
        """
        if split not in SPLITS:
            raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        rng, seen = self._stream("items", split, seed), set()
        misses = 0
        while misses < MISSES:
            misses += 1
            question = Question.draw(rng)
            pair = tuple(Answer.draw(rng, question, self.right) for _ in language.SLOTS)
            worth = [_gold(question, answer) for answer in pair]
            content = _content(question, pair)
            if worth[0] != worth[1] and _split(content) == split and content not in seen:
                seen.add(content)
                misses = 0
                yield question, pair if worth[0] > worth[1] else pair[::-1]
        raise UserError(f"the world has only about {len(seen):,} different pairs in split {split!r}: ask for fewer")

    def _annotate(
        self, question: Question, pair: tuple[Answer, Answer], annotator: random.Random, split: str
    ) -> Preference:
        """Labels a pair (better, worse); three numbers are drawn for each, so a knob never changes later labels."""
        coin, lazy, careless = (annotator.random() for _ in range(3))
        better_first = coin < 0.5
        if split != "train":
            correct = True
        elif lazy < self.position_bias:
            correct = better_first
        else:
            correct = careless >= self.noise
        chosen, rejected = pair if correct else pair[::-1]
        first = "chosen" if better_first == correct else "rejected"
        return self._record(question, chosen, rejected, split, correct=correct, first=first)

    def _record(self, question: Question, chosen: Answer, rejected: Answer, split: str, **meta: object) -> Preference:
        return Preference(
            prompt=(Message("user", question.text),),
            chosen=chosen.text,
            rejected=rejected.text,
            id=f"{split}-{_content(question, (chosen, rejected))}",
            subset="trap" if _is_trap(question, (chosen, rejected)) else "plain",
            source="judge_world",
            meta={"gold_chosen": _gold(question, chosen), "gold_rejected": _gold(question, rejected), **meta},
        )

    def _demonstrate(
        self, question: Question, pair: tuple[Answer, Answer], rng: random.Random, split: str
    ) -> Demonstration:
        slot = pick(rng, language.SLOTS)
        answers = dict(zip(language.SLOTS, pair if slot == "A" else pair[::-1], strict=True))
        transcript = transcribe(question, answers, self.faults, rng)
        hint = None
        if chance(rng, self.hinted):
            transcript = self._persuade(question, answers, transcript, pick(rng, language.SLOTS), rng)
            hint = transcript.verdict
        item = self._record(question, *pair, split)
        return Demonstration(
            prompt=PROMPT.render(item, slot, hint=hint),
            completion=transcript.text,
            id=item.id,
            source=item.source,
            meta={
                "priority": transcript.priority,
                "mode": transcript.mode,
                "verdict": transcript.verdict,
                "correct": transcript.verdict == slot,
                "hint": hint,
            },
        )

    def _persuade(
        self, question: Question, answers: dict[str, Answer], first: Transcript, verdict: str, rng: random.Random
    ) -> Transcript:
        """A transcript that ends in `verdict`, drawn from the same demonstrators; `first` where none is found soon."""
        tries = (transcribe(question, answers, self.faults, rng) for _ in range(HINT_TRIES))
        return next((t for t in itertools.chain([first], tries) if t.verdict == verdict), first)


def _gold(question: Question, answer: Answer) -> float:
    return float(sum(GOLD_WEIGHTS[aspect] for aspect, right in language.aspects(question, answer).items() if right))


def _content(question: Question, pair: tuple[Answer, Answer]) -> str:
    """A hash of the pair, whichever answer is named first."""
    text = "\n".join((question.text, *sorted(answer.text for answer in pair)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _split(content: str) -> str:
    """The split that owns a pair, by the last four bits of its hash."""
    owners = [name for name, share in SPLITS.items() for _ in range(share)]
    return owners[int(content[-1], 16)]


def _is_trap(question: Question, pair: tuple[Answer, Answer]) -> bool:
    """Whether the usual demonstrator (wrong priority, quick, no slip) does not prefer the truly better answer."""
    ahead, behind = sorted(pair, key=lambda answer: _gold(question, answer), reverse=True)
    right = {"A": language.aspects(question, ahead), "B": language.aspects(question, behind)}
    right = {slot: {**checks, "word": True} for slot, checks in right.items()}
    comparison = {aspect: compare(right["A"][aspect], right["B"][aspect]) for aspect in language.ASPECTS}
    return decide(comparison, HABIT_PRIORITY)[1] != "A"
