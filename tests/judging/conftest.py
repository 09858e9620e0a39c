"""A tokenizer of words and a sampler that follows a script: judges without a model."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import ClassVar

import pytest

from rmjax import jsonl
from rmjax.judging import judge as judge_module
from rmjax.judging.judge import Judge
from rmjax.judging.prompts import JudgePrompt
from rmjax.records import Message, Preference, Rollout
from rmjax.sampling.policy import Sampling

EOS = 0
PROMPT = JudgePrompt(
    template="{question} A : {answer_a} B : {answer_b} judge :",
    verdict=r"\bverdict (A|B|tie)\b",
    prefix="verdict ",
    labels=("A", "B", "tie"),
    hint="hint {verdict}",
)


class WordChat:
    """One id per word, words joined by spaces; id 0 ends."""

    eos = (EOS,)
    bos = None

    def __init__(self):
        self.words = ["<eos>"]

    def text_ids(self, text):
        for word in text.split():
            if word not in self.words:
                self.words.append(word)
        return [self.words.index(word) for word in text.split()]

    def text(self, ids):
        return " ".join(self.words[i] for i in ids if i != EOS)

    def completion_ids(self, text, *, end=True):
        return self.text_ids(text) + [EOS] * end

    def prompt_ids(self, messages, *, continue_text=""):
        return self.text_ids(" ".join(m.content for m in messages) + " " + continue_text)


class ScriptedSampler:
    """Answers requests from `script(request, index) -> text`; a text without an end mark `.` was cut by its length."""

    script: ClassVar = None
    runs: ClassVar[list] = []

    def __init__(self, model, params, chat, sampling, *, seed, quiet=False):
        self.chat, self.sampling, self.seed = chat, sampling, seed

    def run(self, requests, *, path=None, label="sampling"):
        type(self).runs.append(SimpleNamespace(requests=list(requests), sampling=self.sampling, seed=self.seed))
        out = [self.rollout(r, i) for r in requests for i in range(r.first, r.first + r.samples)]
        if path:
            jsonl.write(path, out)
            path.with_name(path.name + ".run.json").write_text("{}")
        return out

    def rollout(self, request, index):
        text = type(self).script(request, index)
        tokens = self.chat.completion_ids(text.rstrip("."), end=text.endswith("."))
        tokens = tokens[: self.sampling.max_new_tokens]
        # p(first watched id) = 0.6, the others share the rest: any distribution will do, if it is known
        rest = math.log(0.4 / max(1, len(self.sampling.watch) - 1))
        watched = tuple(math.log(0.6) if i == 0 else rest for i in range(len(self.sampling.watch)))
        return Rollout(
            id=request.id,
            index=index,
            tokens=tuple(tokens),
            logps=tuple(-0.1 * (k + 1) for k in range(len(tokens))),
            text=self.chat.text(tokens),
            finish="stop" if tokens[-1] == EOS else "length",
            watched=(watched,) * len(tokens),
        )


@pytest.fixture
def chat():
    return WordChat()


@pytest.fixture
def scripted(chat, monkeypatch):
    """(script) -> (judge, list of its sampler's runs)."""
    monkeypatch.setattr(judge_module, "Sampler", ScriptedSampler)

    def make(script, **changes):
        ScriptedSampler.script, ScriptedSampler.runs = staticmethod(script), []
        judge = Judge(None, None, chat, PROMPT, Sampling(temperature=1.0, max_new_tokens=50), seed=3)
        return dataclasses.replace(judge, **changes), ScriptedSampler.runs

    return make


@pytest.fixture
def item():
    """(id) -> a pair whose chosen answer says good and whose rejected one says bad."""
    return lambda name, **fields: Preference(
        id=name, prompt=(Message("user", f"q{name}"),), chosen="good", rejected="bad", **fields
    )
