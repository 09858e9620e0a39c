"""A judge as a Hugging Face directory, and back: weights, tokenizer, token contract, judge prompt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rmjax import json_file
from rmjax.errors import UserError
from rmjax.jobs.sources import ModelSource
from rmjax.judging.judge import Judge
from rmjax.judging.prompts import JudgePrompt
from rmjax.models import hf
from rmjax.sampling.policy import Sampling

FILE = "rmjax_judge.json"


def export_judge(path: Path, judge: Judge) -> None:
    """Writes the directory whole; transformers loads it as AutoModelForCausalLM."""
    chat = judge.chat

    def files(folder: Path) -> None:
        chat.save(folder)
        json_file.write(folder / FILE, {"prompt": dataclasses.asdict(judge.prompt)})

    hf.save(path, judge.model, judge.params, tokenizer=chat.tokenizer, eos=chat.eos, pad=chat.pad, files=files)


def saved_prompt(path: Path) -> JudgePrompt | None:
    """The judge prompt that an export was trained with; None for a directory that is no export."""
    file = path / FILE
    if not file.exists():
        return None
    try:
        fields = json_file.read(file)["prompt"]
        return JudgePrompt(**{**fields, "labels": tuple(fields["labels"])})
    except (KeyError, TypeError) as e:
        raise UserError(f"{file}: not a judge prompt ({e}); export the model again") from e


def load_judge(path: Path, source: ModelSource, prompt: JudgePrompt, sampling: Sampling, *, seed: int) -> Judge:
    """A judge from a directory, loaded as `source` says."""
    model, params, chat = dataclasses.replace(source, path=str(path)).load()
    return Judge(model=model, params=params, chat=chat, prompt=prompt, sampling=sampling, seed=seed)
